"""Handling: what GET, PUT, PATCH, DELETE and POST do to a resource of any type.

Providers use these functions too, to make and delete resources in the name of who asked them
(a deployment, a scale set, a resource group's deletion).
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from opengallery.arm import operations, resources
from opengallery.arm.access import may
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, resource_not_found
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
            _embedded(resource, name, item) for item in resource.properties.get(name, [])
        ]
    if declared.view is not None:
        body["properties"].update(declared.view(call, resource))
    return body


def get(call: Call, declared: ResourceType, resource_id: ResourceId) -> Answer:
    """GET and HEAD of one resource: 200, or 404."""
    call.authorize(f"{declared.type}/read", resource_id)
    require_scope(call, resource_id)
    found = call.get(resource_id)
    if found is None:
        raise resource_not_found(resource_id.type, resource_id.name, resource_id.resource_group)
    return Answer(200, view(call, declared, found))


def get_embedded(call: Call, declared: ResourceType, resource_id: ResourceId) -> Answer:
    """GET of an element of a parent's list, such as a subnet of a virtual network."""
    call.authorize(f"{resource_id.type}/read", resource_id)
    parent = resource_id.parent
    holder = call.get(parent) if parent else None
    items = (
        view(call, declared, holder)["properties"][_spelled(declared, resource_id.types[-1])]
        if holder
        else []
    )
    for item in items:
        if item["name"].lower() == resource_id.name.lower():
            return Answer(200, item)
    raise resource_not_found(resource_id.type, resource_id.name, resource_id.resource_group)


def list_resources(call: Call, declared: ResourceType | None, scope: ResourceId) -> Answer:
    """All resources of a type (or of any) at or below a scope that the caller may read, page by page."""
    require_scope(call, scope)
    if scope.namespace and call.get(scope) is None:
        raise resource_not_found(scope.type, scope.name, scope.resource_group)
    size = _page_size(call)
    found = resources.page(
        call.connection,
        declared.type if declared else None,
        scope,
        _after(call.query.get("$skiptoken")),
        size,
    )
    value = []
    for resource in found:
        kind = declared or call.registry.find(resource.id.type)
        if kind is None or (
            declared is None and (resource.id.type == RESOURCE_GROUPS or len(resource.id.types) > 1)
        ):
            continue
        if may(call.connection, call.principal, f"{kind.type}/read", resource.id):
            value.append(view(call, kind, resource))
    body: dict[str, Any] = {"value": value}
    if len(found) == size:
        token = base64.urlsafe_b64encode(found[-1].key.encode()).decode()
        kind_path = f"/providers/{declared.namespace}/{declared.kind}" if declared else "/resources"
        path = (
            f"{scope}/{declared.kind.rsplit('/', 1)[-1]}"
            if declared and scope.namespace
            else f"{scope}{kind_path}"
        )
        if declared and declared.type == RESOURCE_GROUPS:
            path = f"{scope}/resourceGroups"
        top = f"&$top={size}" if "$top" in call.query else ""
        version = call.query.get("api-version", "")
        body["nextLink"] = f"{call.base_url}{path}?api-version={version}&$skiptoken={token}{top}"
    return Answer(200, body)


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
    call.authorize(f"{declared.type}/write", resource_id)
    require_scope(call, resource_id)
    old = call.get(resource_id)
    _check_match(match or {}, old)
    if old is None:
        declared.name.check(resource_id.name, declared.type)
        _require_parent(call, resource_id)
    _refuse_while_busy(call, resource_id, old)
    new = Resource(old.id if old else resource_id)
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
        body = _merge_patch(
            {"location": old.location, "tags": old.tags, **old.extra, "properties": old.properties}, body
        )
    if old is None:
        new.created_by, new.created_at = new.modified_by, new.modified_at
    read_resource(declared, new, old, body)
    if declared.check is not None:
        declared.check(call, new, old)
    new.state = resources.SUCCEEDED
    if declared.fulfil is not None:
        new.state = resources.CREATING if old is None else resources.UPDATING
    resources.save(call.connection, new)
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
    """Merge the body into the resource as it stands (a null takes a tag or member out), then PUT that."""
    call.authorize(f"{declared.type}/write", resource_id)
    old = call.get(resource_id)
    if old is None:
        require_scope(call, resource_id)
        raise resource_not_found(resource_id.type, resource_id.name, resource_id.resource_group)
    stored = {"location": old.location, "tags": old.tags, "properties": old.properties, **old.extra}
    changes = dict(body)
    if "tags" in changes:
        stored["tags"] = changes.pop("tags")
    return put(call, declared, resource_id, _merge_patch(stored, changes), match)


