"""In which groups a principal is, what it owns, and who belongs to a group or owns something.

Lists of objects of several kinds, each with its `@odata.type`; a kind at the end of the path
(`/members/microsoft.graph.user`) asks for one kind alone. Changes come as references (`$ref`).
Source: Microsoft Graph REST API v1.0, directoryObject and its memberships.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, Select, select, union

from opengallery.identity.applications import applications
from opengallery.identity.directory import as_id, find_principal, principals
from opengallery.identity.graph.call import NOTHING, Answer, GraphCall, Right, anyone
from opengallery.identity.graph.changes import read_reference
from opengallery.identity.graph.errors import bad_request, not_found
from opengallery.identity.graph.filter import Property, key_property, text_property
from opengallery.identity.graph.objects import show_objects
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import Collection, answer_list
from opengallery.identity.memberships import (
    AlreadyThere,
    add_member,
    add_owner,
    all_groups_of,
    groups_of,
    owned_by,
    remove_member,
    remove_owner,
)

GROUP_IDS_MAX = 20
RESULTS_MAX = 11_000
CASTS = {
    "microsoft.graph.user": "User",
    "microsoft.graph.group": "Group",
    "microsoft.graph.servicePrincipal": "ServicePrincipal",
}

FindId = Callable[[GraphCall], str]
"""The object id of what the path names; raises `GraphError` when it isn't there."""

Ids = Callable[[str], Select[Any]]
"""A query for ids that are related to an object id."""


def _properties(_call: GraphCall) -> Mapping[str, Property]:
    return {
        "id": key_property(principals.c.object_id),
        "displayName": text_property(principals.c.display_name),
    }


def _show(call: GraphCall, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    return show_objects(call, [row.object_id for row in rows])


def _principal_rows(call: GraphCall) -> Select[Any]:
    return select(principals.c.object_id).where(principals.c.tenant_id == call.tenant_id)


PRINCIPALS = Collection("directoryObjects", _principal_rows, principals.c.object_id, _properties, _show)


def related(prefix: str, name: str, find_id: FindId, ids: Ids) -> list[Operation]:
    """The operations that list what is related to an object by `name`: all, and each kind alone."""

    def lists(path: str, *where: Any) -> Callable[[GraphCall], Answer]:
        def handle(call: GraphCall) -> Answer:
            key = find_id(call)
            shown = path.replace("{key}", key)
            return answer_list(call, PRINCIPALS, shown, [principals.c.object_id.in_(ids(key)), *where])

        return handle

    base = f"{prefix}/{name}"
    operations = [Operation("GET", base, lists(base), anyone)]
    for cast, kind in CASTS.items():
        path = f"{base}/{cast}"
        operations.append(Operation("GET", path, lists(path, principals.c.kind == kind), anyone))
    return operations


def membership_operations(collection: str, find_id: FindId, right: Right = anyone) -> list[Operation]:
    """What every principal can be asked: the groups it is in, whether it is in some, what it owns."""
    prefix = collection if collection == "me" else f"{collection}/{{key}}"

    def post(name: str, handle: Callable[[GraphCall], Answer]) -> Operation:
        return Operation("POST", f"{prefix}/{name}", handle, right, is_query=True)

    operations = [
        *related(prefix, "memberOf", find_id, groups_of),
        *related(prefix, "transitiveMemberOf", find_id, all_groups_of),
        post("checkMemberGroups", lambda call: _check(call, find_id(call), "groupIds")),
        post("checkMemberObjects", lambda call: _check(call, find_id(call), "ids")),
        post("getMemberGroups", lambda call: _all(call, find_id(call))),
        post("getMemberObjects", lambda call: _all(call, find_id(call))),
        Operation(
            "GET",
            f"{prefix}/ownedObjects",
            lambda call: _owned(call, f"{prefix}/ownedObjects", find_id(call)),
            anyone,
        ),
    ]
    if right is anyone:
        return operations
    return [Operation(entry.method, entry.path, entry.handle, right, is_query=True) for entry in operations]


def reference_operations(
    prefix: str, name: str, find_id: FindId, ids: Ids, right: Right, is_owner: bool
) -> list[Operation]:
    """The operations that list, add and remove members (or owners) of an object."""
    add, remove = (add_owner, remove_owner) if is_owner else (add_member, remove_member)

    def add_reference(call: GraphCall) -> Answer:
        key = find_id(call)
        add_principal(call, name, key, read_reference(call.body.get("@odata.id")), add)
        return NOTHING

    def remove_reference(call: GraphCall) -> Answer:
        if not remove(call.connection, find_id(call), as_id(call.other_key)):
            raise not_found(call.other_key)
        return NOTHING

    return [
        *related(prefix, name, find_id, ids),
        Operation("POST", f"{prefix}/{name}/$ref", add_reference, right),
        Operation("DELETE", f"{prefix}/{name}/{{other}}/$ref", remove_reference, right),
    ]


def add_principal(
    call: GraphCall, name: str, key: str, object_id: str, add: Callable[[Any, str, str], None]
) -> None:
    """Add a principal of the tenant to the members or owners of an object. Raises `GraphError`."""
    principal = find_principal(call.connection, object_id)
    if principal is None or principal.tenant_id != call.tenant_id:
        raise not_found(object_id)
    if add is add_owner and principal.kind == "Group":
        raise bad_request("A group can't be an owner: name a user or service principal.")
    try:
        add(call.connection, key, principal.object_id)
    except AlreadyThere as error:
        raise bad_request(
            f"One or more added object references already exist for the following modified properties: '{name}'."
        ) from error


def _check(call: GraphCall, object_id: str, name: str) -> Answer:
    """Which of the groups that the body names the principal is in, directly or not."""
    ids = call.body.get(name)
    if not isinstance(ids, list) or len(ids) > GROUP_IDS_MAX or not all(isinstance(e, str) for e in ids):
        raise bad_request(f"Give '{name}' as a list of at most {GROUP_IDS_MAX} object ids.")
    above = all_groups_of(object_id).subquery()
    wanted = [as_id(entry) for entry in ids]
    query = select(above.c.group_id).where(above.c.group_id.in_(wanted)).order_by(above.c.group_id)
    return _strings(call, list(call.connection.execute(query).scalars()))


def _all(call: GraphCall, object_id: str) -> Answer:
    """Ids of all groups that the principal is in, directly or not; all are security groups."""
    if not isinstance(call.body.get("securityEnabledOnly", False), bool):
        raise bad_request("Give 'securityEnabledOnly' as true or false.")
    above = all_groups_of(object_id).subquery()
    query = select(above.c.group_id).order_by(above.c.group_id).limit(RESULTS_MAX + 1)
    ids = list(call.connection.execute(query).scalars())
    if len(ids) > RESULTS_MAX:
        raise bad_request(f"The principal is in more than {RESULTS_MAX} groups: page through memberOf.")
    return _strings(call, ids)


def _strings(call: GraphCall, values: list[str]) -> Answer:
    return Answer({"@odata.context": call.context("Collection(Edm.String)"), "value": values})


def _owned(call: GraphCall, path: str, object_id: str) -> Answer:
    """Groups, service principals and applications that a principal owns."""
    owned = owned_by(object_id)
    everything = union(
        select(principals.c.object_id).where(principals.c.object_id.in_(owned)),
        select(applications.c.object_id).where(applications.c.object_id.in_(owned)),
    ).subquery()
    collection = Collection(
        "directoryObjects",
        lambda _call: select(everything.c.object_id),
        everything.c.object_id,
        lambda _call: {"id": key_property(everything.c.object_id)},
        _show,
    )
    return answer_list(call, collection, path.replace("{key}", object_id))
