"""Refresh tokens: opaque, kept as a digest, used once, and replaced at each use.

All tokens that follow from one sign-in are a family, one row. A token is `FAMILY.SECRET`. One that names
a family and is not among its live ones was used before: it was stolen, or its successor was, and the
family ends. But for a short while after its use a token may come again, because two commands of one
user may start in the same moment with the same token.
Source: RFC 6749, section 6; RFC 9700 (OAuth 2.0 security best current practice), section 4.14.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import Column, Connection, ForeignKey, String, Table, Text, delete, insert, select, update

from opengallery.database import Json, UtcDateTime, metadata
from opengallery.identity.accounts import Account, read_account
from opengallery.identity.digests import digest_of
from opengallery.identity.directory import as_id

IDLE_LIFETIME = timedelta(days=14)
FAMILY_LIFETIME = timedelta(days=90)
REUSE_GRACE_S = 30.0
FAMILIES_MAX = 100
"""How many sign-ins of one user are kept; the oldest ends when there is one more."""
LIVE_MAX = 16
"""How many tokens of one family may wait for their use; the oldest is forgotten when there is one more."""

token_families = Table(
    "token_families",
    metadata,
    Column("family_digest", String(64), primary_key=True),
    Column(
        "object_id",
        String(36),
        ForeignKey("principals.object_id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("client_id", String(36), nullable=False),
    Column("scope", Text, nullable=False),
    Column("password_stamp", String(32), nullable=False),
    Column("signed_in_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("live", Json, nullable=False),
    Column("used", Json, nullable=False),
)

Refusal = Literal["unknown", "expired", "reused", "other client", "password changed", "disabled"]


@dataclass(frozen=True, slots=True)
class Begun:
    """A new family and its first token."""

    family_digest: str
    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"Begun({self.family_digest!r})"


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A token was used: whose it was, what it was first asked for, and its successor."""

    account: Account
    scope: str
    token: str

    def __repr__(self) -> str:
        """Without the token."""
        return f"Refreshed({self.account!r})"


def begin(connection: Connection, account: Account, client_id: str, scope: str, time_s: float) -> Begun:
    """Start a family, for a user who has just signed in."""
    time = _time(time_s)
    purge(connection, time_s)
    _end_oldest(connection, account.principal.object_id)
    family, secret = secrets.token_urlsafe(24), secrets.token_urlsafe(32)
    connection.execute(
        insert(token_families).values(
            family_digest=digest_of(family),
            object_id=account.principal.object_id,
            client_id=client_id,
            scope=scope,
            password_stamp=account.password_stamp,
            signed_in_at=time,
            expires_at=time + IDLE_LIFETIME,
            live=[digest_of(secret)],
            used={},
        )
    )
    return Begun(digest_of(family), f"{family}.{secret}")


def use(
    connection: Connection, token: str, client_id: str, tenant_ids: tuple[str, ...], time_s: float
) -> Refreshed | Refusal:
    """Take a token and give its successor, or say why not. What is used again ends its family.

    Commit what was done in either case.
    """
    time = _time(time_s)
    family, _, secret = token.partition(".")
    family_digest, digest = digest_of(family), digest_of(secret)
    of_family = token_families.c.family_digest == family_digest
    row = connection.execute(select(token_families).where(of_family).with_for_update()).one_or_none()
    if row is None:
        return "unknown"
    if row.client_id != client_id:
        return "other client"
    if row.expires_at <= time:
        return "expired"
    used = {old: used_at for old, used_at in row.used.items() if time_s - used_at <= REUSE_GRACE_S}
    if digest not in row.live and digest not in used:
        end_family(connection, family_digest)
        return "reused"
    account = read_account(connection, row.object_id)
    if account is None or account.principal.tenant_id not in tenant_ids:
        return "unknown"
    if not account.is_enabled:
        return "disabled"
    if account.password_stamp != row.password_stamp:
        end_family(connection, family_digest)
        return "password changed"
    successor = secrets.token_urlsafe(32)
    live = [*(other for other in row.live if other != digest), digest_of(successor)][-LIVE_MAX:]
    used.setdefault(digest, time_s)
    expires_at = min(time + IDLE_LIFETIME, row.signed_in_at + FAMILY_LIFETIME)
    connection.execute(
        update(token_families).where(of_family).values(live=live, used=used, expires_at=expires_at)
    )
    purge(connection, time_s)
    return Refreshed(account, row.scope, f"{family}.{successor}")


def end_family(connection: Connection, family_digest: str) -> None:
    """End all tokens of one sign-in."""
    connection.execute(delete(token_families).where(token_families.c.family_digest == family_digest))


def end_all(connection: Connection, object_id: str) -> None:
    """End all refresh tokens of a principal: every client has to sign in again."""
    connection.execute(delete(token_families).where(token_families.c.object_id == as_id(object_id)))


def purge(connection: Connection, time_s: float) -> None:
    """Delete what has expired."""
    connection.execute(delete(token_families).where(token_families.c.expires_at <= _time(time_s)))


def _end_oldest(connection: Connection, object_id: str) -> None:
    oldest = (
        select(token_families.c.family_digest)
        .where(token_families.c.object_id == object_id)
        .order_by(token_families.c.signed_in_at.desc(), token_families.c.family_digest)
        .offset(FAMILIES_MAX - 1)
    )
    for family_digest in connection.execute(oldest).scalars().all():
        end_family(connection, family_digest)


def _time(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)
