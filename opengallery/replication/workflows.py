"""Durable workflows: bring an image in, adopt, replicate, repair and remove replicas.

They are called from inside an ARM operation's workflow, or started alone; a process that is killed
goes on at the last finished step when `DBOS.launch` takes the work up again. `bind` comes before that.
An owner is the lower-cased ARM id of a version, an image or a disk; here it is an opaque text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from dbos import DBOS
from sqlalchemy import insert, select, update

from opengallery.database import now
from opengallery.imagestore import UnusableImage
from opengallery.replication import leftovers, steps
from opengallery.replication.placement import TooManyReplicas, lock_image
from opengallery.replication.plans import NothingToReplicate, Plan, Target, make_plan, settle
from opengallery.replication.progress import ReplicaGone, Tally, replicas, replicas_table
from opengallery.replication.runtime import ReplicaFailed, bind, close, runtime
from opengallery.replication.steps import Base

__all__ = [
    "Base",
    "DataDisk",
    "Ingested",
    "NothingToReplicate",
    "ReplicaFailed",
    "ReplicationFailed",
    "ReplicationStopped",
    "Target",
    "TooManyReplicas",
    "UnusableImage",
    "adopt",
    "bind",
    "close",
    "ingest",
    "remove",
    "repair",
    "replicate",
    "sweep",
]

ATTEMPTS = 2
POLL_INTERVAL_S = 0.2
REPAIRING = "a bad block was found; it is being repaired"


@dataclass(frozen=True, slots=True)
class Ingested:
    """An image that came in."""

    image_id: str
    size_bytes: int


class DataDisk(TypedDict):
    """An image that goes where another one goes: its owner, what it is made of, and what to call it."""

    owner: str
    source_owner: str
    name: str


class ReplicationFailed(Exception):
    """Some replicas could not be made; the others are there. `regions` says why, by region."""

    def __init__(self, regions: dict[str, str]) -> None:
        """`regions` has at least one."""
        super().__init__(regions)
        self.regions = regions

    def __str__(self) -> str:
        """Name the regions."""
        reasons = "; ".join(f"{region}: {reason.rstrip('.')}" for region, reason in self.regions.items())
        return f"Replication failed in {reasons}."


class ReplicationStopped(Exception):
    """The replicas are being removed, or asked for differently: whoever made them stopped."""


@DBOS.workflow(name="replication.ingest", max_recovery_attempts=None)
def ingest(owner: str, tenant_id: str, path: str, region: str, base: Base | None = None) -> Ingested:
    """Bring the file `path` into a store of `region`, as the one replica of `owner`.

    It is the first store, or one that holds the `base` over which the file is a machine's disk: only what
    the machine changed is new there. The file can be deleted when this returns. Raises `UnusableImage`,
    `ReplicaFailed` (then `owner` has no replica), or `ReplicationStopped` when `owner` was removed meanwhile.
    """
    home = min(base["stores"]) if base is not None and base["tenant_id"] == tenant_id else None
    store = steps.enlist(owner, tenant_id, region, home)
    try:
        done = steps.put(owner, store, path, base)
        tally = Tally(done["done_bytes"], 0, done["saved_bytes"], done["stored_bytes"])
        _, bad = _read_back(owner, store, steps.segment_count(done["total_bytes"]), tally)
        if bad:
            raise ReplicaFailed(f"What was written can't be read back: {bad}")
        steps.complete(owner, store)
    except ReplicaGone:
        raise ReplicationStopped(owner) from None
    except Exception:
        _drop(owner)
        raise
    return Ingested(done["image_id"], done["total_bytes"])


@DBOS.workflow(name="replication.adopt", max_recovery_attempts=None)
def adopt(owner: str, source_owner: str, region: str | None = None) -> Ingested:
    """Make `owner` an owner of the complete replicas of `source_owner` (in `region`); no byte moves.

    Raises `NothingToReplicate`.
    """
    return _adopt(owner, source_owner, region)


@DBOS.workflow(name="replication.replicate", max_recovery_attempts=None)
def replicate(
    owner: str, source_owner: str, targets: list[Target], data_disks: Sequence[DataDisk] = ()
) -> None:
    """Make the replicas of `owner` exactly those of `targets`; the image is that of `source_owner`.

    What is there stays, what is missing is brought and verified, all regions at the same time; then
    what is not asked for goes. A region that fails does not stop the others, but then nothing goes.
    The same is done for `data_disks`: all is well, and something goes, when it is so for all of them.
    Raises `TooManyReplicas`, `NothingToReplicate`, `ReplicationFailed`, `ReplicationStopped`.
    """
    disks = [DataDisk(owner=owner, source_owner=source_owner, name=""), *data_disks]
    plans = _plan(disks, targets)
    filling = [
        (
            disk,
            region,
            DBOS.start_workflow(fill_region, disk["owner"], plan.tenant_id, plan.image_id, stores),
        )
        for disk, plan in zip(disks, plans, strict=True)
        for region, stores in plan.missing.items()
    ]
    failures: dict[str, list[str]] = {}
    is_stopped = False
    for disk, region, handle in filling:
        try:
            if details := handle.get_result(polling_interval_sec=POLL_INTERVAL_S):
                named = f"{disk['name']}: {details}" if disk["name"] else details
                failures.setdefault(region, []).append(named)
        except ReplicationStopped:
            is_stopped = True
    if is_stopped:
        raise ReplicationStopped(owner)
    for disk, plan in zip(disks, plans, strict=True):
        settle(disk["owner"], plan.unwanted, bool(failures))
    if failures:
        raise ReplicationFailed({region: "; ".join(details) for region, details in failures.items()})


def _plan(disks: list[DataDisk], targets: list[Target]) -> list[Plan]:
    """A plan for each disk. When one can't be made, nothing is begun for the others."""
    plans: list[Plan] = []
    try:
        plans.extend(make_plan(disk["owner"], disk["source_owner"], targets) for disk in disks)
    except Exception as error:
        for disk, plan in zip(disks, plans, strict=False):
            for store in (store for stores in plan.missing.values() for store in stores):
                steps.fail(disk["owner"], store, str(error))
            settle(disk["owner"], plan.unwanted, True)
        raise
    return plans


