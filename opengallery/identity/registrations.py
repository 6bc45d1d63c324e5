"""Registrations: applications as the directory shows and changes them.

An application is registered in one tenant. Its identifier URIs are names of it that nobody else in the
tenant may have. `details` are the members of a Graph application that only describe it.
Source: Microsoft Graph REST API v1.0, application.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Row,
    Select,
    String,
    Table,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from opengallery.database import UtcDateTime, metadata, now
from opengallery.identity.applications import applications
from opengallery.identity.directory import as_id, delete_principal, principals
from opengallery.identity.directory_errors import AlreadyTaken, InvalidValue, TooMany
from opengallery.identity.groups import owners
from opengallery.identity.properties import Flag, Kind, Text, Texts, Tree

# Each of an application's names; the key is the name in lower case.
identifier_uris = Table(
    "identifier_uris",
    metadata,
    Column("tenant_id", String(36), ForeignKey("tenants.id"), primary_key=True),
    Column("uri_key", String(256), primary_key=True),
    Column("uri", String(256), nullable=False),
    Column(
        "app_id",
        String(36),
        ForeignKey("applications.app_id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("added_at", UtcDateTime, nullable=False),
)

APPLICATIONS_MAX = 100_000
URIS_MAX = 50
URI_LENGTH_MAX = 255
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")

DETAILS: Mapping[str, Kind] = {
    "api": Tree(dict),
    "appRoles": Tree(list, default=()),
    "description": Text(1024),
    "isFallbackPublicClient": Flag(),
    "notes": Text(1024),
    "optionalClaims": Tree(dict),
    "publicClient": Tree(dict, default={"redirectUris": []}),
    "requiredResourceAccess": Tree(list, default=()),
    "serviceManagementReference": Text(256),
    "signInAudience": Text(
        64,
        "AzureADMyOrg",
        "Only 'AzureADMyOrg' is known here: an application is used in its own tenant alone.",
        default="AzureADMyOrg",
    ),
    "spa": Tree(dict, default={"redirectUris": []}),
    "tags": Texts(50),
    "web": Tree(dict, default={"homePageUrl": None, "redirectUris": []}),
}


@dataclass(frozen=True, slots=True)
class Registration:
    """An application, without its credentials."""

    object_id: str
    app_id: str
    tenant_id: str
    display_name: str
    details: Mapping[str, Any]
    created_at: datetime


def selected_registrations(tenant_id: str) -> Select[Any]:
    """The applications of a tenant: rows for `registration_of`, to be narrowed and ordered."""
    return select(applications).where(applications.c.tenant_id == as_id(tenant_id))


def registration_of(row: Row[Any]) -> Registration:
    """The application of a row of `applications`."""
    return Registration(
        row.object_id, row.app_id, row.tenant_id, row.display_name, row.details, row.created_at
    )


def find_registration(connection: Connection, tenant_id: str, object_id: str) -> Registration | None:
    """The application of a tenant with this object id, if there is one."""
    return _find(connection, tenant_id, applications.c.object_id == as_id(object_id))


def find_registration_by_app_id(connection: Connection, tenant_id: str, app_id: str) -> Registration | None:
    """The application of a tenant with this client id, if there is one."""
    return _find(connection, tenant_id, applications.c.app_id == as_id(app_id))


def create_registration(
    connection: Connection,
    tenant_id: str,
    display_name: str,
    details: Mapping[str, Any],
    uris: list[str],
) -> Registration:
    """Register an application, with a new client id. Raises `InvalidValue`, `AlreadyTaken`, `TooMany`."""
    count = select(func.count()).select_from(applications).where(applications.c.tenant_id == tenant_id)
    if (connection.scalar(count) or 0) >= APPLICATIONS_MAX:
        raise TooMany(f"The tenant has {APPLICATIONS_MAX} applications. Delete some first.")
    made = Registration(str(uuid4()), str(uuid4()), tenant_id, display_name, dict(details), now())
    row = {
        "object_id": made.object_id,
        "app_id": made.app_id,
        "tenant_id": tenant_id,
        "display_name": display_name,
        "details": dict(details),
        "created_at": made.created_at,
    }
    connection.execute(insert(applications).values(row))
    set_identifier_uris(connection, made, uris)
    return made


def update_registration(
    connection: Connection, registration: Registration, display_name: str, details: Mapping[str, Any]
) -> None:
    """Change what describes an application; its service principal takes the name too."""
    change = update(applications).where(applications.c.object_id == registration.object_id)
    connection.execute(change.values(display_name=display_name, details=dict(details)))
    if display_name != registration.display_name:
        renamed = update(principals).where(principals.c.app_id == registration.app_id)
        connection.execute(renamed.values(display_name=display_name))


def delete_registration(connection: Connection, registration: Registration) -> list[str]:
    """Delete an application, its credentials and its service principal. Returns the latter's object id.

    Raises `NotAllowed` for the first administrator's.
    """
    found = select(principals.c.object_id).where(principals.c.app_id == registration.app_id)
    object_ids = list(connection.execute(found).scalars())
    for object_id in object_ids:
        delete_principal(connection, object_id)
    gone = [*object_ids, registration.object_id]
    connection.execute(delete(owners).where(owners.c.object_id.in_(gone)))
    connection.execute(delete(applications).where(applications.c.object_id == registration.object_id))
    return object_ids


def set_identifier_uris(connection: Connection, registration: Registration, uris: list[str]) -> None:
    """Give an application these names and no others. Raises `InvalidValue`, `AlreadyTaken`."""
    for uri in uris:
        if len(uri) > URI_LENGTH_MAX or not _URI.fullmatch(uri):
            raise InvalidValue(
                "identifierUris", f"Write absolute URIs (api://NAME), {URI_LENGTH_MAX} characters at most."
            )
    if len(uris) > URIS_MAX:
        raise InvalidValue("identifierUris", f"Give {URIS_MAX} URIs at most.")
    connection.execute(delete(identifier_uris).where(identifier_uris.c.app_id == registration.app_id))
    keys = {uri.lower(): uri for uri in uris}
    taken = select(identifier_uris.c.uri_key).where(
        identifier_uris.c.tenant_id == registration.tenant_id, identifier_uris.c.uri_key.in_(keys)
    )
    if connection.execute(taken).first() is not None:
        raise AlreadyTaken("identifierUris")
    common = {"tenant_id": registration.tenant_id, "app_id": registration.app_id, "added_at": now()}
    if keys:
        rows = [{**common, "uri_key": key, "uri": uri} for key, uri in keys.items()]
        connection.execute(insert(identifier_uris), rows)


def list_identifier_uris(connection: Connection, app_ids: Iterable[str]) -> dict[str, list[str]]:
    """The names of each of these applications, in the order of the alphabet."""
    wanted = list(app_ids)
    query = (
        select(identifier_uris.c.app_id, identifier_uris.c.uri)
        .where(identifier_uris.c.app_id.in_(wanted))
        .order_by(identifier_uris.c.uri_key)
    )
    found: dict[str, list[str]] = {app_id: [] for app_id in wanted}
    for row in connection.execute(query):
        found[row.app_id].append(row.uri)
    return found


def named(app_id: Any, name: str, tenant_id: str, with_app_id: bool) -> Any:
    """Whether an application, by its column `app_id`, has this identifier URI (or, so asked, client id)."""
    uris = select(identifier_uris.c.app_id).where(
        identifier_uris.c.tenant_id == tenant_id, identifier_uris.c.uri_key == name.lower()
    )
    has_uri = app_id.in_(uris)
    return or_(has_uri, app_id == as_id(name)) if with_app_id else has_uri


def _find(connection: Connection, tenant_id: str, where: Any) -> Registration | None:
    row = connection.execute(selected_registrations(tenant_id).where(where)).one_or_none()
    return registration_of(row) if row else None
