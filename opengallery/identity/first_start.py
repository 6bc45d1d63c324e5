"""The first start of a gallery: one tenant, two subscriptions, one administrator.

What is chosen is written to DIR/identity before the database learns of it, under the name
`administrator.new.json`; when both have it, the file is renamed to `administrator.json`. A start after a
crash between these steps goes on with what stands in the file. A file that has its final name is
never put into the database again, so that a secret that was revoked stays revoked.

Whoever deletes administrator.json and starts the server gets a new secret for the same administrator;
every older secret of the administrator stops working.
"""

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
from sqlalchemy import Connection, delete, insert, select

from opengallery.database import Database, now
from opengallery.identity.applications import client_secrets
from opengallery.identity.client_secrets import generate_secret, hash_secret
from opengallery.identity.directory import list_subscriptions, principals, tenants
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.tenants import create_subscription, insert_tenant

FILE = "administrator.json"
UNFINISHED = "administrator.new.json"

TENANT = "Open Gallery"
SUBSCRIPTIONS = ("Open Gallery 1", "Open Gallery 2")


class OtherGallery(Exception):
    """The database belongs to another gallery than the data folder; the message says what to do."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """What the first start made. `app_id` and `client_secret` sign the administrator in."""

    tenant_id: str
    subscription_id: str
    second_subscription_id: str
    object_id: str
    app_id: str
    key_id: str
    client_secret: str

    def __repr__(self) -> str:
        """Without the secret, which must not get into a log."""
        return f"FirstStart(tenant_id={self.tenant_id!r}, app_id={self.app_id!r})"


def bootstrap(database: Database, data: Path) -> FirstStart:
    """Make tenant, subscriptions and administrator if they are missing, and return them.

    Raises `OtherGallery` when `data` and `database` don't belong together.
    """
    folder = IdentityFolder(data)
    with folder.locked():
        unfinished = folder.read(UNFINISHED)
        finished = folder.read(FILE)
        if unfinished is None and finished is None:
            unfinished = msgspec.json.encode(_choose(database))
            folder.write(UNFINISHED, unfinished)
        first = msgspec.json.decode(unfinished or finished or b"", type=FirstStart)
        with database.write() as connection:
            _insert(connection, first, is_new=unfinished is not None)
        if unfinished is not None:
            folder.rename(UNFINISHED, FILE)
    return first


def read_first_start(data: Path) -> FirstStart | None:
    """What the first start made in the data folder `data`; `None` before it has ended."""
    content = IdentityFolder(data).read(FILE)
    return msgspec.json.decode(content, type=FirstStart) if content else None


def _choose(database: Database) -> FirstStart:
    """Choose ids, those of the database if it has them, and a new secret."""
    with database.read() as connection:
        tenant = connection.execute(select(tenants)).first()
        administrator = connection.execute(
            select(principals).where(principals.c.object_id == (tenant.administrator_id if tenant else ""))
        ).first()
        known = (
            [entry.subscription_id for entry in list_subscriptions(connection, tenant.id)] if tenant else []
        )
    known += [str(uuid4()) for _ in SUBSCRIPTIONS]
    return FirstStart(
        tenant_id=tenant.id if tenant else str(uuid4()),
        subscription_id=known[0],
        second_subscription_id=known[1],
        object_id=administrator.object_id if administrator else str(uuid4()),
        app_id=administrator.app_id if administrator else str(uuid4()),
        key_id=str(uuid4()),
        client_secret=generate_secret(),
    )


def _insert(connection: Connection, first: FirstStart, is_new: bool) -> None:
    """Put what is missing into the database; a new secret takes the place of all older ones."""
    known = set(connection.execute(select(tenants.c.id)).scalars())
    if known and first.tenant_id not in known:
        raise OtherGallery(
            f"The data folder belongs to the tenant {first.tenant_id}, the database to {', '.join(known)}. "
            "Give `gallery serve` the database that was used with this folder, or an empty one."
        )
    if not known:
        _insert_tenant(connection, first)
    if not known or is_new:
        connection.execute(delete(client_secrets).where(client_secrets.c.app_id == first.app_id))
        secret = {
            "app_id": first.app_id,
            "key_id": first.key_id,
            "hash": hash_secret(first.client_secret),
            "hint": first.client_secret[:3],
            "starts_at": now(),
        }
        connection.execute(insert(client_secrets).values(secret))


def _insert_tenant(connection: Connection, first: FirstStart) -> None:
    insert_tenant(connection, first.tenant_id, TENANT, first.object_id, first.app_id)
    ids = (first.subscription_id, first.second_subscription_id)
    for subscription_id, name in zip(ids, SUBSCRIPTIONS, strict=True):
        create_subscription(connection, first.tenant_id, name, subscription_id)
