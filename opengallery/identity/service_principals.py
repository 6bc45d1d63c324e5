"""Service principals: what acts for an application in its tenant, and later for a managed identity.

What only describes one stands in a row of its own, which older ones lack: then it is of the type
`Application` and nothing more is known of it. Source: Microsoft Graph REST API v1.0, servicePrincipal.
"""

from collections.abc import Mapping
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
    select,
)

from opengallery.database import Json, UtcDateTime, metadata, now
from opengallery.identity.applications import applications
from opengallery.identity.directory import as_id, delete_principal, insert_principal, principals
from opengallery.identity.groups import owners
from opengallery.identity.properties import Flag, Kind, Text, Texts
from opengallery.identity.registrations import Registration

service_principals = Table(
    "service_principals",
    metadata,
    Column("object_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
    Column("type", String(32), nullable=False),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

APPLICATION = "Application"
MANAGED_IDENTITY = "ManagedIdentity"

DETAILS: Mapping[str, Kind] = {
    "alternativeNames": Texts(20, default=()),
    "appRoleAssignmentRequired": Flag(default=False),
    "description": Text(1024),
    "homepage": Text(256),
    "loginUrl": Text(256),
    "notes": Text(1024),
    "tags": Texts(50),
}


@dataclass(frozen=True, slots=True)
class ServicePrincipal:
    """A service principal. `type` is `Application` or `ManagedIdentity`; `app_id` its client id."""

    object_id: str
    tenant_id: str
    app_id: str
    display_name: str
    is_enabled: bool
    type: str
    details: Mapping[str, Any]
    created_at: datetime | None


def selected_service_principals(tenant_id: str) -> Select[Any]:
    """The service principals of a tenant: rows for `service_principal_of`, to be narrowed and ordered."""
    return (
        select(
            principals.c.object_id,
            principals.c.tenant_id,
            principals.c.app_id,
            principals.c.display_name,
            principals.c.enabled,
            func.coalesce(service_principals.c.type, APPLICATION).label("type"),
            service_principals.c.details,
            func.coalesce(
                service_principals.c.created_at, applications.c.created_at, type_=UtcDateTime()
            ).label("created_at"),
        )
        .join_from(
            principals,
            service_principals,
            service_principals.c.object_id == principals.c.object_id,
            isouter=True,
        )
        .join(applications, applications.c.app_id == principals.c.app_id, isouter=True)
        .where(principals.c.tenant_id == as_id(tenant_id), principals.c.kind == "ServicePrincipal")
    )


def service_principal_of(row: Row[Any]) -> ServicePrincipal:
    """The service principal of a row of `selected_service_principals`."""
    return ServicePrincipal(
        row.object_id,
        row.tenant_id,
        row.app_id or "",
        row.display_name,
        row.enabled,
        row.type,
        row.details or {},
        row.created_at,
    )


def find_service_principal(connection: Connection, tenant_id: str, object_id: str) -> ServicePrincipal | None:
    """The service principal of a tenant with this object id, if there is one."""
    return _find(connection, tenant_id, principals.c.object_id == as_id(object_id))


def find_service_principal_by_app_id(
    connection: Connection, tenant_id: str, app_id: str
) -> ServicePrincipal | None:
    """The service principal of a tenant with this client id, if there is one."""
    return _find(connection, tenant_id, principals.c.app_id == as_id(app_id))


def create_service_principal(
    connection: Connection,
    registration: Registration,
    details: Mapping[str, Any],
    is_enabled: bool = True,
) -> str:
    """Give an application that has none its service principal; returns its object id. Raises `TooMany`."""
    object_id = str(uuid4())
    insert_principal(
        connection,
        object_id,
        registration.tenant_id,
        "ServicePrincipal",
        registration.display_name,
        registration.app_id,
        is_enabled,
    )
    describe_service_principal(connection, object_id, APPLICATION, details, now())
    return object_id


def describe_service_principal(
    connection: Connection, object_id: str, kind: str, details: Mapping[str, Any], created_at: datetime | None
) -> None:
    """Put `details` in the place of what described a service principal."""
    connection.execute(delete(service_principals).where(service_principals.c.object_id == object_id))
    row = {"object_id": object_id, "type": kind, "details": dict(details), "created_at": created_at or now()}
    connection.execute(insert(service_principals).values(row))


def delete_service_principal(connection: Connection, object_id: str) -> None:
    """Delete a service principal; its application and the credentials stay. Raises `NotAllowed`."""
    connection.execute(delete(owners).where(owners.c.object_id == object_id))
    delete_principal(connection, object_id)


def _find(connection: Connection, tenant_id: str, where: Any) -> ServicePrincipal | None:
    row = connection.execute(selected_service_principals(tenant_id).where(where)).one_or_none()
    return service_principal_of(row) if row else None