@DBOS.workflow(name="replication.fill_region", max_recovery_attempts=None)
def fill_region(owner: str, tenant_id: str, image_id: str, stores: list[str]) -> str:
    """Make the replicas of `owner` in these stores of one region, one after the other.

    The first comes over the wide area, unless the region has the image already; the others come from
    their neighbours. Returns what went wrong, store by store; empty when all are verified.
    """
    failures: list[str] = []
    for store in stores:
        try:
            _fill(owner, store)
        except ReplicaGone:
            steps.abandon(store, tenant_id, image_id)
            raise ReplicationStopped(owner) from None
        except Exception as error:
            details = str(error) or type(error).__name__
            steps.fail(owner, store, details)
            failures.append(f"{store}: {details}")
    return "; ".join(failures)


@DBOS.workflow(name="replication.repair", max_recovery_attempts=None)
def repair(store: str, tenant_id: str, image_id: str) -> str:
    """Verify a complete replica in which a bad block was found, and bring again what is bad.

    No machine is told to read it meanwhile. Returns what went wrong; empty when it is good again.
    """
    owners = _suspend(store, tenant_id, image_id)
    return "; ".join(
        details for owner in owners if (details := fill_region(owner, tenant_id, image_id, [store]))
    )


@DBOS.workflow(name="replication.remove", max_recovery_attempts=None)
def remove(owner: str) -> None:
    """Drop all replicas of `owner`. Whoever is making one stops.

    An image is deleted from a store when no other owner has it there and no machine reads it.
    """
    _drop(owner)


def sweep() -> int:
    """Delete the images that have lost their last reader; call it when a machine stops reading."""
    return leftovers.sweep(runtime().database, runtime().stores)


def _fill(owner: str, store: str) -> None:
    """Bring the image and read it back; what is bad then is brought once more."""
    count, is_there, tally = steps.begin(owner, store)
    bad = ""
    for _ in range(ATTEMPTS):
        if not is_there:
            tally = _bring(owner, store, count)
        tally, bad = _read_back(owner, store, count, tally)
        if not bad:
            steps.complete(owner, store)
            return
        is_there = False
    raise ReplicaFailed(f"What was written can't be read back: {bad}")


def _bring(owner: str, store: str, count: int) -> Tally:
    segment, tally = 0, Tally()
    while segment < count:
        segment, tally = steps.bring(owner, store, segment, count, tally)
    return steps.finish(owner, store, tally)


def _read_back(owner: str, store: str, count: int, tally: Tally) -> tuple[Tally, str]:
    """Verify every segment; return the tally and the first thing that is bad."""
    segment, bad = 0, ""
    while segment < count:
        segment, tally, found = steps.read_back(owner, store, segment, count, tally)
        bad = bad or found
    return tally, bad


@DBOS.step(name="replication.drop")
def _drop(owner: str) -> None:
    with runtime().database.write() as connection:
        leftovers.drop_replicas(connection, owner)
    sweep()


@DBOS.step(name="replication.adopt_replicas")
def _adopt(owner: str, source_owner: str, region: str | None) -> Ingested:
    with runtime().database.write() as connection:
        held = [
            replica
            for replica in replicas(connection, source_owner)
            if replica.state == "Completed" and region in (None, replica.region)
        ]
        if not held:
            raise NothingToReplicate(source_owner)
        leftovers.drop_replicas(connection, owner)
        for replica in sorted(held, key=lambda replica: replica.store):
            lock_image(connection, replica.store, replica.tenant_id, replica.image_id)
            row = steps.new_row(
                owner,
                replica.store,
                replica.tenant_id,
                replica.region,
                image_id=replica.image_id,
                state="Completed",
                total_bytes=replica.total_bytes,
            )
            connection.execute(insert(replicas_table).values(row))
    sweep()
    return Ingested(held[0].image_id, held[0].total_bytes)


@DBOS.step(name="replication.suspend")
def _suspend(store: str, tenant_id: str, image_id: str) -> list[str]:
    columns = replicas_table.c
    these = (columns.store == store) & (columns.tenant_id == tenant_id) & (columns.image_id == image_id)
    details = REPAIRING
    with runtime().database.write() as connection:
        connection.execute(
            update(replicas_table)
            .where(these, columns.state == "Completed")
            .values(state="Pending", details=details, done_bytes=0, updated_at=now())
        )
        query = select(columns.owner).where(these, columns.state == "Pending", columns.details == details)
        return list(connection.scalars(query.order_by(columns.owner)))
