"""ResourceType: what a resource file declares; the registry that knows them all.

A request on any resource runs through `arm/handling.py`, which asks the declaration for the model of the
properties, the rules, and what create, update and delete do. A `Route` is for the few paths that
are no resource of a type (subscriptions' locations, feature registration).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from opengallery.arm.errors import ArmError

if TYPE_CHECKING:
    from opengallery.arm.call import Call
    from opengallery.arm.operations import Work
    from opengallery.arm.resource_id import ResourceId
    from opengallery.arm.resources import Resource


Model = type[msgspec.Struct]


class Properties(msgspec.Struct, rename="camel"):
    """Base of the models of properties: Azure's camelCase names."""


class Sku(Properties):
    """The `sku` of a resource."""

    name: str | None = None
    tier: str | None = None
    capacity: int | None = None


@dataclass(frozen=True)
class Pattern:
    """What names a type accepts: a regular expression, and the same in words for the message."""

    regex: str
    words: str

    def check(self, name: str, resource_type: str) -> None:
        """Raise 400 `InvalidResourceName`... when the name doesn't fit."""
        if not re.fullmatch(self.regex, name):
            raise ArmError(
                "InvalidResourceName",
                f"The name '{name}' is no valid name for '{resource_type}': it takes {self.words}. "
                "Choose another name.",
                target="name",
            )


ANY_NAME = Pattern(
    r"[^<>%&:\\?/#\s]([^<>%&:\\?/#]{0,258}[^<>%&:\\?/#\s.])?", "1-260 characters without <>%&:\\?/#"
)


@dataclass(frozen=True)
class Action:
    """A POST below a resource: `run` answers at once, or `fulfil` does it as an operation.

    `run(call, resource, body)` returns the answer. `fulfil(work)` returns the operation's output.
    """

    permission: str
    run: "Callable[[Call, Resource, dict[str, Any]], Any] | None" = None
    fulfil: "Callable[[Work], Any] | None" = None
    check: "Callable[[Call, Resource, dict[str, Any]], None] | None" = None
    method: str = "POST"


@dataclass(frozen=True)
class ResourceType:
    """The declaration of one resource type.

    check(call, new, old)      rules beyond the model, in the transaction that writes; old is None on create
    fulfil(work)               what create and update do after the row is written, durably; None: done at once
    remove(work)               what delete does before the row goes, durably; None: done at once
    before_delete(call, it)    rules of delete; raises to refuse
    keeps_unnamed              a PUT on one that exists keeps what its body doesn't name
    verbatim                   properties in which a null is a value (a template), not an absence
    embedded                   lists in `properties` whose elements are resources too (a network's subnets)
    goes_with_parent           deleting what holds it deletes it too: nobody deletes it by itself before
    created_status             201, or what the type's clients want instead
    permitted_as               the type as its actions name it, if they spell it otherwise
    stands_for(call, id)       the id of the resource that `id` is another name of; `id` itself for most
    view(call, it)             members added to `properties` in answers (read-only, computed)
    """

    type: str
    api_versions: tuple[str, ...]
    properties: Model | None = None
    name: Pattern = ANY_NAME
    envelope: Mapping[str, Any] = field(default_factory=dict)
    located: bool = True
    immutable: frozenset[str] = frozenset()
    read_only: frozenset[str] = frozenset()
    verbatim: frozenset[str] = frozenset()
    embedded: frozenset[str] = frozenset()
    check: "Callable[[Call, Resource, Resource | None], None] | None" = None
    fulfil: "Callable[[Work], None] | None" = None
    remove: "Callable[[Work], None] | None" = None
    before_delete: "Callable[[Call, Resource], None] | None" = None
    refuse_delete_with_children: bool = False
    view: "Callable[[Call, Resource], dict[str, Any]] | None" = None
    actions: Mapping[str, Action] = field(default_factory=dict)
    keeps_unnamed: bool = False
    goes_with_parent: bool = False
    created_status: int = 201
    permitted_as: str | None = None
    stands_for: "Callable[[Call, ResourceId], ResourceId] | None" = None

    @property
    def namespace(self) -> str:
        """`Microsoft.Compute`."""
        return self.type.split("/", 1)[0]

    @property
    def kind(self) -> str:
        """The type without its namespace: `galleries/images`."""
        return self.type.split("/", 1)[1]

    def permission(self, verb: str) -> str:
        """The action that `verb` (read, write, delete) takes: `Microsoft.Compute/galleries/read`."""
        return f"{self.permitted_as or self.type}/{verb}"


