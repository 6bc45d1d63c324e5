"""What `replicate` has to do: the difference between the replicas that are and those asked for.

The plan is made once and its rows are written with it. Complete replicas that nobody asks for any
more are marked `Removing`, so that no machine is told to read them, and go when the others are there.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from dbos import DBOS
from sqlalchemy import Connection, func, insert, select

from opengallery.imagestore import ImageStat
from opengallery.replication.leftovers import drop_replicas, sweep
from opengallery.replication.placement import choose_stores, lock_image
from opengallery.replication.progress import Replica, replicas, replicas_table, set_state
from opengallery.replication.runtime import ReplicaFailed, runtime, translated
from opengallery.replication.steps import new_row


class Target(TypedDict):
    """A region, by its short name, and how many replicas it shall have."""

    region: str
    count: int


class NothingToReplicate(Exception):
    """The source has no complete replica."""

    def __init__(self, source_owner: str) -> None:
        """`source_owner` as the replicas table names it."""
        super().__init__(source_owner)
        self.source_owner = source_owner

    def __str__(self) -> str:
        """Say what to do."""
        return f"'{self.source_owner}' has no complete image. Wait until it is created, or create it again."


@dataclass(frozen=True)
class Plan:
    """By region the stores that need a replica, and the stores that shall lose theirs."""

    tenant_id: str
    image_id: str
    missing: dict[str, list[str]]
    unwanted: list[str]


@DBOS.step(name="replication.plan")
def make_plan(owner: str, source_owner: str, targets: list[Target]) -> Plan:
    """Choose the stores and write their rows. Made again after a crash, the plan is the same.

    Raises `TooManyReplicas` or `NothingToReplicate` before anything has changed.
    """
    with runtime().database.read() as connection:
        held = replicas(connection, owner)
        # An image never changes under its owner: what it has counts before what the source has now.
        complete = _complete(held) or _complete(replicas(connection, source_owner))
        if not complete:
            raise NothingToReplicate(source_owner)
        wanted = {
            target["region"]: _choose(connection, owner, target, held, complete[0]) for target in targets
        }
    stat = _stat(complete)
    stores = {store: region for region, chosen in wanted.items() for store in chosen}
    with runtime().database.write() as connection:
        rows = {replica.store: replica for replica in replicas(connection, owner)}
        image = complete[0]
        done = {
            store
            for store, replica in rows.items()
            if replica.state == "Completed" and replica.image_id == image.image_id
        }
        unwanted = sorted(
            replica.store for replica in _complete(rows.values()) if replica.store not in stores
        )
        set_state(connection, owner, unwanted, "Removing")
        drop_replicas(connection, owner, set(rows) - done - set(unwanted))
        for store in sorted(set(stores) - done):
            lock_image(connection, store, image.tenant_id, image.image_id)
            row = new_row(
                owner,
                store,
                image.tenant_id,
                stores[store],
                image_id=image.image_id,
                state="Pending",
                total_bytes=stat.size_bytes,
                work_bytes=2 * stat.data_bytes,
            )
            connection.execute(insert(replicas_table).values(row))
    missing = {region: [store for store in chosen if store not in done] for region, chosen in wanted.items()}
    return Plan(
        image.tenant_id,
        image.image_id,
        {region: chosen for region, chosen in missing.items() if chosen},
        unwanted,
    )


@DBOS.step(name="replication.settle")
def settle(owner: str, unwanted: list[str], is_failed: bool) -> None:
    """Drop the replicas that nobody wants; keep them when the others could not be made."""
    with runtime().database.write() as connection:
        left = {replica.store for replica in replicas(connection, owner) if replica.state == "Removing"}
        going = sorted(left & set(unwanted))
        if is_failed:
            set_state(connection, owner, going, "Completed")
        else:
            drop_replicas(connection, owner, going)
    sweep(runtime().database, runtime().stores)


def _complete(held: Iterable[Replica]) -> list[Replica]:
    """Those that hold the whole image, verified; `Removing` ones do as long as they have a row."""
    return [replica for replica in held if replica.state in ("Completed", "Removing")]


def _choose(
    connection: Connection, owner: str, target: Target, held: list[Replica], image: Replica
) -> list[str]:
    """The stores of one region: those that hold the image, then those of its siblings, then the emptiest.

    Owners that differ in the last part of their id only are versions of one thing, with most blocks
    in common: in the same store, the second moves and keeps only what is new.
    """
    region, stores = target["region"], runtime().stores
    mine = sorted(held, key=lambda replica: (replica.state != "Completed", replica.store))
    columns = replicas_table.c
    others = connection.scalars(
        select(columns.store)
        .where(columns.image_id == image.image_id, columns.tenant_id == image.tenant_id)
        .where(columns.region == region, columns.state == "Completed")
        .order_by(columns.store)
    )
    parent = owner.rpartition("/")[0]
    siblings = connection.scalars(
        select(columns.store)
        .where(columns.owner.startswith(f"{parent}/", autoescape=True), columns.region == region)
        .where(columns.tenant_id == image.tenant_id, columns.state == "Completed")
        .group_by(columns.store)
        .order_by(func.count().desc(), columns.store)
    )
    load = select(columns.store, func.sum(columns.stored_bytes)).where(columns.region == region)
    loads = connection.execute(load.group_by(columns.store)).all()
    return choose_stores(
        region,
        stores.candidates(region),
        stores.capacity(region),
        target["count"],
        held=list(
            dict.fromkeys([*(replica.store for replica in mine), *others, *(siblings if parent else ())])
        ),
        # Stores on demand share a disk: filled in order, they have the most blocks in common.
        load={store: int(stored) for store, stored in loads} if stores.is_named(region) else None,
    )


def _stat(complete: list[Replica]) -> ImageStat:
    failure: ReplicaFailed | None = None
    for replica in complete:
        try:
            with translated():
                return runtime().stores.open(replica.store, replica.tenant_id).stat(replica.image_id)
        except ReplicaFailed as error:
            failure = error
    assert failure is not None
    raise failure
