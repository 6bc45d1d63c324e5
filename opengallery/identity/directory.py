"""The directory: tenants, their subscriptions, and the principals of a tenant.

A user, group or service principal is a row of `principals`; what only its kind has stands in a table
of its own (see users, groups, applications). A principal that is not enabled gets no token, and the
tokens that it has are refused. Ids are lower-case UUIDs; look-ups take them in any case.
"""

import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKey,
    Row,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    update,
)

from opengallery.database import metadata
from opengallery.identity.directory_errors import NotAllowed, TooMany
from opengallery.identity.principal import Principal, PrincipalKind

PRINCIPALS_MAX = 300_000
UUID_FORM = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

tenants = Table(
    "tenants",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("display_name", String(256), nullable=False),
    Column("administrator_id", String(36), nullable=False),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant_id", String(36), ForeignKey("tenants.id"), nullable=False, index=True),
    Column("display_name", String(256), nullable=False),
)

principals = Table(
    "principals",
    metadata,
    Column("object_id", String(36), primary_key=True),
    Column("tenant_id", String(36), ForeignKey("tenants.id"), nullable=False, index=True),
    Column("kind", String(32), nullable=False),
    Column("app_id", String(36), unique=True),
    Column("display_name", String(256), nullable=False),
    Column("enabled", Boolean, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of a tenant."""

    subscription_id: str
    tenant_id: str
    display_name: str


def list_tenants(connection: Connection) -> list[tuple[str, str]]:
    """Id and display name of every tenant, by id."""
    rows = connection.execute(select(tenants.c.id, tenants.c.display_name).order_by(tenants.c.id))
    return [(row.id, row.display_name) for row in rows]


def list_subscriptions(connection: Connection, tenant_id: str) -> list[Subscription]:
    """Every subscription of a tenant, by display name."""
    query = (
        select(subscriptions)
        .where(subscriptions.c.tenant_id == as_id(tenant_id))
        .order_by(subscriptions.c.display_name, subscriptions.c.id)
    )
    return [Subscription(row.id, row.tenant_id, row.display_name) for row in connection.execute(query)]


def find_subscription(connection: Connection, subscription_id: str) -> Subscription | None:
    """The subscription with this id, if there is one."""
    query = select(subscriptions).where(subscriptions.c.id == as_id(subscription_id))
    row = connection.execute(query).one_or_none()
    return Subscription(row.id, row.tenant_id, row.display_name) if row else None


def find_principal(connection: Connection, object_id: str) -> Principal | None:
    """The principal with this object id, if there is one, enabled or not."""
    query = select(principals).where(principals.c.object_id == as_id(object_id))
    row = connection.execute(query).one_or_none()
    return principal_of(row) if row else None


def find_enabled_principal(connection: Connection, object_id: str) -> Principal | None:
    """The principal with this object id, if there is one that may act."""
    query = select(principals).where(principals.c.object_id == as_id(object_id), principals.c.enabled)
    row = connection.execute(query).one_or_none()
    return principal_of(row) if row else None


def set_enabled(connection: Connection, object_id: str, is_enabled: bool) -> None:
    """Let a principal sign in and act, or not. Other processes notice within seconds (see tokens)."""
    connection.execute(
        update(principals).where(principals.c.object_id == as_id(object_id)).values(enabled=is_enabled)
    )


def lock_directory(connection: Connection, tenant_id: str) -> None:
    """Let no other transaction change this tenant's directory until this one ends.

    What is counted or compared before a change then still holds at its end. SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        name = f"directory/{tenant_id}"
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def insert_principal(
    connection: Connection,
    object_id: str,
    tenant_id: str,
    kind: PrincipalKind,
    display_name: str,
    app_id: str | None = None,
    is_enabled: bool = True,
) -> None:
    """Add the row that every principal has. Raises `TooMany`."""
    count = select(func.count()).select_from(principals).where(principals.c.tenant_id == tenant_id)
    if (connection.scalar(count) or 0) >= PRINCIPALS_MAX:
        raise TooMany(
            f"The tenant has {PRINCIPALS_MAX} users, groups and service principals, and may not have more. "
            "Delete some first."
        )
    row = {
        "object_id": object_id,
        "tenant_id": tenant_id,
        "kind": kind,
        "app_id": app_id,
        "display_name": display_name,
        "enabled": is_enabled,
    }
    connection.execute(insert(principals).values(row))


def delete_principal(connection: Connection, object_id: str) -> None:
    """Delete a principal with its memberships and ownerships; role assignments to it stay as orphans.

    Raises `NotAllowed` for the tenant's first administrator, by whom the operator gets in again.
    """
    object_id = as_id(object_id)
    first = select(tenants.c.id).where(tenants.c.administrator_id == object_id)
    if connection.scalar(first) is not None:
        raise NotAllowed(
            "This is the tenant's first administrator, which can't be deleted. Disable it (accountEnabled) "
            "and delete its secrets, when another administrator is there."
        )
    connection.execute(delete(principals).where(principals.c.object_id == object_id))


def as_id(text: str) -> str:
    """`text` as ids are kept. What is no UUID becomes "", which no row has (PostgreSQL refuses a NUL)."""
    return text.lower() if UUID_FORM.fullmatch(text) else ""


def principal_of(row: Row[Any]) -> Principal:
    """The principal of a row of `principals`."""
    return Principal(row.object_id, row.tenant_id, row.kind, row.app_id, row.display_name)
