"""Handling: what GET, PUT, PATCH, DELETE and POST do to a resource of any type.

Providers use these functions too, to make and delete resources in the name of who asked them
(a deployment, a scale set, a resource group's deletion).
"""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import operations, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import (
    ArmError,
    resource_group_not_found,
    resource_not_found,
    subscription_not_found,
)
from opengallery.arm.merging import merge_patch, without_null_identities
from opengallery.arm.resource_id import RESOURCE_GROUPS, ResourceId
from opengallery.arm.resource_type import ResourceType
from opengallery.arm.resources import Resource
from opengallery.arm.validation import read_resource, without_nulls
from opengallery.database import now
from opengallery.identity.directory import find_subscription


@dataclass(frozen=True)
class Answer:
    """An answer before it becomes HTTP. `operation` is launched after the transaction's commit."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    operation: operations.Operation | None = None


def view(call: Call, declared: ResourceType, resource: Resource) -> dict[str, Any]:
    """The resource as ARM answers it, with what its type computes."""
    body = resource.view()
    for name in declared.embedded:
        body["properties"][name] = [
            view_embedded(resource, name, item) for item in resource.properties.get(name, [])
        ]
    if declared.view is not None:
        body["properties"].update(declared.view(call, resource))
    return body


def view_embedded(resource: Resource, name: str, item: dict[str, Any]) -> dict[str, Any]:
    """An element of the resource's list `name` as ARM answers it: a resource of its own."""
    child = resource.id.child(name, str(item.get("name")))
    properties = {**item.get("properties", {}), "provisioningState": resource.state}
    return {
        **item,
        "id": str(child),
        "type": child.type,
        "etag": f'"{resource.etag}"',
        "properties": properties,
    }


def get(call: Call, declared: ResourceType, resource_id: ResourceId) -> Answer:
    """GET and HEAD of one resource: 200, or 404."""
    _require_place(declared, resource_id)
    call.authorize(declared.permission("read"), resource_id)
    require_scope(call, resource_id)
    found = call.get(resource_id)
    if found is None:
        raise resource_not_found(resource_id)
    return Answer(200, view(call, declared, found))


def put(
    call: Call,
    declared: ResourceType,
    resource_id: ResourceId,
    body: dict[str, Any],
    match: dict[str, str] | None = None,
    parent: str | None = None,
) -> Answer:
    """Create the resource or replace it: 201 or 200, with an operation where its type needs one.

    `parent` is the id of the operation that asks for it, if one does."""
    _require_place(declared, resource_id)
    call.authorize(declared.permission("write"), resource_id)
    call.lock(resource_id.group.key)
    require_scope(call, resource_id)
    old = resources.get(call.connection, resource_id, lock=True)
    _check_match(match or {}, old)
    if old is None:
        declared.name.check(resource_id.name, declared.type)
    _refuse_while_busy(call, resource_id, old)
    new = Resource(old.id if old else _id_to_create(call, declared, resource_id))
    if old is not None:
        new.created_at, new.created_by, new.created_by_type = (
            old.created_at,
            old.created_by,
            old.created_by_type,
        )
        new.private = dict(old.private)
    new.modified_by = call.principal.app_id or call.principal.object_id
    new.modified_at = now()
    if declared.keeps_unnamed and old is not None:
        extra = {name: value for name, value in old.extra.items() if name not in {"identity"} & body.keys()}
        body = merge_patch(
            {"location": old.location, "tags": old.tags, **extra, "properties": old.properties},
            without_nulls(body),
        )
    if old is None:
        new.created_by, new.created_at = new.modified_by, new.modified_at
    read_resource(declared, new, old, body)
    if declared.check is not None:
        declared.check(call, new, old)
    new.state = resources.SUCCEEDED
    if declared.fulfil is not None:
        new.state = resources.CREATING if old is None else resources.UPDATING
    (resources.add if old is None else resources.save)(call.connection, new)
    operation = (
        operations.begin(call, new.id, "PUT", {"parent": parent} if parent else {})
        if declared.fulfil is not None
        else None
    )
    status = declared.created_status if old is None else 200
    headers = asynchronous(call, operation, location=False) if operation else {}
    return Answer(status, view(call, declared, new), headers, operation)


