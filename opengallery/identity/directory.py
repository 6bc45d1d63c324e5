"""The directory: tenants, their subscriptions, and the principals that may sign in.

A principal that is not enabled gets no token, and the tokens that it has are refused. Of a client
secret only the Argon2 hash is kept. Ids are lower-case UUIDs; look-ups take them in any case.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, Column, Connection, ForeignKey, Row, String, Table, select, update

from opengallery.database import UtcDateTime, metadata, now
from opengallery.identity.principal import Principal

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

client_secrets = Table(
    "client_secrets",
    metadata,
    Column("app_id", String(36), ForeignKey("principals.app_id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", String(36), primary_key=True),
    Column("hash", String(256), nullable=False),
    Column("expires_at", UtcDateTime),
)


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of a tenant."""

    subscription_id: str
    tenant_id: str
    display_name: str


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret as it is kept: its Argon2 hash. `expires_at` `None`: it does not expire."""

    key_id: str
    hash: str
    expires_at: datetime | None

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= now()


@dataclass(frozen=True, slots=True)
class Application:
    """A service principal with what it needs to sign in."""

    principal: Principal
    is_enabled: bool
    secrets: tuple[ClientSecret, ...]


def list_tenants(connection: Connection) -> list[tuple[str, str]]:
    """Id and display name of every tenant, by id."""
    rows = connection.execute(select(tenants.c.id, tenants.c.display_name).order_by(tenants.c.id))
    return [(row.id, row.display_name) for row in rows]


def list_subscriptions(connection: Connection, tenant_id: str) -> list[Subscription]:
    """Every subscription of a tenant, by display name."""
    query = (
        select(subscriptions)
        .where(subscriptions.c.tenant_id == _uuid(tenant_id))
        .order_by(subscriptions.c.display_name, subscriptions.c.id)
    )
    return [Subscription(row.id, row.tenant_id, row.display_name) for row in connection.execute(query)]


def find_subscription(connection: Connection, subscription_id: str) -> Subscription | None:
    """The subscription with this id, if there is one."""
    query = select(subscriptions).where(subscriptions.c.id == _uuid(subscription_id))
    row = connection.execute(query).one_or_none()
    return Subscription(row.id, row.tenant_id, row.display_name) if row else None


def find_principal(connection: Connection, object_id: str) -> Principal | None:
    """The principal with this object id, if there is one, enabled or not."""
    query = select(principals).where(principals.c.object_id == _uuid(object_id))
    row = connection.execute(query).one_or_none()
    return _principal(row) if row else None


def find_enabled_principal(connection: Connection, object_id: str) -> Principal | None:
    """The principal with this object id, if there is one that may act."""
    query = select(principals).where(principals.c.object_id == _uuid(object_id), principals.c.enabled)
    row = connection.execute(query).one_or_none()
    return _principal(row) if row else None


def find_application(connection: Connection, app_id: str) -> Application | None:
    """The service principal with this client id and all its secrets, expired ones too."""
    query = select(principals).where(principals.c.app_id == _uuid(app_id))
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    kept = (
        select(client_secrets).where(client_secrets.c.app_id == row.app_id).order_by(client_secrets.c.key_id)
    )
    secrets = tuple(ClientSecret(s.key_id, s.hash, s.expires_at) for s in connection.execute(kept))
    return Application(_principal(row), row.enabled, secrets)


def set_enabled(connection: Connection, object_id: str, is_enabled: bool) -> None:
    """Let a principal sign in and act, or not. Other processes notice within seconds (see tokens)."""
    connection.execute(
        update(principals).where(principals.c.object_id == _uuid(object_id)).values(enabled=is_enabled)
    )


def _uuid(text: str) -> str:
    """`text` as ids are kept. What is no UUID becomes "", which no row has (PostgreSQL refuses a NUL)."""
    return text.lower() if UUID_FORM.fullmatch(text) else ""


def _principal(row: Row[Any]) -> Principal:
    return Principal(row.object_id, row.tenant_id, row.kind, row.app_id, row.display_name)
