"""Names of operations: `PUT .../galleries/one` is `Microsoft.Compute/galleries/write` over that gallery.

For any request, one that is refused or has no sense too: the activity log names them all. Nothing here looks
whether a resource exists.
"""

from dataclasses import dataclass

from opengallery.arm.resource_id import RESOURCE_GROUPS, MalformedId, ResourceId, ResourcePath
from opengallery.arm.resource_type import Registry

_SUFFIXES = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}
UNKNOWN = "Microsoft.Resources/unknown"


@dataclass(frozen=True)
class Named:
    """What a request is about. `subscription` is the one that its path names, whether or not it exists."""

    operation: str
    scope: str
    subscription: str | None


def of_resource(resource_id: ResourceId, method: str) -> Named:
    """The operation of a method on a resource."""
    operation = f"{resource_id.type}/{_suffix(method)}"
    return Named(operation, str(resource_id), resource_id.subscription)


def of_request(registry: Registry, method: str, segments: list[str]) -> Named:
    """The operation that a request's path and method mean."""
    path = "/" + "/".join(segments)
    is_below = len(segments) > 1 and segments[0].lower() == "subscriptions"
    subscription = segments[1] if is_below else None
    try:
        found = ResourcePath.parse(segments)
    except MalformedId:
        return Named(f"{UNKNOWN}/{_suffix(method)}", path, subscription)
    scope = found.id or ResourceId()
    if scope.key == "/" and found.tail and "/" not in found.tail:
        known = found.tail.lower() in ("subscriptions", "tenants")
        kind = f"Microsoft.Resources/{found.tail.lower()}" if known else UNKNOWN
        return Named(f"{kind}/{_suffix(method)}", path, subscription)
    operation = _operation(registry, method, scope, found.tail)
    verb = "GET" if method == "HEAD" else method
    for route in registry.routes:
        if route.permission and route.match(verb, path) is not None:
            operation = route.permission
    return Named(operation, str(scope), subscription)


def _operation(registry: Registry, method: str, scope: ResourceId, tail: str | None) -> str:
    resource_type = _spelled(registry, _type(scope))
    if tail is None:
        return f"{resource_type}/{_suffix(method)}"
    if tail.lower() == "resourcegroups":
        return f"{RESOURCE_GROUPS}/{_suffix(method)}"
    if "/" in tail:
        return f"{_spelled(registry, tail)}/{_suffix(method)}"
    owner = registry.find(resource_type)
    for verb, action in owner.actions.items() if owner else ():
        if verb.lower() == tail.lower():
            return action.permission
    kind = f"{resource_type}/{tail}"
    return f"{kind}/action" if method == "POST" else f"{_spelled(registry, kind)}/{_suffix(method)}"


def _type(scope: ResourceId) -> str:
    """The type of a resource; of one that lies on another, which stands behind the last `providers`, its own."""
    kinds = [kind.lower() for kind in scope.types]
    if "providers" not in kinds:
        return scope.type
    last = len(kinds) - 1 - kinds[::-1].index("providers")
    return "/".join((scope.names[last], *scope.types[last + 1 :]))


def _spelled(registry: Registry, resource_type: str) -> str:
    """The type as it is declared; as it was asked for, if it isn't."""
    declared = registry.find(resource_type)
    return declared.type if declared else resource_type


def _suffix(method: str) -> str:
    return _SUFFIXES.get(method, "action")