def patch(
    call: Call,
    declared: ResourceType,
    resource_id: ResourceId,
    body: dict[str, Any],
    match: dict[str, str] | None = None,
) -> Answer:
    """Merge the body into the resource as it stands (a null takes a member out), then PUT that.

    Tags are replaced as a whole, as ARM does."""
    _require_place(declared, resource_id)
    call.authorize(declared.permission("write"), resource_id)
    call.lock(resource_id.group.key)
    old = resources.get(call.connection, resource_id, lock=True)
    if old is None:
        require_scope(call, resource_id)
        raise resource_not_found(resource_id)
    stored = {"location": old.location, "tags": old.tags, "properties": old.properties, **old.extra}
    changes = without_null_identities(body)
    if "tags" in changes:
        stored["tags"] = changes.pop("tags")
    return put(call, declared, resource_id, merge_patch(stored, changes), match)


def delete(
    call: Call, declared: ResourceType, resource_id: ResourceId, match: dict[str, str] | None = None
) -> Answer:
    """Delete the resource: 204 when it isn't there, 200 when done at once, 202 with an operation else.

    Work that is still under way for it is canceled."""
    _require_place(declared, resource_id)
    call.authorize(declared.permission("delete"), resource_id)
    call.lock(resource_id.group.key)
    require_scope(call, resource_id, group=False)
    old = resources.get(call.connection, resource_id, lock=True)
    _check_match(match or {}, old)
    if old is None:
        if declared.type == RESOURCE_GROUPS:
            raise resource_group_not_found(resource_id.name)
        return Answer(204)
    busy = operations.running(call.connection, old.key)
    if busy is not None and busy.verb == "DELETE":
        return Answer(202, None, asynchronous(call, busy, location=True))
    if declared.refuse_delete_with_children and next(resources.children(call.connection, old.id), None):
        raise ArmError(
            "CannotDeleteResource",
            f"Can not delete resource '{old.id.name}' before nested resources are deleted. "
            "List them, delete them, and delete it then.",
            status=409,
        )
    if declared.before_delete is not None:
        declared.before_delete(call, old)
    operations.cancel(call.connection, old.key)
    if declared.remove is None:
        resources.forget(call.connection, old.key)
        return Answer(200)
    resources.set_state(call.connection, old.key, resources.DELETING)
    operation = operations.begin(call, old.id, "DELETE")
    return Answer(202, None, asynchronous(call, operation, location=True), operation)


def act(
    call: Call, declared: ResourceType, resource_id: ResourceId, name: str, method: str, body: dict[str, Any]
) -> Answer:
    """POST of an action (or GET of a computed list) below a resource."""
    verb, action = next(
        ((verb, action) for verb, action in declared.actions.items() if verb.lower() == name.lower()),
        (name, None),
    )
    if action is None or action.method != method:
        raise ArmError(
            "InvalidResourceType" if action is None else "MethodNotAllowed",
            f"'{declared.type}' has no {method} '{name}'. It has: "
            f"{', '.join(f'{known.method} {verb}' for verb, known in declared.actions.items()) or 'none'}.",
            status=404 if action is None else 405,
        )
    _require_place(declared, resource_id)
    call.authorize(action.permission, resource_id)
    if method != "GET":
        call.lock(resource_id.group.key)
    require_scope(call, resource_id)
    found = resources.get(call.connection, resource_id, lock=method != "GET")
    if found is None:
        raise resource_not_found(resource_id)
    body = without_nulls(body)
    if action.check is not None:
        action.check(call, found, body)
    if action.run is not None:
        return Answer(200, action.run(call, found, body))
    _refuse_while_busy(call, resource_id, found)
    operation = operations.begin(call, found.id, verb, body)
    return Answer(202, None, asynchronous(call, operation, location=True), operation)


def asynchronous(call: Call, operation: operations.Operation, *, location: bool) -> dict[str, str]:
    """The headers of an answer whose work goes on: where to ask, and when to ask again (seconds)."""
    resource_id = ResourceId.parse(operation.resource_id)
    base = f"{call.base_url}/subscriptions/{resource_id.subscription}"
    if resource_id.namespace:
        base += f"/providers/{resource_id.namespace}/locations/global"
    version = call.query.get("api-version", "2024-11-01")
    headers = {
        "Azure-AsyncOperation": f"{base}/operations/{operation.id}?api-version={version}",
        "Retry-After": "1",
    }
    if location:
        headers["Location"] = f"{base}/operationResults/{operation.id}?api-version={version}"
    return headers


