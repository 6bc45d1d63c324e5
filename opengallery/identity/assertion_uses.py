"""Which client assertions were used: what was signed once must not be used by somebody else later.

An assertion's id (`jti`) may be used by that very assertion only, and for a resource within a short
while: the SDKs send one assertion for several resources, from several threads, and again after a lost
connection. Rows are kept until the assertion has expired.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import Column, Connection, ForeignKey, String, Table, delete, insert, select

from opengallery.database import UtcDateTime, metadata

RETRY_S = 60

assertion_uses = Table(
    "assertion_uses",
    metadata,
    Column("app_id", String(36), ForeignKey("applications.app_id", ondelete="CASCADE"), primary_key=True),
    Column("jti_digest", String(64), primary_key=True),
    Column("resource_digest", String(64), primary_key=True),
    Column("assertion_digest", String(64), nullable=False),
    Column("used_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)


@dataclass(frozen=True, slots=True)
class Use:
    """An assertion of an application is used for a resource; digests of its id, of both of them."""

    app_id: str
    jti_digest: str
    resource_digest: str
    assertion_digest: str


def note(connection: Connection, use: Use, time_s: float, expires_at_s: float) -> bool:
    """Note that an assertion is used now. False when it must not be."""
    time, expires_at = (datetime.fromtimestamp(value, UTC) for value in (time_s, expires_at_s))
    connection.execute(delete(assertion_uses).where(assertion_uses.c.expires_at < time))
    of_id = select(assertion_uses).where(
        assertion_uses.c.app_id == use.app_id, assertion_uses.c.jti_digest == use.jti_digest
    )
    rows = connection.execute(of_id).all()
    if any(row.assertion_digest != use.assertion_digest for row in rows):
        return False
    for row in rows:
        if row.resource_digest == use.resource_digest:
            return bool((time - row.used_at).total_seconds() <= RETRY_S)
    values = {**asdict(use), "used_at": time, "expires_at": expires_at}
    connection.execute(insert(assertion_uses).values(values))
    return True
