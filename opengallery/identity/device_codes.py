"""Device codes: a client without a browser waits while its user types a short code into a page elsewhere.

The client keeps the device code, of which only a digest is kept here; the user types the user code, nine
letters without vowels (39 bits), which is good for a quarter of an hour.
Source: RFC 8628.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Integer,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from opengallery.database import UtcDateTime, metadata
from opengallery.identity.accounts import Account
from opengallery.identity.digests import digest_of

LIFETIME = timedelta(minutes=15)
INTERVAL_S = 5
SLOWER_S = 5
POLL_SKEW_S = 1.0
WAITING_MAX = 1000
WAITING_MAX_OF_ADDRESS = 100
USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
USER_CODE_LENGTH = 9

device_codes = Table(
    "device_codes",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user_code", String(16), nullable=False, unique=True),
    Column("client_id", String(36), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("scope", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("interval_s", Integer, nullable=False),
    Column("polled_at", UtcDateTime),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("object_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE")),
    Column("password_stamp", String(32)),
)


@dataclass(frozen=True, slots=True)
class DeviceCodes:
    """What a client gets: the code that it polls with and the one that its user types."""

    device_code: str
    user_code: str

    def __repr__(self) -> str:
        """Without the codes."""
        return "DeviceCodes()"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A client that waits for its user. `tenant` is the one of its URL, `address` its own."""

    user_code: str
    client_id: str
    tenant: str
    address: str
    asked_at: datetime


@dataclass(frozen=True, slots=True)
class Approved:
    """The user signed in: what the client gets."""

    object_id: str
    scope: str
    password_stamp: str


Poll = Approved | Literal["unknown", "expired", "slow down", "pending", "denied"]


class TooManyWait(Exception):
    """No more clients may wait for their users now."""


def issue(
    connection: Connection, client_id: str, tenant: str, scope: str, address: str, time_s: float
) -> DeviceCodes:
    """New codes for a client. Raises `TooManyWait`."""
    time = _time(time_s)
    connection.execute(delete(device_codes).where(device_codes.c.expires_at <= time - LIFETIME))
    address = address[:64]
    waiting = select(func.count()).select_from(device_codes)
    if (connection.scalar(waiting) or 0) >= WAITING_MAX:
        raise TooManyWait
    if (connection.scalar(waiting.where(device_codes.c.address == address)) or 0) >= WAITING_MAX_OF_ADDRESS:
        raise TooManyWait
    device_code = secrets.token_urlsafe(48)
    user_code = "".join(secrets.choice(USER_CODE_LETTERS) for _ in range(USER_CODE_LENGTH))
    connection.execute(
        insert(device_codes).values(
            digest=digest_of(device_code),
            user_code=user_code,
            client_id=client_id,
            tenant=tenant[:64],
            scope=scope,
            address=address,
            state="pending",
            interval_s=INTERVAL_S,
            expires_at=time + LIFETIME,
        )
    )
    return DeviceCodes(device_code, user_code)


def find_waiting(connection: Connection, user_code: str, time_s: float) -> Waiting | None:
    """The client that waits with this code, typed in any case and with blanks or dashes in it."""
    code = "".join(letter for letter in user_code.upper()[:64] if letter in USER_CODE_LETTERS)
    query = select(device_codes).where(
        device_codes.c.user_code == code,
        device_codes.c.state == "pending",
        device_codes.c.expires_at > _time(time_s),
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Waiting(row.user_code, row.client_id, row.tenant, row.address, row.expires_at - LIFETIME)


def approve(connection: Connection, waiting: Waiting, account: Account) -> bool:
    """Let the client have its tokens. False when it does not wait any more."""
    return _decide(
        connection,
        waiting,
        state="approved",
        object_id=account.principal.object_id,
        password_stamp=account.password_stamp,
    )


def deny(connection: Connection, waiting: Waiting) -> bool:
    """Refuse the client its tokens. False when it does not wait any more."""
    return _decide(connection, waiting, state="denied")


def poll(connection: Connection, device_code: str, client_id: str, time_s: float) -> Poll:
    """Where the sign-in of `client_id` is. What was approved is handed out once.

    Commit what was done in either case.
    """
    time = _time(time_s)
    of_code = device_codes.c.digest == digest_of(device_code)
    row = connection.execute(select(device_codes).where(of_code).with_for_update()).one_or_none()
    if row is None or row.client_id != client_id:
        return "unknown"
    if row.expires_at <= time:
        return "expired"
    if row.state == "approved":
        connection.execute(delete(device_codes).where(of_code))
        return Approved(row.object_id, row.scope, row.password_stamp)
    if row.state == "denied":
        return "denied"
    is_early = (
        row.polled_at is not None and (time - row.polled_at).total_seconds() < row.interval_s - POLL_SKEW_S
    )
    interval_s = min(row.interval_s + SLOWER_S, 60) if is_early else row.interval_s
    connection.execute(update(device_codes).where(of_code).values(polled_at=time, interval_s=interval_s))
    return "slow down" if is_early else "pending"


def _decide(connection: Connection, waiting: Waiting, **values: str) -> bool:
    done = connection.execute(
        update(device_codes)
        .where(device_codes.c.user_code == waiting.user_code, device_codes.c.state == "pending")
        .values(**values)
    )
    return done.rowcount == 1


def _time(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, UTC)
