"""Which stores hold a version, and which replica a machine reads first.

A reader is a machine that was told where to read an image. While it reads, its image is pinned in
every store of its plan; when it is hydrated it reads no more, but counts as told until it is deleted.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from zlib import crc32

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Index,
    String,
    Table,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from opengallery.database import Json, UtcDateTime, metadata, now
from opengallery.replication.progress import replicas_table

REPLICAS_OF_A_PLAN = 4

readers = Table(
    "readers",
    metadata,
    Column("machine", String(1024), primary_key=True),
    Column("owner", String(1024), nullable=False),
    Column("tenant_id", String(64), nullable=False),
    Column("region", String(64), nullable=False),
    Column("store", String(128), nullable=False),
    Column("fallbacks", Json, nullable=False),
    Column("image_id", String(64), nullable=False),
    Column("is_reading", Boolean, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Index("ix_readers_owner", "owner", "region"),
    Index("ix_readers_image", "image_id"),
    Index("ix_readers_store", "store"),
)


class TooManyReplicas(Exception):
    """More replicas are asked for than the region has stores."""

    def __init__(self, region: str, asked: int, capacity: int) -> None:
        """`capacity` is the number of stores of `region`."""
        super().__init__(region, asked, capacity)
        self.region, self.asked, self.capacity = region, asked, capacity

    def __str__(self) -> str:
        """Say what to do."""
        return (
            f"Replica count {self.asked} exceeds the {self.capacity} stores of region '{self.region}'. "
            "Lower regionalReplicaCount or add a store in opengallery.toml."
        )


class NoReplicaInRegion(Exception):
    """The owner has no verified replica in the machine's region."""

    def __init__(self, owner: str, region: str) -> None:
        """`owner` as the replicas table names it."""
        super().__init__(owner, region)
        self.owner, self.region = owner, region

    def __str__(self) -> str:
        """Say what to do."""
        return f"'{self.owner}' has no completed replica in region '{self.region}'. Add the region first."


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """Where a machine reads: the stores in the order in which it tries them."""

    stores: list[str]
    image_id: str
    tenant_id: str


def choose_stores(
    region: str,
    names: Iterable[str],
    capacity: int,
    count: int,
    held: Iterable[str] = (),
    load: Mapping[str, int] | None = None,
) -> list[str]:
    """The `count` stores of `region` that shall hold a replica, out of `names`.

    Stores of `held` come first, in their order, so that nothing moves without need; then the least
    loaded by `load` (any measure), ties as `names` has them. Raises `TooManyReplicas`.
    """
    if count > capacity:
        raise TooManyReplicas(region, count, capacity)
    names = list(names)
    kept = [store for store in held if store in names]
    others = [store for store in names if store not in kept]
    others.sort(key=lambda store: (load or {}).get(store, 0))
    return (kept + others)[:count]


def choose_reader(
    connection: Connection,
    machine: str,
    owner: str,
    region: str,
    limit: int = REPLICAS_OF_A_PLAN,
    silent: Collection[tuple[str, str]] = (),
) -> ReadPlan:
    """Decide where `machine` reads the image of `owner`, and write it down.

    The replica with the fewest readers comes first; of equals the one whose store has fewer readers
    of anything, then the one that fewer machines were told. The fallbacks go around the others, so
    that the machines of a dead replica spread over them. Replicas that are `silent` (store, image id)
    come first only when there is no other, and last among the fallbacks. Asked again for a machine that reads, it
    answers the same as long as those replicas are there, and never another image, even when the
    owner has gone or come back with one. Runs in the caller's write transaction.
    Raises `NoReplicaInRegion`.
    """
    columns = replicas_table.c
    held = connection.execute(
        select(columns.store, columns.tenant_id, columns.image_id)
        .where(columns.owner == owner, columns.region == region, columns.state == "Completed")
        .order_by(columns.store)
        .with_for_update()
    ).all()
    stores = [row.store for row in held]
    told_before = read_plan(connection, machine, owner, region)
    if told_before is not None:
        is_same_image = any(row.image_id == told_before.image_id for row in held)
        if not is_same_image or set(told_before.stores) <= set(stores):
            return told_before
    if not held:
        raise NoReplicaInRegion(owner, region)
    release_reader(connection, machine)

    reads = _count(connection, stores, readers.c.owner == owner, readers.c.is_reading)
    store_reads = _count(connection, stores, readers.c.is_reading)
    told = _count(connection, stores, readers.c.owner == owner)
    lost = {store for store in stores if (store, held[0].image_id) in silent}
    first = min(
        stores, key=lambda store: (store in lost, reads[store], store_reads[store], told[store], store)
    )
    at = stores.index(first)
    others = stores[at + 1 :] + stores[:at]
    turn = told[first] % len(others) if others else 0
    order = sorted([first, *others[turn:], *others[:turn]], key=lambda store: store in lost)
    plan = ReadPlan(order[:limit], held[0].image_id, held[0].tenant_id)
    connection.execute(
        insert(readers).values(
            machine=machine,
            owner=owner,
            tenant_id=plan.tenant_id,
            region=region,
            store=first,
            fallbacks=plan.stores[1:],
            image_id=plan.image_id,
            is_reading=True,
            since=now(),
        )
    )
    return plan


