"""Authorization codes: what the browser brings a client after the user signed in, for one use within minutes.

A code is kept as a digest, with the client, the redirect URI and the PKCE challenge that it was made for.
Source: RFC 6749, section 4.1; RFC 7636 (PKCE); RFC 9700, section 2.1.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    ForeignKey,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from opengallery.database import UtcDateTime, metadata
from opengallery.identity.accounts import Account
from opengallery.identity.digests import digest_of

LIFETIME = timedelta(minutes=5)
CODES_MAX = 20
"""How many codes of one user may wait for their use; the oldest is forgotten when there is one more."""

authorization_codes = Table(
    "authorization_codes",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column(
        "object_id",
        String(36),
        ForeignKey("principals.object_id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("client_id", String(36), nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("code_challenge", String(128)),
    Column("scope", Text, nullable=False),
    Column("nonce", Text),
    Column("password_stamp", String(32), nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("is_used", Boolean, nullable=False),
    Column("family_digest", String(64)),
)


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """What a code was made for. `was_used`: it came before, and `family_digest` came of it."""

    object_id: str
    client_id: str
    redirect_uri: str
    code_challenge: str | None
    scope: str
    nonce: str | None
    password_stamp: str
    has_expired: bool
    was_used: bool
    family_digest: str | None


def issue(
    connection: Connection,
    account: Account,
    client_id: str,
    redirect_uri: str,
    code_challenge: str | None,
    scope: str,
    nonce: str | None,
    time_s: float,
) -> str:
    """A new code for a user who has just signed in."""
    time = _time(time_s)
    connection.execute(delete(authorization_codes).where(authorization_codes.c.expires_at <= time))
    _forget_oldest(connection, account.principal.object_id)
    code = secrets.token_urlsafe(48)
    connection.execute(
        insert(authorization_codes).values(
            digest=digest_of(code),
            object_id=account.principal.object_id,
            client_id=client_id,
            redirect_uri=redirect_uri,
            code_challenge=code_challenge,
            scope=scope,
            nonce=nonce,
            password_stamp=account.password_stamp,
            expires_at=time + LIFETIME,
            is_used=False,
        )
    )
    return code


def take(connection: Connection, code: str, client_id: str, time_s: float) -> AuthorizationCode | None:
    """What `client_id`'s code was made for; from now on it is used. `None`: the client has no such code."""
    row = connection.execute(
        select(authorization_codes).where(authorization_codes.c.digest == digest_of(code)).with_for_update()
    ).one_or_none()
    if row is None or row.client_id != client_id:
        return None
    of_code = authorization_codes.c.digest == row.digest
    connection.execute(update(authorization_codes).where(of_code).values(is_used=True))
    return AuthorizationCode(
        row.object_id,
        row.client_id,
        row.redirect_uri,
        row.code_challenge,
        row.scope,
        row.nonce,
        row.password_stamp,
        row.expires_at <= _time(time_s),
        row.is_used,
        row.family_digest,
    )


def note_family(connection: Connection, code: str, family_digest: str) -> None:
    """Remember which refresh tokens came of the code: they end when it comes again."""
    of_code = authorization_codes.c.digest == digest_of(code)
    connection.execute(update(authorization_codes).where(of_code).values(family_digest=family_digest))


def _forget_oldest(connection: Connection, object_id: str) -> None:
    oldest = (
        select(authorization_codes.c.digest)
        .where(authorization_codes.c.object_id == object_id)
        .order_by(authorization_codes.c.expires_at.desc(), authorization_codes.c.digest)
        .offset(CODES_MAX - 1)
    )
    for digest in connection.execute(oldest).scalars().all():
        connection.execute(delete(authorization_codes).where(authorization_codes.c.digest == digest))


def _time(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)
