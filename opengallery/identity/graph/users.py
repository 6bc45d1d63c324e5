"""`/users`: create, show, list, change and delete users.

As on Azure, a user shows a few properties unless `$select` asks for more, and never a password.
Source: Microsoft Graph REST API v1.0, user.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, update

from opengallery.identity.client_secrets import hash_secret
from opengallery.identity.directory import delete_principal, principals, set_enabled
from opengallery.identity.graph.call import NOTHING, Answer, GraphCall, administrator, anyone
from opengallery.identity.graph.changes import refuse_unknown, require
from opengallery.identity.graph.errors import bad_request, denied, not_found
from opengallery.identity.graph.filter import (
    Property,
    flag_property,
    key_property,
    text_property,
)
from opengallery.identity.graph.memberships import membership_operations
from opengallery.identity.graph.objects import show_user
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import Collection, Shown, answer_count, answer_list, answer_one
from opengallery.identity.properties import Flag, check_details, check_display_name
from opengallery.identity.users import (
    DETAILS,
    User,
    check_password,
    create_user,
    find_user,
    name_key,
    selected_users,
    update_user,
    user_of,
)
from opengallery.identity.users import users as table

FORCE_CHANGE = "forceChangePasswordNextSignIn"
"""In a user's details: whether the next sign-in must choose another password."""

PROFILE = {"password", FORCE_CHANGE, "forceChangePasswordNextSignInWithMfa"}
SETTABLE = {*DETAILS, "accountEnabled", "displayName", "passwordProfile", "userPrincipalName"}
SHOWN = frozenset(
    {
        "businessPhones", "displayName", "givenName", "id", "jobTitle", "mail", "mobilePhone",
        "officeLocation", "preferredLanguage", "surname", "userPrincipalName",
    }
)  # fmt: skip


def _rows(call: GraphCall, rows: Sequence[Row[Any]]) -> list[Shown]:
    return [show_user(user_of(row)) for row in rows]


def _properties(_call: GraphCall) -> Mapping[str, Property]:
    details = ("givenName", "surname", "jobTitle", "mail", "mailNickname", "department", "employeeId")
    return {
        "id": key_property(principals.c.object_id),
        "accountEnabled": flag_property(principals.c.enabled),
        "displayName": text_property(principals.c.display_name),
        "userPrincipalName": key_property(table.c.user_principal_name_key, name_key),
        **{name: text_property(table.c.details[name].as_string()) for name in details},
    }


USERS = Collection(
    "users",
    lambda call: selected_users(call.tenant_id),
    principals.c.object_id,
    _properties,
    _rows,
    SHOWN,
)


def find(call: GraphCall) -> User:
    """The user that the path names by object id or user principal name. Raises `GraphError`."""
    user = find_user(call.connection, call.tenant_id, call.key)
    if user is None:
        raise not_found(call.key)
    return user


def _create(call: GraphCall) -> Answer:
    body = call.body
    refuse_unknown(body, SETTABLE)
    require(body, "accountEnabled", "displayName", "mailNickname", "passwordProfile", "userPrincipalName")
    object_id = create_user(
        call.connection,
        call.tenant_id,
        body["userPrincipalName"],
        check_display_name(body["displayName"]),
        call.prepared,
        check_details(DETAILS, body) | _force_change(body),
        Flag().check("accountEnabled", body["accountEnabled"]),
    )
    call.key = object_id
    return answer_one(call, "users", show_user(find(call)), SHOWN, 201)


def _update(call: GraphCall) -> Answer:
    body = call.body
    refuse_unknown(body, SETTABLE)
    user = find(call)
    for name in ("accountEnabled", "displayName", "passwordProfile", "userPrincipalName"):
        if name in body:
            require(body, name)
    if "displayName" in body:
        name = check_display_name(body["displayName"])
        renamed = update(principals).where(principals.c.object_id == user.object_id)
        call.connection.execute(renamed.values(display_name=name))
    details = {**user.details, **check_details(DETAILS, body), **_force_change(body)}
    update_user(call.connection, user.object_id, body.get("userPrincipalName"), call.prepared, details)
    if "accountEnabled" in body:
        enable(call, user.object_id, body["accountEnabled"])
    if call.prepared is not None:
        call.ends_access(user.object_id)
    call.changed.append(user.object_id)
    return NOTHING


def enable(call: GraphCall, object_id: str, value: Any) -> None:
    """Let a principal act, or not; nobody shuts themselves out. Raises `GraphError`."""
    is_enabled = Flag().check("accountEnabled", value)
    if not is_enabled and object_id == call.principal.object_id:
        raise denied("You can't disable yourself; another administrator can.")
    set_enabled(call.connection, object_id, is_enabled)
    if not is_enabled:
        call.ends_access(object_id)
    call.changed.append(object_id)


def refuse_self(call: GraphCall, object_id: str) -> None:
    """Raise `GraphError` when the caller would delete themselves: so one administrator stays."""
    if object_id == call.principal.object_id:
        raise denied("You can't delete yourself; another administrator can.")


def _delete(call: GraphCall) -> Answer:
    user = find(call)
    refuse_self(call, user.object_id)
    call.ends_access(user.object_id)
    delete_principal(call.connection, user.object_id)
    return NOTHING


def _hash_password(call: GraphCall) -> str | None:
    """The hash of the password in the body, `None` when there is none. Raises `InvalidValue`."""
    profile = call.body.get("passwordProfile")
    if profile is None:
        return None
    if not isinstance(profile, dict):
        raise bad_request("Give passwordProfile as an object with a password.")
    refuse_unknown(profile, PROFILE)
    return hash_secret(check_password(profile["password"])) if "password" in profile else None


def _hash_first_password(call: GraphCall) -> str:
    """The hash of a new user's password. Raises `GraphError`, `InvalidValue`."""
    hashed = _hash_password(call)
    if hashed is None:
        raise bad_request("A new user needs a passwordProfile with a password.")
    return hashed


def _force_change(body: Mapping[str, Any]) -> dict[str, Any]:
    value = (body.get("passwordProfile") or {}).get(FORCE_CHANGE)
    return {} if value is None else {FORCE_CHANGE: Flag().check(FORCE_CHANGE, value)}


def _end_sessions(call: GraphCall) -> Answer:
    call.ends_access(find(call).object_id)
    return Answer({"@odata.context": call.context("Edm.Boolean"), "value": True})


OPERATIONS = [
    Operation("GET", "users", lambda call: answer_list(call, USERS, "users"), anyone),
    Operation("GET", "users/$count", lambda call: answer_count(call, USERS), anyone),
    Operation("POST", "users", _create, administrator, _hash_first_password),
    Operation(
        "GET", "users/{key}", lambda call: answer_one(call, "users", show_user(find(call)), SHOWN), anyone
    ),
    Operation("PATCH", "users/{key}", _update, administrator, _hash_password),
    Operation("DELETE", "users/{key}", _delete, administrator),
    Operation("POST", "users/{key}/revokeSignInSessions", _end_sessions, administrator),
    *membership_operations("users", lambda call: find(call).object_id),
]
