"""Applications: what a service principal is the presence of in its tenant, and what it signs in by.

Of a client secret only the Argon2 hash and its first letters, as a hint, are kept; of a certificate
the public half. An application has at most one service principal, and the credentials belong to both.
Source: Microsoft Graph REST API v1.0, application and servicePrincipal.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Connection, ForeignKey, String, Table, Text, select

from opengallery.database import Json, UtcDateTime, metadata, now
from opengallery.identity.directory import as_id, principal_of, principals
from opengallery.identity.principal import Principal

applications = Table(
    "applications",
    metadata,
    Column("object_id", String(36), primary_key=True),
    Column("app_id", String(36), nullable=False, unique=True),
    Column("tenant_id", String(36), ForeignKey("tenants.id"), nullable=False, index=True),
    Column("display_name", String(256), nullable=False),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

client_secrets = Table(
    "client_secrets",
    metadata,
    Column("app_id", String(36), ForeignKey("applications.app_id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", String(36), primary_key=True),
    Column("hash", String(256), nullable=False),
    Column("hint", String(3)),
    Column("display_name", String(256)),
    Column("starts_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
)

client_certificates = Table(
    "client_certificates",
    metadata,
    Column("app_id", String(36), ForeignKey("applications.app_id", ondelete="CASCADE"), primary_key=True),
    Column("key_id", String(36), primary_key=True),
    Column("thumbprint", String(64), nullable=False),
    Column("pem", Text, nullable=False),
    Column("display_name", String(256)),
    Column("starts_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)


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
class ClientCertificate:
    """A certificate with which an application may sign in. `thumbprint`: SHA-256 of its DER form, in hex."""

    key_id: str
    thumbprint: str
    pem: str
    starts_at: datetime
    expires_at: datetime
    display_name: str | None = None


@dataclass(frozen=True, slots=True)
class Application:
    """A service principal with what it needs to sign in."""

    principal: Principal
    is_enabled: bool
    secrets: tuple[ClientSecret, ...]
    certificates: tuple[ClientCertificate, ...] = ()


def find_application(connection: Connection, app_id: str) -> Application | None:
    """The service principal with this client id and all its credentials, expired ones too."""
    row = connection.execute(select(principals).where(principals.c.app_id == as_id(app_id))).one_or_none()
    if row is None:
        return None
    secrets = (
        select(client_secrets).where(client_secrets.c.app_id == row.app_id).order_by(client_secrets.c.key_id)
    )
    certificates = (
        select(client_certificates)
        .where(client_certificates.c.app_id == row.app_id)
        .order_by(client_certificates.c.key_id)
    )
    return Application(
        principal_of(row),
        row.enabled,
        tuple(ClientSecret(s.key_id, s.hash, s.expires_at) for s in connection.execute(secrets)),
        tuple(
            ClientCertificate(c.key_id, c.thumbprint, c.pem, c.starts_at, c.expires_at, c.display_name)
            for c in connection.execute(certificates)
        ),
    )
