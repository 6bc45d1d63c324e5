"""`/groups`: create, show, list, change and delete groups, their members and owners.

All groups are security groups with members that are put in; an owner may change the members.
Source: Microsoft Graph REST API v1.0, group.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, update

from opengallery.identity.directory import principals
from opengallery.identity.graph.call import (
    NOTHING,
    Answer,
    GraphCall,
    administrator,
    administrator_or_owner,
    anyone,
)
from opengallery.identity.graph.changes import read_bound, refuse_unknown, require
from opengallery.identity.graph.errors import bad_request, not_found
from opengallery.identity.graph.filter import (
    Property,
    constant_property,
    key_property,
    text_property,
)
from opengallery.identity.graph.memberships import (
    add_principal,
    membership_operations,
    reference_operations,
    related,
)
from opengallery.identity.graph.objects import show_group
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import Collection, Shown, answer_count, answer_list, answer_one
from opengallery.identity.groups import (
    DETAILS,
    Group,
    create_group,
    delete_group,
    find_group,
    group_of,
    selected_groups,
    update_group,
)
from opengallery.identity.groups import groups as table
from opengallery.identity.memberships import (
    add_member,
    add_owner,
    all_members_of,
    members_of,
    owners_of,
)
from opengallery.identity.properties import check_details, check_display_name

# What a group always is: only so it may be asked for.
FIXED: Mapping[str, Any] = {"groupTypes": [], "mailEnabled": False, "securityEnabled": True}
BOUND = {"members@odata.bind", "owners@odata.bind"}
SETTABLE = {*DETAILS, *FIXED, *BOUND, "displayName"}


def _rows(_call: GraphCall, rows: Sequence[Row[Any]]) -> list[Shown]:
    return [show_group(group_of(row)) for row in rows]


def _properties(_call: GraphCall) -> Mapping[str, Property]:
    return {
        "id": key_property(principals.c.object_id),
        "displayName": text_property(principals.c.display_name),
        "description": text_property(table.c.details["description"].as_string()),
        "mailNickname": text_property(table.c.details["mailNickname"].as_string()),
        "mailEnabled": constant_property(False),
        "securityEnabled": constant_property(True),
    }


GROUPS = Collection(
    "groups", lambda call: selected_groups(call.tenant_id), principals.c.object_id, _properties, _rows
)


def find(call: GraphCall) -> Group:
    """The group that the path names. Raises `GraphError`."""
    group = find_group(call.connection, call.tenant_id, call.key)
    if group is None:
        raise not_found(call.key)
    return group


def find_id(call: GraphCall) -> str:
    """Its object id."""
    return find(call).object_id


def _create(call: GraphCall) -> Answer:
    _check_body(call.body)
    require(call.body, "displayName", "mailEnabled", "mailNickname", "securityEnabled")
    name = check_display_name(call.body["displayName"])
    object_id = create_group(call.connection, call.tenant_id, name, check_details(DETAILS, call.body))
    _bind(call, object_id)
    call.key = object_id
    return answer_one(call, "groups", show_group(find(call)), status=201)


def _update(call: GraphCall) -> Answer:
    group = find(call)
    _check_body(call.body)
    if "displayName" in call.body:
        name = check_display_name(call.body["displayName"])
        renamed = update(principals).where(principals.c.object_id == group.object_id)
        call.connection.execute(renamed.values(display_name=name))
    update_group(call.connection, group.object_id, {**group.details, **check_details(DETAILS, call.body)})
    _bind(call, group.object_id)
    return NOTHING


def _may_update(call: GraphCall) -> None:
    """Administrators; owners too, when nothing but members is added."""
    if call.body and call.body.keys() <= {"members@odata.bind"}:
        administrator_or_owner(call)
    else:
        administrator(call)


def _delete(call: GraphCall) -> Answer:
    delete_group(call.connection, find_id(call))
    return NOTHING


def _check_body(body: Mapping[str, Any]) -> None:
    refuse_unknown(body, SETTABLE)
    for name, value in FIXED.items():
        if name in body and body[name] != value:
            raise bad_request(
                f"Only security groups are known here: give '{name}' as {str(value).lower()} or leave it out."
            )


def _bind(call: GraphCall, object_id: str) -> None:
    for member_id in read_bound(call.body, "members"):
        add_principal(call, "members", object_id, member_id, add_member)
    for owner_id in read_bound(call.body, "owners"):
        add_principal(call, "owners", object_id, owner_id, add_owner)


ONE = "groups/{key}"
OPERATIONS = [
    Operation("GET", "groups", lambda call: answer_list(call, GROUPS, "groups"), anyone),
    Operation("GET", "groups/$count", lambda call: answer_count(call, GROUPS), anyone),
    Operation("POST", "groups", _create, administrator),
    Operation("GET", ONE, lambda call: answer_one(call, "groups", show_group(find(call))), anyone),
    Operation("PATCH", ONE, _update, _may_update),
    Operation("DELETE", ONE, _delete, administrator),
    *reference_operations(ONE, "members", find_id, members_of, administrator_or_owner, is_owner=False),
    *related(ONE, "transitiveMembers", find_id, all_members_of),
    *reference_operations(ONE, "owners", find_id, owners_of, administrator, is_owner=True),
    *membership_operations("groups", find_id),
]
