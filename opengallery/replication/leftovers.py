"""Images that nobody owns in a store any more, and that wait for their last reader.

A replica is dropped in one transaction: its row goes, a leftover comes. The image itself is deleted
by `sweep`, when no other owner has it in that store and no machine reads it there.
"""

from collections.abc import Iterable

import structlog
from sqlalchemy import Column, ColumnElement, Connection, String, Table, delete, insert, select

from opengallery.database import Database, UtcDateTime, metadata, now
from opengallery.imagestore import ImageStoreError
from opengallery.replication import boot_pieces
from opengallery.replication.placement import is_pinned, lock_image
from opengallery.replication.progress import replicas_table
from opengallery.replication.stores import Stores, UnknownStore
from opengallery.settings import SettingsError

log = structlog.get_logger()

leftovers = Table(
    "leftovers",
    metadata,
    Column("store", String(128), primary_key=True),
    Column("tenant_id", String(64), primary_key=True),
    Column("image_id", String(64), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
)


def drop_replicas(connection: Connection, owner: str, stores: Iterable[str] | None = None) -> None:
    """Take the replicas of `owner` (those in `stores`, or all) out of the table; leave their images."""
    replica = replicas_table.c
    these = replica.owner == owner
    if stores is not None:
        these &= replica.store.in_(list(stores))
    dropped = select(replica.store, replica.tenant_id, replica.image_id).where(these).order_by(replica.store)
    # Without an image id the bytes were still coming in, and nothing but packs is there.
    for row in connection.execute(dropped.where(replica.image_id != "")).all():
        lock_image(connection, *row)
        leave(connection, *row)
    connection.execute(delete(replicas_table).where(these))


def leave(connection: Connection, store: str, tenant_id: str, image_id: str) -> None:
    """Note that this store may hold an image that nobody needs. The caller holds `lock_image`."""
    connection.execute(delete(leftovers).where(_is(store, tenant_id, image_id)))
    connection.execute(
        insert(leftovers).values(store=store, tenant_id=tenant_id, image_id=image_id, since=now())
    )


def sweep(database: Database, stores: Stores) -> int:
    """Delete every leftover image that is neither owned nor read; return how many were deleted.

    An image in a store that can't be reached stays a leftover.
    Call it after `end_reading` and `release_reader`. Doing it twice, or in two processes, is safe:
    the image is deleted inside the transaction that found it unneeded.
    """
    with database.read() as connection:
        left = connection.execute(select(leftovers)).all()
    deleted = 0
    for store, tenant_id, image_id, _since in left:
        try:
            if _sweep_image(database, stores, store, tenant_id, image_id):
                deleted += 1
                _forget_boots(database, stores, tenant_id, image_id)
        except (ImageStoreError, SettingsError, UnknownStore) as error:
            log.warning("leftover image stays for now", store=store, image=image_id, reason=str(error))
    return deleted


def _sweep_image(database: Database, stores: Stores, store: str, tenant_id: str, image_id: str) -> bool:
    replica = replicas_table.c
    owners = select(replica.owner).where(
        replica.store == store, replica.tenant_id == tenant_id, replica.image_id == image_id
    )
    opened = stores.open(store, tenant_id)
    with database.write() as connection:
        lock_image(connection, store, tenant_id, image_id)
        is_owned = connection.execute(owners.limit(1)).first() is not None
        if not is_owned:
            if is_pinned(connection, store, tenant_id, image_id):
                return False
            opened.delete(image_id)
        connection.execute(delete(leftovers).where(_is(store, tenant_id, image_id)))
    return not is_owned


def _forget_boots(database: Database, stores: Stores, tenant_id: str, image_id: str) -> None:
    """With the last replica of an image goes what boots of it read."""
    with database.read() as connection:
        for table in (replicas_table, leftovers):
            here = (table.c.tenant_id == tenant_id) & (table.c.image_id == image_id)
            if connection.execute(select(table.c.store).where(here).limit(1)).first() is not None:
                return
    boot_pieces.forget(stores.data, tenant_id, image_id)


def _is(store: str, tenant_id: str, image_id: str) -> ColumnElement[bool]:
    columns = leftovers.c
    return (columns.store == store) & (columns.tenant_id == tenant_id) & (columns.image_id == image_id)