def delete(
    call: Call, declared: ResourceType, resource_id: ResourceId, match: dict[str, str] | None = None
) -> Answer:
    """Delete the resource: 204 when it isn't there, 200 when done at once, 202 with an operation else.

    Work that is still under way for it is canceled."""
    call.authorize(f"{declared.type}/delete", resource_id)
    require_scope(call, resource_id, group=False)
    old = call.get(resource_id)
    _check_match(match or {}, old)
    if old is None:
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
    if declared.remove is None:
        resources.forget(call.connection, old.key)
        return Answer(200)
    operations.cancel(call.connection, old.key)
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
    call.authorize(action.permission, resource_id)
    require_scope(call, resource_id)
    found = call.get(resource_id)
    if found is None:
        raise resource_not_found(resource_id.type, resource_id.name, resource_id.resource_group)
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
    subscription = (
        find_subscription(call.connection, resource_id.subscription) if resource_id.subscription else None
    )
    if resource_id.subscription and (
        subscription is None or subscription.tenant_id != call.principal.tenant_id
    ):
        raise ArmError(
            "SubscriptionNotFound",
            f"The subscription '{resource_id.subscription}' could not be found. "
            "List yours by 'az account list' and choose one by 'az account set'.",
            status=404,
        )
    if group and resource_id.resource_group and resource_id.namespace and call.get(resource_id.group) is None:
        raise ArmError(
            "ResourceGroupNotFound",
            f"Resource group '{resource_id.resource_group}' could not be found. "
            f"Create it first: az group create -n {resource_id.resource_group} -l LOCATION.",
            status=404,
        )


def _require_parent(call: Call, resource_id: ResourceId) -> None:
    parent = resource_id.parent
    if len(resource_id.types) > 1 and parent is not None and call.get(parent) is None:
        raise ArmError(
            "ParentResourceNotFound",
            f"Can not perform requested operation on nested resource. Parent resource '{parent.name}' "
            f"('{parent.type}') not found. Create it first.",
            status=404,
        )


def _refuse_while_busy(call: Call, resource_id: ResourceId, old: Resource | None) -> None:
    busy = operations.running(call.connection, resource_id.key) if old else None
    if busy is not None:
        raise ArmError(
            "Conflict",
            f"'{resource_id.name}' is in the middle of another operation ({busy.verb}, {busy.id}). "
            "Wait until it has ended, and send the request again.",
            status=409,
        )


def _check_match(match: dict[str, str], old: Resource | None) -> None:
    etag = f'"{old.etag}"' if old else None
    wanted, unwanted = match.get("if-match"), match.get("if-none-match")
    if (wanted and (etag is None or wanted not in ("*", etag))) or (
        unwanted and etag is not None and unwanted in ("*", etag)
    ):
        raise ArmError(
            "PreconditionFailed",
            "The resource's etag doesn't fit the condition of the request. Read the resource again, and repeat.",
            status=412,
        )


def _embedded(resource: Resource, name: str, item: dict[str, Any]) -> dict[str, Any]:
    child = resource.id.child(name, str(item.get("name")))
    properties = {**item.get("properties", {}), "provisioningState": resource.state}
    return {
        **item,
        "id": str(child),
        "type": child.type,
        "etag": f'"{resource.etag}"',
        "properties": properties,
    }


def _spelled(declared: ResourceType, kind: str) -> str:
    return next(name for name in declared.embedded if name.lower() == kind.lower())


def _merge_patch(stored: Any, changes: Any) -> Any:
    """RFC 7396."""
    if not isinstance(changes, dict) or not isinstance(stored, dict):
        return changes
    result = dict(stored)
    for name, value in changes.items():
        result[name] = None if value is None else _merge_patch(stored.get(name, {}), value)
    return result


def _page_size(call: Call) -> int:
    limit = call.services.settings.page_size
    top = call.query.get("$top")
    if top is None:
        return limit
    if not top.isdigit() or int(top) == 0:
        raise ArmError("InvalidParameter", f"$top is '{top}'. Give a number from 1 on.", target="$top")
    return min(int(top), limit)


def _after(token: str | None) -> str:
    if not token:
        return ""
    try:
        return base64.urlsafe_b64decode(token.encode()).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise ArmError(
            "InvalidSkipToken", "The $skiptoken is none of ours. Start again without it.", target="$skiptoken"
        ) from error
