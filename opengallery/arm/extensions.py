"""Extensions: resources that any scope may have, such as role assignments. Their ids have a second `/providers/`.

{scope}/providers/Microsoft.Authorization/roleAssignments/{name}
"""

from dataclasses import dataclass
from typing import Any

from opengallery.arm import handling
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, resource_group_not_found, resource_not_found
from opengallery.arm.handling import Answer
from opengallery.arm.resource_id import MalformedId, ResourceId
from opengallery.arm.resource_type import ExtensionRoute, Registry, check_api_version

_PROVIDERS = "/providers/"


@dataclass(frozen=True)
class Extension:
    """A route that serves a request, the text of the scope, and the parameters."""

    route: ExtensionRoute
    scope: str
    parameters: dict[str, str]


def find(registry: Registry, method: str, path: str) -> Extension | None:
    """What serves a path, None when no extension does. Raises 405 when one does by another method."""
    at = path.lower().rfind(_PROVIDERS)
    if at < 0:
        return None
    scope, tail = path[:at], path[at:]
    taken = False
    for route in registry.extensions:
        parameters = route.match(tail)
        if parameters is not None and route.method == method:
            return Extension(route, scope, parameters)
        taken |= parameters is not None
    if taken:
        raise ArmError("MethodNotAllowed", f"{method} is not for '{tail.removeprefix('/')}'.", status=405)
    return None


def answer(call: Call, extension: Extension, body: dict[str, Any], version: str | None) -> Answer:
    """Authorize at the scope, and run the route. Raises 404 for a scope that is none."""
    check_api_version(extension.route, version, None)
    scope = parse_scope(extension.scope)
    if extension.route.permission:
        call.authorize(extension.route.permission, scope)
        require_group(call, scope)
    found = extension.route.run(call, scope, extension.parameters, body)
    return found if isinstance(found, Answer) else Answer(200, found)


def parse_scope(text: str) -> ResourceId:
    """The id that a scope is, `/` (or nothing) the tenant's root. Raises 404 `InvalidResourceId`."""
    if text in ("", "/"):
        return ResourceId()
    try:
        scope = ResourceId.parse(text)
    except MalformedId:
        scope = None
    if scope is None or "providers" in {kind.lower() for kind in scope.types}:
        raise ArmError(
            "InvalidResourceId",
            f"'{text}' is no scope. Give /, or the id of a subscription, a resource group or a resource.",
            status=404,
        )
    return scope


def require_group(call: Call, scope: ResourceId) -> None:
    """Raise 404 unless the subscription and the group of a scope are there."""
    handling.require_scope(call, scope)
    if scope.resource_group and call.known(scope.group) is None:
        raise resource_group_not_found(scope.resource_group)


def existing(call: Call, scope: ResourceId) -> ResourceId:
    """A scope as it was created. Raises 404 unless it is there."""
    require_group(call, scope)
    if scope.subscription is None and scope.namespace is None:
        return scope
    if scope.resource_group is None and scope.namespace is None:
        return ResourceId(str(scope.subscription).lower())
    found = call.get(scope)
    if found is not None:
        return found.id
    holder = call.get(scope.parent) if scope.parent else None
    declared = call.registry.find(holder.id.type) if holder else None
    if holder is not None and declared is not None and scope.types:
        for name in (name for name in declared.embedded if name.lower() == scope.types[-1].lower()):
            for item in holder.properties.get(name, []):
                if item["name"].lower() == scope.name.lower():
                    return holder.id.child(name, item["name"])
    raise resource_not_found(scope)
