"""Embedded: the elements of a resource's lists that are resources too, such as a network's subnets.

Reading, making and deleting one is reading and changing the list of the resource that holds it.
"""

from typing import Any

from opengallery.arm import handling
from opengallery.arm.call import Call
from opengallery.arm.errors import resource_not_found
from opengallery.arm.handling import Answer
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import ResourceType
from opengallery.arm.resources import Resource


def get(call: Call, holder: ResourceType, resource_id: ResourceId) -> Answer:
    """GET of an element: 200, or 404."""
    call.authorize(f"{resource_id.type}/read", resource_id)
    handling.require_scope(call, resource_id)
    return Answer(200, _shown(call, holder, resource_id))


def put(
    call: Call,
    holder: ResourceType,
    resource_id: ResourceId,
    body: dict[str, Any],
    match: dict[str, str] | None = None,
) -> Answer:
    """Add the element to the list, or replace it: 201 or 200. It takes the right to write the whole, too."""
    call.authorize(f"{resource_id.type}/write", resource_id)
    held_by, name, items = _held(call, holder, resource_id)
    element = {**body, "name": resource_id.name}
    places = [index for index, item in enumerate(items) if _is(item, resource_id)]
    if places:
        element["name"] = items[places[0]]["name"]
        items[places[0]] = element
    else:
        items.append(element)
    handling.put(call, holder, held_by.id, _whole(held_by, name, items), match)
    return Answer(200 if places else 201, _shown(call, holder, resource_id))


def delete(call: Call, holder: ResourceType, resource_id: ResourceId) -> Answer:
    """Take the element out of the list: 200, or 204 when it isn't there."""
    call.authorize(f"{resource_id.type}/delete", resource_id)
    held_by, name, items = _held(call, holder, resource_id)
    left = [item for item in items if not _is(item, resource_id)]
    if len(left) == len(items):
        return Answer(204)
    handling.put(call, holder, held_by.id, _whole(held_by, name, left))
    return Answer(200)


def _held(
    call: Call, holder: ResourceType, resource_id: ResourceId
) -> tuple[Resource, str, list[dict[str, Any]]]:
    """The resource that holds the element, the list's name, and what is in it."""
    handling.require_scope(call, resource_id)
    parent = resource_id.parent
    call.lock(resource_id.group.key)
    found = call.get(parent) if parent else None
    if found is None:
        raise resource_not_found(parent or resource_id)
    name = next(name for name in holder.embedded if name.lower() == resource_id.types[-1].lower())
    return found, name, list(found.properties.get(name, []))


def _whole(held_by: Resource, name: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        **held_by.extra,
        "location": held_by.location,
        "tags": held_by.tags,
        "properties": {**held_by.properties, name: items},
    }


def _is(item: dict[str, Any], resource_id: ResourceId) -> bool:
    return bool(item["name"].lower() == resource_id.name.lower())


def _shown(call: Call, holder: ResourceType, resource_id: ResourceId) -> dict[str, Any]:
    held_by = call.get(resource_id.parent) if resource_id.parent else None
    if held_by is not None:
        lists = handling.view(call, holder, held_by)["properties"]
        kind = resource_id.types[-1].lower()
        for item in next(items for name, items in lists.items() if name.lower() == kind):
            if _is(item, resource_id):
                return dict(item)
    raise resource_not_found(resource_id)
