"""Listing: the resources of a type, or of all, at or below a scope, page by page.

A list holds what its caller may read, and nothing in it tells of the rest: neither a resource nor the
token of the next page. Who may read nothing at or below the scope gets 403, whether or not it exists.
"""

from typing import Any

from opengallery.arm import paging, resources
from opengallery.arm.access import Assigned
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, resource_not_found
from opengallery.arm.filters import Filter
from opengallery.arm.handling import Answer, require_scope, view
from opengallery.arm.resource_id import RESOURCE_GROUPS, ResourceId
from opengallery.arm.resource_type import ResourceType
from opengallery.arm.resources import Resource

_READ_ALL = "Microsoft.Resources/subscriptions/resources/read"


def list_resources(call: Call, declared: ResourceType | None, scope: ResourceId) -> Answer:
    """One page of the resources of a type (or of all types) at or below a scope."""
    if not scope.subscription:
        raise ArmError(
            "MissingSubscription",
            "The request did not have a subscription. Ask below /subscriptions/{subscription}.",
            status=404,
        )
    assigned = call.assigned
    below = readable_below(call, assigned, declared.permission("read") if declared else _READ_ALL, scope)
    require_scope(call, scope)
    if scope.namespace and call.get(scope) is None:
        raise resource_not_found(scope)
    wanted = Filter.parse(call.option("$filter"))
    types = [declared.type] if declared else _listed_types(call, wanted)
    size = paging.page_size(call)
    after = paging.after(call)
    found: list[Resource] = []
    while len(found) <= size:
        rows = resources.page(call.connection, types, scope, after, size + 1, below)
        found += [row for row in rows if _may_read(call, row) and wanted.matches(row)]
        if len(rows) <= size:
            break
        after = rows[-1].key
    shown = found[:size]
    body: dict[str, Any] = {
        "value": [view(call, declared, one) if declared else _generic_view(call, one) for one in shown]
    }
    if len(found) > size:
        body["nextLink"] = paging.next_link(call, _collection(declared, scope), shown[-1].key)
    return Answer(200, body)


def list_embedded(call: Call, holder: ResourceType, parent: ResourceId, name: str) -> Answer:
    """The elements of a list in a resource's properties that are resources too, such as subnets."""
    call.authorize(f"{holder.type}/{name}/read", parent)
    require_scope(call, parent)
    found = call.get(parent)
    if found is None:
        raise resource_not_found(parent)
    return Answer(200, {"value": view(call, holder, found)["properties"][name]})


def _may_read(call: Call, row: Resource) -> bool:
    declared = call.registry.find(row.id.type)
    return declared is not None and call.may(declared.permission("read"), row.id)


def readable_below(call: Call, assigned: Assigned, action: str, scope: ResourceId) -> list[str] | None:
    """None when all of the scope may be read, else where to look. Raises 403 when that is nowhere."""
    below = assigned.below(scope)
    if assigned.may(action, scope):
        return None
    if not below:
        call.authorize(action, scope)
    return below


def _listed_types(call: Call, wanted: Filter) -> list[str]:
    """The types that a list of all resources shows: those that have a location, but for groups."""
    return [
        declared.type
        for declared in call.registry.types()
        if declared.located
        and declared.type != RESOURCE_GROUPS
        and (wanted.resource_type or declared.type).lower() == declared.type.lower()
    ]


def _generic_view(call: Call, resource: Resource) -> dict[str, Any]:
    """A resource in a list of all: without the properties of its type."""
    body = resource.view()
    shown = {
        **{name: value for name, value in body.items() if name not in ("properties", "etag")},
        "name": "/".join(resource.id.names),
    }
    expand = (call.option("$expand") or "").lower()
    if "provisioningstate" in expand:
        shown["provisioningState"] = resource.state
    if "createdtime" in expand:
        shown["createdTime"] = resource.created_at.isoformat()
    if "changedtime" in expand:
        shown["changedTime"] = resource.modified_at.isoformat()
    return shown


def _collection(declared: ResourceType | None, scope: ResourceId) -> str:
    """The path of the list."""
    if declared is None:
        return f"{scope}/resources"
    if declared.type == RESOURCE_GROUPS:
        return f"{scope}/resourceGroups"
    if scope.namespace:
        return f"{scope}/{declared.kind.rsplit('/', 1)[-1]}"
    return f"{scope}/providers/{declared.type}"