@dataclass(frozen=True)
class Route:
    """A path that is no resource of a type: `/subscriptions/{subscription}/locations`.

    `run(call, parameters, body)` returns the answer's body. With `is_for_any_below`, whoever has a role
    somewhere below the scope may ask too, as for what all of a subscription may use. Without a `permission` it
    authorizes by itself, before all else: nothing has looked whether the subscription and the group are there.
    """

    method: str
    path: str
    api_versions: tuple[str, ...]
    permission: str | None
    run: "Callable[[Call, dict[str, str], dict[str, Any]], Any]"
    is_for_any_below: bool = False

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The path's parameters if this route serves it, else None. Literals match in any case."""
        if method != self.method:
            return None
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path))
        found = re.fullmatch(pattern, path.rstrip("/"), re.IGNORECASE)
        return found.groupdict() if found else None


@dataclass(frozen=True)
class ExtensionRoute:
    """A path below any scope: `{scope}/providers/Microsoft.Authorization/roleAssignments/{name}`.

    `path` is what follows the scope. `run(call, scope, parameters, body)` returns the answer's body. The scope
    is `/`, or the id of a subscription, a group or a resource; its subscription and its group are there.
    """

    method: str
    path: str
    api_versions: tuple[str, ...]
    permission: str | None
    run: "Callable[[Call, ResourceId, dict[str, str], dict[str, Any]], Any]"

    @property
    def type(self) -> str:
        """`Microsoft.Authorization/roleAssignments`."""
        return "/".join(self.path.split("/")[2:4])

    def match(self, tail: str) -> dict[str, str] | None:
        """The parameters of what follows a scope if this route serves it, else None."""
        found = _compiled(self.path).fullmatch(tail)
        return found.groupdict() if found else None


@lru_cache
def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)), re.IGNORECASE)


class Registry:
    """All resource types and routes of a server."""

    def __init__(
        self,
        types: Iterable[ResourceType],
        routes: Iterable[Route],
        extensions: Iterable[ExtensionRoute] = (),
    ) -> None:
        self._types = {declared.type.lower(): declared for declared in types}
        self.routes = tuple(routes)
        self.extensions = tuple(extensions)

    def find(self, resource_type: str) -> ResourceType | None:
        """The declaration of a type, in any case."""
        return self._types.get(resource_type.lower())

    def types(self, namespace: str | None = None) -> list[ResourceType]:
        """All types, or those of one namespace."""
        return [
            declared
            for declared in self._types.values()
            if namespace is None or declared.namespace.lower() == namespace.lower()
        ]

    def namespaces(self) -> list[str]:
        """The namespaces that have types, each once."""
        return sorted({declared.namespace for declared in self._types.values()})

    def require(self, resource_type: str, api_version: str | None) -> ResourceType:
        """The declaration of a type. Raises 404 as ARM does for an unknown namespace or type."""
        namespace, _, kind = resource_type.partition("/")
        found = self.find(resource_type)
        if found is not None:
            return found
        if not self.types(namespace):
            raise ArmError(
                "InvalidResourceNamespace",
                f"The resource namespace '{namespace}' is invalid. Known are: {', '.join(self.namespaces())}.",
                status=404,
            )
        versions = sorted(
            {version for declared in self.types(namespace) for version in declared.api_versions}
        )
        raise ArmError(
            "InvalidResourceType",
            f"The resource type '{kind}' could not be found in the namespace '{namespace}' for api version "
            f"'{api_version}'. The supported api-versions are '{','.join(versions)}'.",
            status=404,
        )


def require_api_version(api_version: str | None, supported: Iterable[str] = ()) -> None:
    """Raise 400 when the api-version is missing or malformed."""
    if not api_version:
        raise ArmError(
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests."
            + (f" Supported here: {', '.join(supported)}." if supported else ""),
        )
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(-preview|-alpha|-beta)?", api_version, re.ASCII | re.IGNORECASE):
        raise ArmError(
            "InvalidApiVersionParameter",
            f"The api-version '{api_version}' is invalid. It has the form YYYY-MM-DD or YYYY-MM-DD-preview."
            + (f" The supported versions are '{','.join(supported)}'." if supported else ""),
        )


def check_api_version(
    declared: ResourceType | Route | ExtensionRoute, api_version: str | None, location: str | None
) -> None:
    """Raise 400 when the api-version is missing, malformed, or not one of the type's."""
    require_api_version(api_version, declared.api_versions)
    if str(api_version).lower() in declared.api_versions:
        return
    if not isinstance(declared, ResourceType):
        raise ArmError(
            "InvalidApiVersionParameter",
            f"The api-version '{api_version}' is invalid. "
            f"The supported versions are '{','.join(declared.api_versions)}'.",
        )
    where = f"location '{location}' and " if location else ""
    raise ArmError(
        "NoRegisteredProviderFound",
        f"No registered resource provider found for {where}API version '{api_version}' for type "
        f"'{declared.kind}'. The supported api-versions are '{', '.join(declared.api_versions)}'.",
    )
