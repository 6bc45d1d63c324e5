"""`/applications`: register, show, list, change and delete applications; their credentials and owners.

An owner may change the credentials. Federated credentials and consent are not known here, and say so.
Source: Microsoft Graph REST API v1.0, application.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from opengallery.identity.applications import applications as table
from opengallery.identity.directory import as_id
from opengallery.identity.graph.call import (
    NOTHING,
    Answer,
    GraphCall,
    administrator,
    administrator_or_owner,
    anyone,
)
from opengallery.identity.graph.changes import refuse_unknown, require
from opengallery.identity.graph.credentials import credential_operations, replace_certificates, with_keys
from opengallery.identity.graph.errors import GraphError, not_found
from opengallery.identity.graph.filter import (
    Property,
    collection_property,
    constant_property,
    key_property,
    text_property,
)
from opengallery.identity.graph.memberships import reference_operations
from opengallery.identity.graph.objects import show_applications
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import (
    Collection,
    Shown,
    answer_count,
    answer_list,
    answer_one,
)
from opengallery.identity.memberships import owners_of
from opengallery.identity.properties import Texts, check_details, check_display_name
from opengallery.identity.registrations import (
    DETAILS,
    URI_LENGTH_MAX,
    URIS_MAX,
    Registration,
    create_registration,
    delete_registration,
    find_registration,
    find_registration_by_app_id,
    named,
    registration_of,
    selected_registrations,
    set_identifier_uris,
    update_registration,
)

SETTABLE = {*DETAILS, "displayName", "identifierUris", "keyCredentials"}
URIS = Texts(URIS_MAX, URI_LENGTH_MAX)


def _rows(call: GraphCall, rows: Sequence[Row[Any]]) -> list[Shown]:
    return show_applications(call, [registration_of(row) for row in rows])


def _properties(call: GraphCall) -> Mapping[str, Property]:
    return {
        "id": key_property(table.c.object_id),
        "appId": key_property(table.c.app_id),
        "displayName": text_property(table.c.display_name),
        "identifierUris": collection_property(
            lambda uri: named(table.c.app_id, uri, call.tenant_id, with_app_id=False)
        ),
        "signInAudience": constant_property("AzureADMyOrg"),
    }


APPLICATIONS = Collection(
    "applications",
    lambda call: selected_registrations(call.tenant_id),
    table.c.object_id,
    _properties,
    _rows,
)


def find(call: GraphCall) -> Registration:
    """The application that the path names by object id or `appId='...'`. Raises `GraphError`."""
    name, _, app_id = call.key.rpartition("=")
    if name == "appid":
        found = find_registration_by_app_id(call.connection, call.tenant_id, app_id)
    else:
        found = find_registration(call.connection, call.tenant_id, call.key)
    if found is None:
        raise not_found(call.key)
    return found


def find_id(call: GraphCall) -> str:
    """Its object id."""
    return find(call).object_id


def show(call: GraphCall, found: Registration) -> Shown:
    """One application; with the certificates' public keys when `$select` asks for `keyCredentials`."""
    return with_keys(call, show_applications(call, [found])[0], found.app_id)


def _create(call: GraphCall) -> Answer:
    _check_body(call.body)
    require(call.body, "displayName")
    made = create_registration(
        call.connection,
        call.tenant_id,
        check_display_name(call.body["displayName"]),
        check_details(DETAILS, call.body),
        URIS.check("identifierUris", call.body.get("identifierUris", [])),
    )
    replace_certificates(call, made.app_id, call.body.get("keyCredentials", []))
    return answer_one(call, "applications", show(call, made), status=201)


def _update(call: GraphCall) -> Answer:
    found = find(call)
    _check_body(call.body)
    name = found.display_name
    if "displayName" in call.body:
        name = check_display_name(call.body["displayName"])
    update_registration(call.connection, found, name, {**found.details, **check_details(DETAILS, call.body)})
    if "identifierUris" in call.body:
        uris = URIS.check("identifierUris", call.body["identifierUris"])
        set_identifier_uris(call.connection, found, uris)
    if "keyCredentials" in call.body:
        replace_certificates(call, found.app_id, call.body["keyCredentials"])
    return NOTHING


def _may_update(call: GraphCall) -> None:
    """Administrators; owners too, when nothing but certificates changes."""
    if call.body and call.body.keys() <= {"keyCredentials"}:
        _may_change_credentials(call)
    else:
        administrator(call)


def _may_change_credentials(call: GraphCall) -> None:
    """Administrators and owners, also when the path names the application by its client id."""
    if not as_id(call.key):
        call.key = find(call).object_id
    administrator_or_owner(call)


def _delete(call: GraphCall) -> Answer:
    found = find(call)
    if found.app_id == call.principal.app_id:
        raise GraphError(
            403,
            "Authorization_RequestDenied",
            "You can't delete the application that you are signed in as; another administrator can.",
        )
    for object_id in delete_registration(call.connection, found):
        call.ends_access(object_id)
    return NOTHING


def _check_body(body: Mapping[str, Any]) -> None:
    if body.get("passwordCredentials"):
        raise GraphError(
            400,
            "Request_BadRequest",
            "Secrets can't be set as passwordCredentials: use addPassword and removePassword.",
        )
    refuse_unknown(body, {*SETTABLE, "passwordCredentials"})


def _not_federated(_call: GraphCall) -> Answer:
    raise GraphError(
        501,
        "Request_UnsupportedOperation",
        "Federated identity credentials are not supported here. Use a client secret or a certificate.",
    )


def _no_federated(call: GraphCall) -> Answer:
    find(call)
    return Answer({"@odata.context": call.context("federatedIdentityCredentials"), "value": []})


def _no_federated_one(call: GraphCall) -> Answer:
    find(call)
    raise not_found(call.other_key)


ONE = "applications/{key}"
FEDERATED = f"{ONE}/federatedIdentityCredentials"
OPERATIONS = [
    Operation("GET", "applications", lambda call: answer_list(call, APPLICATIONS, "applications"), anyone),
    Operation("GET", "applications/$count", lambda call: answer_count(call, APPLICATIONS), anyone),
    Operation("POST", "applications", _create, administrator),
    Operation("GET", ONE, lambda call: answer_one(call, "applications", show(call, find(call))), anyone),
    Operation("PATCH", ONE, _update, _may_update),
    Operation("DELETE", ONE, _delete, administrator),
    *credential_operations(ONE, lambda call: find(call).app_id, _may_change_credentials),
    Operation("GET", FEDERATED, _no_federated, anyone),
    Operation("POST", FEDERATED, _not_federated, administrator),
    Operation("GET", f"{FEDERATED}/{{other}}", _no_federated_one, anyone),
    Operation("PATCH", f"{FEDERATED}/{{other}}", _not_federated, administrator),
    Operation("DELETE", f"{FEDERATED}/{{other}}", _no_federated_one, administrator),
    *reference_operations(ONE, "owners", find_id, owners_of, administrator, is_owner=True),
]