def require_scope(call: Call, resource_id: ResourceId, *, group: bool = True) -> None:
    """Raise 404 unless the subscription and the resource group that an id names exist."""
    name = resource_id.subscription
    subscription = (
        call.once(("subscription", name), lambda: find_subscription(call.connection, name)) if name else None
    )
    if resource_id.subscription and (
        subscription is None or subscription.tenant_id != call.principal.tenant_id
    ):
        raise subscription_not_found(resource_id.subscription)
    if (
        group
        and resource_id.resource_group
        and resource_id.namespace
        and call.known(resource_id.group) is None
    ):
        raise resource_group_not_found(resource_id.resource_group)


def worked_on_by(connection: Connection, resource: Resource) -> operations.Operation | None:
    """The unfinished operation that works on a resource: its own, or another resource's that holds it."""
    holder = operations.get(connection, resource.private["heldBy"]) if "heldBy" in resource.private else None
    if holder is not None and holder.status == operations.IN_PROGRESS:
        return holder
    return operations.running(connection, resource.key)


def _require_place(declared: ResourceType, resource_id: ResourceId) -> None:
    """Raise 404 for an id in a place where its type never is: they all lie in a resource group."""
    is_group = declared.type == RESOURCE_GROUPS
    if (
        not resource_id.subscription
        or not resource_id.resource_group
        or is_group == bool(resource_id.namespace)
    ):
        place = "" if is_group else f"/providers/{declared.type}/..."
        raise ArmError(
            "InvalidResourceId",
            f"'{resource_id}' is no id of a '{declared.type}'. "
            f"Ask for /subscriptions/{{subscription}}/resourceGroups/{{group}}{place}.",
            status=404,
        )


def _id_to_create(call: Call, declared: ResourceType, resource_id: ResourceId) -> ResourceId:
    """The id with all above its name spelled as it was created, which has to be there and to stay."""
    if declared.type == RESOURCE_GROUPS:
        return ResourceId((resource_id.subscription or "").lower(), resource_id.resource_group)
    group = call.known(resource_id.group)
    parent = call.get(resource_id.parent) if len(resource_id.types) > 1 and resource_id.parent else group
    if parent is None or group is None:
        above = resource_id.parent or resource_id
        raise ArmError(
            "ParentResourceNotFound",
            f"Can not perform requested operation on nested resource. Parent resource '{above.name}' "
            f"('{above.type}') not found. Create it first.",
            status=404,
        )
    if resources.DELETING in (group.state, parent.state):
        raise ArmError(
            "ResourceGroupBeingDeleted"
            if group.state == resources.DELETING
            else "ParentResourceBeingDeleted",
            f"'{resource_id.name}' can't be created: what it would lie in "
            f"('{group.id.name if group.state == resources.DELETING else parent.id.name}') is being deleted. "
            "Wait until that has ended.",
            status=409,
        )
    kind = declared.type if parent is group else declared.kind.rsplit("/", 1)[-1]
    return parent.id.child(kind, resource_id.name)


def _refuse_while_busy(call: Call, resource_id: ResourceId, old: Resource | None) -> None:
    busy = worked_on_by(call.connection, old) if old else None
    if busy is not None:
        raise ArmError(
            "Conflict",
            f"'{resource_id.name}' is in the middle of another operation ({busy.verb}, {busy.id}). "
            "Wait until it has ended, and send the request again.",
            status=409,
        )


def _check_match(match: dict[str, str], old: Resource | None) -> None:
    wanted, unwanted = match.get("if-match"), match.get("if-none-match")
    if (wanted is not None and not _names_etag(wanted, old)) or (
        unwanted is not None and _names_etag(unwanted, old)
    ):
        raise ArmError(
            "PreconditionFailed",
            "The resource's etag doesn't fit the condition of the request. Read the resource again, and repeat.",
            status=412,
        )


def _names_etag(condition: str, old: Resource | None) -> bool:
    """Whether a list of etags, or `*`, means the resource as it stands. RFC 9110."""
    given = {part.strip() for part in condition.split(",")}
    return old is not None and ("*" in given or f'"{old.etag}"' in given)
