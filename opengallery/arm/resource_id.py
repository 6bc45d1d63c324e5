"""Resource ids: parse, format and compare. Case-insensitive in comparison, case-preserving in form.

    /subscriptions/{id}/resourceGroups/{name}/providers/{namespace}/{type}/{name}[/{type}/{name}...]

A subscription and a resource group are resources too, of the types `Microsoft.Resources/subscriptions`
and `Microsoft.Resources/resourceGroups`.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

SUBSCRIPTIONS = "Microsoft.Resources/subscriptions"
RESOURCE_GROUPS = "Microsoft.Resources/resourceGroups"


class MalformedId(ValueError):
    """The text is no resource id."""


@dataclass(frozen=True)
class ResourceId:
    """The id of one resource. Two ids are the same resource when their `key` is equal."""

    subscription: str | None = None
    resource_group: str | None = None
    namespace: str | None = None
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "ResourceId":
        """Read an id. Raises `MalformedId`."""
        return _parse(text)

    def __str__(self) -> str:
        parts = []
        if self.subscription:
            parts.append(f"/subscriptions/{self.subscription}")
        if self.resource_group:
            parts.append(f"/resourceGroups/{self.resource_group}")
        if self.namespace:
            parts.append(f"/providers/{self.namespace}")
            parts += [f"/{kind}/{name}" for kind, name in zip(self.types, self.names, strict=True)]
        return "".join(parts) or "/"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResourceId) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @cached_property
    def key(self) -> str:
        """The id in lower case: what the database and the workflows know the resource by."""
        return str(self).lower()

    @property
    def type(self) -> str:
        """`Microsoft.Compute/galleries/images`."""
        if self.namespace:
            return "/".join((self.namespace, *self.types))
        return RESOURCE_GROUPS if self.resource_group else SUBSCRIPTIONS

    @property
    def name(self) -> str:
        """The last name of the id."""
        if self.names:
            return self.names[-1]
        return self.resource_group or self.subscription or ""

    @property
    def parent(self) -> "ResourceId | None":
        """What contains it: the parent resource, then resource group, subscription, None."""
        if len(self.types) > 1:
            return ResourceId(
                self.subscription, self.resource_group, self.namespace, self.types[:-1], self.names[:-1]
            )
        if self.namespace and (self.resource_group or self.subscription):
            return ResourceId(self.subscription, self.resource_group)
        return ResourceId(self.subscription) if self.resource_group else None

    @property
    def group(self) -> "ResourceId":
        """The resource group (or, above groups, the subscription) it lies in."""
        return ResourceId(self.subscription, self.resource_group)

    def child(self, kind: str, name: str) -> "ResourceId":
        """The id of a child resource, or of a resource of type `Namespace/type` in a group."""
        if "/" in kind and not self.namespace:
            namespace, kind = kind.split("/", 1)
            return ResourceId(self.subscription, self.resource_group, namespace, (kind,), (name,))
        return ResourceId(
            self.subscription, self.resource_group, self.namespace, (*self.types, kind), (*self.names, name)
        )

    def spelled_as(self, resource_type: str) -> "ResourceId":
        """The same id with the namespace and types as `resource_type` spells them."""
        if not self.namespace:
            return self
        namespace, *types = resource_type.split("/")
        return ResourceId(self.subscription, self.resource_group, namespace, tuple(types), self.names)

    def scopes(self) -> list[str]:
        """Keys of every scope whose role assignments hold here, from `/` down to the id itself."""
        scope: ResourceId | None = self
        keys = []
        while scope is not None:
            keys.append(scope.key)
            scope = scope.parent
        return ["/", *reversed([key for key in keys if key != "/"])]


@dataclass(frozen=True)
class ResourcePath:
    """A request's path: the resource it names, and what follows it, a collection's or an action's name."""

    id: ResourceId | None
    tail: str | None

    @classmethod
    def parse(cls, segments: list[str]) -> "ResourcePath":
        """Read the segments of a path. Raises `MalformedId` when it has no resource's form."""
        if not all(is_segment(segment) for segment in segments):
            raise MalformedId("/" + "/".join(segments))
        subscription = group = None
        rest = segments
        if rest and rest[0].lower() == "subscriptions":
            if len(rest) == 1:
                return cls(None, "subscriptions")
            subscription, rest = rest[1], rest[2:]
            if rest and rest[0].lower() == "resourcegroups":
                if len(rest) == 1:
                    return cls(ResourceId(subscription), "resourceGroups")
                group, rest = rest[1], rest[2:]
        if not rest:
            return cls(ResourceId(subscription, group), None)
        if rest[0].lower() != "providers":
            if len(rest) == 1:
                return cls(ResourceId(subscription, group), rest[0])
            raise MalformedId("/" + "/".join(segments))
        if len(rest) < 3:
            raise MalformedId("/" + "/".join(segments))
        namespace, pairs = rest[1], rest[2:]
        even = len(pairs) // 2 * 2
        if even == 0:
            return cls(ResourceId(subscription, group), f"{namespace}/{pairs[0]}")
        resource = ResourceId(subscription, group, namespace, tuple(pairs[0:even:2]), tuple(pairs[1:even:2]))
        return cls(resource, pairs[even] if even < len(pairs) else None)


@lru_cache(maxsize=4096)
def _parse(text: str) -> ResourceId:
    segments = text.split("/")
    if segments[0] or len(segments) < 2:
        raise MalformedId(text)
    path = ResourcePath.parse(segments[1:])
    if path.tail is not None or path.id is None:
        raise MalformedId(text)
    return path.id


def is_segment(text: str) -> bool:
    """Whether a segment of a path can be a name: not empty, no slash, no control characters."""
    return bool(text) and "/" not in text and text.isprintable()
