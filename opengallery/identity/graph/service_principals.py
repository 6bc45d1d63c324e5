"""`/servicePrincipals`: make, show, list, change and delete what acts for applications.

Source: Microsoft Graph REST API v1.0, servicePrincipal.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func

from opengallery.identity.directory import as_id, principals
from opengallery.identity.graph.call import NOTHING, Answer, GraphCall, administrator, anyone
from opengallery.identity.graph.changes import refuse_unknown
from opengallery.identity.graph.credentials import credential_operations, replace_certificates, with_keys
from opengallery.identity.graph.errors import GraphError, bad_request, not_found
from opengallery.identity.graph.filter import (
    Property,
    collection_property,
    constant_property,
    flag_property,
    key_property,
    text_property,
)
from opengallery.identity.graph.memberships import membership_operations, reference_operations
from opengallery.identity.graph.objects import show_service_principals
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import (
    Collection,
    Shown,
    answer_count,
    answer_list,
    answer_one,
)
from opengallery.identity.graph.users import enable, refuse_self
from opengallery.identity.memberships import is_owner, owners_of
from opengallery.identity.properties import Flag, check_details
from opengallery.identity.registrations import find_registration_by_app_id, named
from opengallery.identity.service_principals import (
    APPLICATION,
    DETAILS,
    ServicePrincipal,
    create_service_principal,
    delete_service_principal,
    describe_service_principal,
    find_service_principal,
    find_service_principal_by_app_id,
    selected_service_principals,
    service_principal_of,
)
from opengallery.identity.service_principals import (
    service_principals as table,
)

SETTABLE = {*DETAILS, "accountEnabled"}
# A client that changes one of a service principal's own members sends these along, unchanged.
FOLLOWING = {"displayName", "servicePrincipalNames", "servicePrincipalType"}


def _rows(call: GraphCall, rows: Sequence[Row[Any]]) -> list[Shown]:
    return show_service_principals(call, [service_principal_of(row) for row in rows])


def _properties(call: GraphCall) -> Mapping[str, Property]:
    return {
        "id": key_property(principals.c.object_id),
        "accountEnabled": flag_property(principals.c.enabled),
        "appId": key_property(principals.c.app_id),
        "appOwnerOrganizationId": constant_property(call.tenant_id),
        "displayName": text_property(principals.c.display_name),
        "servicePrincipalNames": collection_property(
            lambda name: named(principals.c.app_id, name, call.tenant_id, with_app_id=True)
        ),
        "servicePrincipalType": text_property(func.coalesce(table.c.type, APPLICATION)),
    }


SERVICE_PRINCIPALS = Collection(
    "servicePrincipals",
    lambda call: selected_service_principals(call.tenant_id),
    principals.c.object_id,
    _properties,
    _rows,
)


def find(call: GraphCall) -> ServicePrincipal:
    """The service principal that the path names by object id or `appId='...'`. Raises `GraphError`."""
    name, _, app_id = call.key.rpartition("=")
    if name == "appid":
        found = find_service_principal_by_app_id(call.connection, call.tenant_id, app_id)
    else:
        found = find_service_principal(call.connection, call.tenant_id, call.key)
    if found is None:
        raise not_found(call.key)
    return found


def find_id(call: GraphCall) -> str:
    """Its object id."""
    return find(call).object_id


def show(call: GraphCall, found: ServicePrincipal) -> Shown:
    """One service principal; with the certificates' keys when `$select` asks for `keyCredentials`."""
    return with_keys(call, show_service_principals(call, [found])[0], found.app_id)


def _create(call: GraphCall) -> Answer:
    refuse_unknown(call.body, {*SETTABLE, "appId", "displayName"})
    app_id = call.text("appId")
    registration = find_registration_by_app_id(call.connection, call.tenant_id, app_id)
    if registration is None:
        raise bad_request(
            f"The appId '{app_id[:64]}' of the service principal does not reference a valid application object."
        )
    if find_service_principal_by_app_id(call.connection, call.tenant_id, app_id) is not None:
        raise GraphError(
            409,
            "Request_MultipleObjectsWithSameKeyValue",
            "The service principal cannot be created, updated, or restored because the service principal "
            f"name {registration.app_id} is already in use.",
        )
    is_enabled = call.body.get("accountEnabled")
    call.key = create_service_principal(
        call.connection,
        registration,
        check_details(DETAILS, call.body),
        True if is_enabled is None else Flag().check("accountEnabled", is_enabled),
    )
    return answer_one(call, "servicePrincipals", show(call, find(call)), status=201)


def _update(call: GraphCall) -> Answer:
    found = find(call)
    body = call.body
    refuse_unknown(body, {*SETTABLE, "keyCredentials", *FOLLOWING})
    now_shown = show(call, found)
    for name in FOLLOWING & body.keys():
        if body[name] != now_shown[name]:
            raise bad_request(f"'{name}' follows the application: change it there.")
    details = {**found.details, **check_details(DETAILS, body)}
    describe_service_principal(call.connection, found.object_id, found.type, details, found.created_at)
    if "accountEnabled" in body:
        enable(call, found.object_id, body["accountEnabled"])
    if "keyCredentials" in body:
        replace_certificates(call, found.app_id, body["keyCredentials"])
    return NOTHING


def _may_change_credentials(call: GraphCall) -> None:
    """Administrators, and owners of the service principal or of its application."""
    found = find(call)
    registration = find_registration_by_app_id(call.connection, call.tenant_id, found.app_id)
    owned = [found.object_id, *([registration.object_id] if registration else [])]
    if not any(is_owner(call.connection, object_id, call.principal.object_id) for object_id in owned):
        administrator(call)


def _may_update(call: GraphCall) -> None:
    """Administrators; owners too, when nothing but certificates changes."""
    if call.body and call.body.keys() <= {"keyCredentials"}:
        _may_change_credentials(call)
    else:
        administrator(call)


def _app_id(call: GraphCall) -> str:
    """The client id whose credentials change. Raises `GraphError` where there is no application."""
    found = find(call)
    if not as_id(found.app_id) or found.type != APPLICATION:
        raise bad_request("This service principal has no application, and so no credentials to change.")
    return found.app_id


def _delete(call: GraphCall) -> Answer:
    found = find(call)
    refuse_self(call, found.object_id)
    call.ends_access(found.object_id)
    delete_service_principal(call.connection, found.object_id)
    return NOTHING


ONE = "servicePrincipals/{key}"
OPERATIONS = [
    Operation(
        "GET",
        "servicePrincipals",
        lambda call: answer_list(call, SERVICE_PRINCIPALS, "servicePrincipals"),
        anyone,
    ),
    Operation("GET", "servicePrincipals/$count", lambda call: answer_count(call, SERVICE_PRINCIPALS), anyone),
    Operation("POST", "servicePrincipals", _create, administrator),
    Operation("GET", ONE, lambda call: answer_one(call, "servicePrincipals", show(call, find(call))), anyone),
    Operation("PATCH", ONE, _update, _may_update),
    Operation("DELETE", ONE, _delete, administrator),
    *credential_operations(ONE, _app_id, _may_change_credentials),
    *reference_operations(ONE, "owners", find_id, owners_of, administrator, is_owner=True),
    *membership_operations("servicePrincipals", find_id),
]