def _count(connection: Connection, stores: list[str], *conditions: ColumnElement[bool]) -> Counter[str]:
    query = select(readers.c.store, func.count()).where(readers.c.store.in_(stores), *conditions)
    return Counter(dict(connection.execute(query.group_by(readers.c.store)).all()))


def read_plan(
    connection: Connection, machine: str, owner: str | None = None, region: str | None = None
) -> ReadPlan | None:
    """Where `machine` was told to read (that owner's image in that region); None if it reads nothing."""
    query = select(readers).where(readers.c.machine == machine, readers.c.is_reading)
    if owner is not None:
        query = query.where(readers.c.owner == owner, readers.c.region == region)
    row = connection.execute(query).one_or_none()
    return None if row is None else ReadPlan([row.store, *row.fallbacks], row.image_id, row.tenant_id)


def share_reading(connection: Connection, machine: str, sharer: str) -> ReadPlan | None:
    """Keep what `machine` reads for `sharer` too, until `release_reader(sharer)`; None if it reads nothing.

    Asked again, it keeps what it kept: the machine may have gone since.
    """
    kept = read_plan(connection, sharer)
    if kept is not None:
        return kept
    row = connection.execute(
        select(readers).where(readers.c.machine == machine, readers.c.is_reading)
    ).first()
    if row is None:
        return None
    connection.execute(insert(readers).values({**row._mapping, "machine": sharer, "since": now()}))
    return read_plan(connection, sharer)


def add_fallbacks(
    connection: Connection, machine: str, silent: Collection[tuple[str, str]], limit: int = REPLICAS_OF_A_PLAN
) -> ReadPlan | None:
    """Give a machine whose replicas fell silent others, until `limit` of its plan answer or all are in it.

    Returns its plan, or None when it reads nothing. Runs in the caller's write transaction.
    """
    row = connection.execute(
        select(readers).where(readers.c.machine == machine, readers.c.is_reading)
    ).one_or_none()
    if row is None:
        return None
    columns = replicas_table.c
    held = connection.scalars(
        select(columns.store)
        .where(columns.owner == row.owner, columns.region == row.region, columns.state == "Completed")
        .where(columns.image_id == row.image_id, columns.tenant_id == row.tenant_id)
        .order_by(columns.store)
        .with_for_update()
    ).all()
    stores = [row.store, *row.fallbacks]
    answering = sum((store, row.image_id) not in silent for store in stores)
    others = [store for store in held if store not in stores and (store, row.image_id) not in silent]
    turn = crc32(machine.encode()) % len(others) if others else 0
    added = [*others[turn:], *others[:turn]][: max(0, limit - answering)]
    if added:
        connection.execute(
            update(readers).where(readers.c.machine == machine).values(fallbacks=[*row.fallbacks, *added])
        )
    return ReadPlan([*stores, *added], row.image_id, row.tenant_id)


def read_plans(connection: Connection) -> dict[str, ReadPlan]:
    """The plans of all machines that read today."""
    return {
        row.machine: ReadPlan([row.store, *row.fallbacks], row.image_id, row.tenant_id)
        for row in connection.execute(select(readers).where(readers.c.is_reading))
    }


def end_reading(connection: Connection, machine: str) -> None:
    """`machine` is hydrated: nothing is pinned for it any more. Call `leftovers.sweep` afterwards."""
    connection.execute(update(readers).where(readers.c.machine == machine).values(is_reading=False))


def release_reader(connection: Connection, machine: str) -> None:
    """`machine` is deleted: it counts nowhere any more. Call `leftovers.sweep` afterwards."""
    connection.execute(delete(readers).where(readers.c.machine == machine))


def readers_per_store(connection: Connection, owner: str) -> dict[str, int]:
    """By store, how many of today's machines were told to read `owner` there first."""
    query = select(readers.c.store, func.count()).where(readers.c.owner == owner).group_by(readers.c.store)
    return dict(connection.execute(query).all())


def read_replicas(connection: Connection) -> set[tuple[str, str, str, str]]:
    """The replicas that machines read today, as (region, store, tenant id, image id)."""
    columns = readers.c
    query = select(columns.region, columns.store, columns.fallbacks, columns.tenant_id, columns.image_id)
    return {
        (row.region, store, row.tenant_id, row.image_id)
        for row in connection.execute(query.where(columns.is_reading))
        for store in (row.store, *row.fallbacks)
    }


def is_pinned(connection: Connection, store: str, tenant_id: str, image_id: str) -> bool:
    """Whether a machine still reads this image in this store, first or as a fallback."""
    query = select(readers.c.store, readers.c.fallbacks).where(
        readers.c.image_id == image_id, readers.c.tenant_id == tenant_id, readers.c.is_reading
    )
    return any(store == row.store or store in row.fallbacks for row in connection.execute(query))


def lock_image(connection: Connection, store: str, tenant_id: str, image_id: str) -> None:
    """Keep every other writer off the replicas of this image in this store, until the transaction ends.

    SQLite has one writer at a time anyway. Take several locks in the order of the stores' names.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("select pg_advisory_xact_lock(hashtextextended(:image, 0))"),
            {"image": f"{store}/{tenant_id}/{image_id}"},
        )
