"""`/me`: the signed-in user, and the change of their own password; and what is not known here at all.

Source: Microsoft Graph REST API v1.0, user: get, changePassword; organization; oauth2PermissionGrant.
"""

from concurrent.futures import TimeoutError as Late

from opengallery.identity.applications import ClientSecret
from opengallery.identity.client_secrets import TooManyChecks, WrongSecret, hash_secret
from opengallery.identity.directory import list_tenants
from opengallery.identity.graph import users
from opengallery.identity.graph.call import NOTHING, Answer, GraphCall, administrator, anyone, themselves
from opengallery.identity.graph.errors import GraphError, bad_request, not_found
from opengallery.identity.graph.memberships import membership_operations
from opengallery.identity.graph.objects import show_user
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import answer_one
from opengallery.identity.users import (
    User,
    check_password,
    find_password_hash,
    find_user,
    update_user,
)

CHECK_TIMEOUT_S = 30


def find(call: GraphCall) -> User:
    """The signed-in user."""
    user = find_user(call.connection, call.tenant_id, call.principal.object_id)
    if user is None:
        raise not_found(call.principal.object_id)
    return user


def _show(call: GraphCall) -> Answer:
    return answer_one(call, "users", show_user(find(call)), users.SHOWN)


def _check_and_hash(call: GraphCall) -> tuple[str, str]:
    """The hash of the current password, once it is proved, and that of the new one."""
    new = check_password(call.body.get("newPassword"))
    current = call.text("currentPassword")
    with call.database.read() as connection:
        kept = find_password_hash(connection, call.principal.object_id)
    if kept is None:
        raise bad_request("You have no password to change; ask an administrator for one.")
    if new == current:
        raise bad_request("The new password is the current one. Choose another.")
    object_id = call.principal.object_id
    try:
        check = call.checker.submit(object_id, current, (ClientSecret(object_id, kept, None),))
        check.result(CHECK_TIMEOUT_S)
    except WrongSecret:
        raise bad_request("The current password is wrong.") from None
    except (TooManyChecks, Late) as error:
        headers = {"retry-after": str(getattr(error, "retry_after_s", 5))}
        message = "Too many passwords were wrong or are waiting to be checked. Try again later."
        raise GraphError(429, "TooManyRequests", message, headers=headers) from None
    return kept, hash_secret(new)


def _change_password(call: GraphCall) -> Answer:
    user = find(call)
    kept, hashed = call.prepared
    if find_password_hash(call.connection, user.object_id) != kept:
        raise bad_request("The password was changed in this moment. Sign in again.")
    details = {name: value for name, value in user.details.items() if name != users.FORCE_CHANGE}
    update_user(call.connection, user.object_id, password_hash=hashed, details=details)
    call.ends_access(user.object_id)
    return NOTHING


def _end_sessions(call: GraphCall) -> Answer:
    call.ends_access(find(call).object_id)
    return Answer({"@odata.context": call.context("Edm.Boolean"), "value": True})


def _organization(call: GraphCall) -> Answer:
    """The tenant, as the one organization that its principals see."""
    names = dict(list_tenants(call.connection))
    entry = {"id": call.tenant_id, "displayName": names[call.tenant_id], "verifiedDomains": []}
    return Answer({"@odata.context": call.context("organization"), "value": [entry]})


def _no_grants(call: GraphCall) -> Answer:
    return Answer({"@odata.context": call.context("oauth2PermissionGrants"), "value": []})


def _not_granted(_call: GraphCall) -> Answer:
    raise GraphError(
        501,
        "Request_UnsupportedOperation",
        "Consent to permissions is not known here: assign roles instead (az role assignment create).",
    )


OPERATIONS = [
    Operation("GET", "me", _show, themselves),
    Operation("POST", "me/changePassword", _change_password, themselves, _check_and_hash),
    Operation("POST", "me/revokeSignInSessions", _end_sessions, themselves),
    *membership_operations("me", lambda call: find(call).object_id, themselves),
    Operation("GET", "organization", _organization, anyone),
    Operation("GET", "oauth2PermissionGrants", _no_grants, anyone),
    Operation("POST", "oauth2PermissionGrants", _not_granted, administrator),
]
