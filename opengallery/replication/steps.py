"""The bounded pieces of work on one replica, each safe to do again.

A step takes the replica further and writes what it did; it stops as soon as the replica is unwanted.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from dbos import DBOS
from sqlalchemy import insert, select, update

from opengallery.database import now
from opengallery.imagestore import (
    SEGMENT_BYTES,
    AnyOf,
    BlockSource,
    CorruptBlock,
    ImageStore,
    Moved,
    PutProgress,
    VerifyReport,
    finish_transfer,
    open_image,
    open_overlay,
    transfer_segment,
    verify_segment,
)
from opengallery.replication.leftovers import drop_replicas, leave, sweep
from opengallery.replication.placement import lock_image
from opengallery.replication.progress import (
    Meter,
    Replica,
    ReplicaGone,
    Tally,
    replicas,
    replicas_table,
    set_state,
)
from opengallery.replication.runtime import (
    ReplicaFailed,
    moving_bytes,
    reading_bytes,
    runtime,
    stop_if_closing,
    translated,
)

SOURCES_TO_TRY = 3
STEP_BYTES = SEGMENT_BYTES
ASSUMED_COMPRESSION = 2


class Base(TypedDict):
    """The image that a machine's disk lies over, and the stores that hold it."""

    stores: list[str]
    tenant_id: str
    image_id: str


class _Progress:
    """The tally of one replica while a step works on it; an interrupted attempt still counts.

    Bytes that the interrupted attempt brought are found in the store by the next one, which would
    take them for saved.
    """

    def __init__(self, replica: Replica, before: Tally) -> None:
        self._meter = Meter(runtime().database, replica.owner, replica.store)
        self._before = before
        self._shown_bytes = replica.done_bytes
        self._moved_bytes = max(0, replica.moved_bytes - before.moved_bytes)
        self._stored_bytes = max(0, replica.stored_bytes - before.stored_bytes)
        saved_bytes = replica.saved_bytes - before.saved_bytes
        self._brought_bytes = max(0, replica.done_bytes - before.done_bytes - saved_bytes)

    def tally(self, moved: Moved, data_bytes: int) -> Tally:
        """What is done with `moved` of this step, which has come through `data_bytes` of data."""
        before = self._before
        return Tally(
            done_bytes=before.done_bytes + data_bytes,
            moved_bytes=before.moved_bytes + self._moved_bytes + moved.moved_bytes,
            saved_bytes=before.saved_bytes + max(0, moved.saved_bytes - self._brought_bytes),
            stored_bytes=before.stored_bytes + self._stored_bytes + moved.stored_bytes,
        )

    def show(self, tally: Tally) -> None:
        """Write it now and then; done bytes never go down. Raises `ReplicaGone`, `Closing`."""
        stop_if_closing()
        self._shown_bytes = max(self._shown_bytes, tally.done_bytes)
        self._meter.show(replace(tally, done_bytes=self._shown_bytes))

    def end(self, tally: Tally) -> Tally:
        """Write the step's result. Raises `ReplicaGone`."""
        self._meter.write(tally)
        return tally


@DBOS.step(name="replication.begin")
def begin(owner: str, store: str) -> tuple[int, bool, Tally]:
    """Begin to work on a replica.

    Returns how many segments its image has, whether it is there already, and what is done with that.
    """
    columns = replicas_table.c
    with runtime().database.write() as connection:
        found = connection.execute(
            update(replicas_table)
            .where(columns.owner == owner, columns.store == store)
            .where(columns.state.in_(("Pending", "Replicating")))
            .values(state="Replicating", started_at=now(), updated_at=now())
        )
    if found.rowcount == 0:
        raise ReplicaGone
    replica = _replica(owner, store)
    with translated():
        is_there = _target(replica).has(replica.image_id)
    saved_bytes = replica.work_bytes // 2 if is_there else 0
    return segment_count(replica.total_bytes), is_there, Tally(saved_bytes, 0, saved_bytes, 0)


@DBOS.step(name="replication.bring")
def bring(owner: str, store: str, segment: int, count: int, before: Tally) -> tuple[int, Tally]:
    """Bring segments from the nearest replica, from `segment` on, until a step's worth of data is there.

    Returns the next segment, and what is done for the replica with it.
    """
    replica = _replica(owner, store)
    target = _target(replica)
    progress = _Progress(replica, before)
    failure: Exception | None = None
    for source in _sources(replica):
        total, next_segment = Moved(), segment
        try:
            with moving_bytes(store):
                _set(replica, source_store=source.name, source_region=runtime().stores.region_of(source.name))
                while next_segment < count and total.data_bytes < STEP_BYTES:
                    earlier = total

                    def show(moved: Moved, earlier: Moved = earlier) -> None:
                        now_done = min(
                            moved.data_bytes, moved.saved_bytes + ASSUMED_COMPRESSION * moved.moved_bytes
                        )
                        progress.show(progress.tally(earlier + moved, earlier.data_bytes + now_done))

                    total += transfer_segment(source, target, replica.image_id, next_segment, show)
                    next_segment += 1
            return next_segment, progress.end(progress.tally(total, total.data_bytes))
        except ReplicaFailed as error:
            failure = error
    assert failure is not None
    raise failure


@DBOS.step(name="replication.finish")
def finish(owner: str, store: str, before: Tally) -> Tally:
    """Write the manifest: from now on the image is there."""
    replica = _replica(owner, store)
    target = _target(replica)
    progress = _Progress(replica, before)
    failure: Exception | None = None
    for source in _sources(replica):
        try:
            with moving_bytes(store):
                moved = finish_transfer(source, target, replica.image_id)
            return progress.end(progress.tally(moved, 0))
        except ReplicaFailed as error:
            failure = error
    assert failure is not None
    raise failure


@DBOS.step(name="replication.read_back")
def read_back(owner: str, store: str, segment: int, count: int, before: Tally) -> tuple[int, Tally, str]:
    """Verify segments from `segment` on, until a step's worth was read.

    Returns the next segment, what is done, and what is bad: bad packs are quarantined, so that
    bringing the image once more mends them.
    """
    replica = _replica(owner, store)
    target = _target(replica)
    progress = _Progress(replica, before)
    report = VerifyReport()

    def show(report: VerifyReport) -> None:
        progress.show(progress.tally(Moved(), report.checked_bytes))

    with reading_bytes():
        try:
            manifest = target.manifest(replica.image_id)
        except CorruptBlock as error:
            return count, before, str(error)
        while segment < count and report.checked_bytes < STEP_BYTES:
            if segment in manifest.sections:
                verify_segment(target, replica.image_id, segment, report, show)
            segment += 1
    tally = progress.end(progress.tally(Moved(), report.checked_bytes))
    return segment, tally, str(report.bad[0]) if report.bad else ""


@DBOS.step(name="replication.complete")
def complete(owner: str, store: str) -> None:
    """The replica is verified: machines may read it."""
    columns = replicas_table.c
    with runtime().database.write() as connection:
        found = connection.execute(
            update(replicas_table)
            .where(columns.owner == owner, columns.store == store)
            .where(columns.state.in_(("Replicating", "Completed")))
            .values(state="Completed", details="", done_bytes=columns.work_bytes, updated_at=now())
        )
    if found.rowcount == 0:
        raise ReplicaGone


@DBOS.step(name="replication.fail")
def fail(owner: str, store: str, details: str) -> None:
    """The replica can't be made, for this reason."""
    with runtime().database.write() as connection:
        set_state(connection, owner, [store], "Failed", details)


@DBOS.step(name="replication.abandon")
def abandon(store: str, tenant_id: str, image_id: str) -> None:
    """Work on a replica met its removal: see to it that nothing of it stays."""
    _abandon(store, tenant_id, image_id)


@DBOS.step(name="replication.enlist")
def enlist(owner: str, tenant_id: str, region: str, store: str | None = None) -> str:
    """Make the row of a replica whose image is not known yet, in the region's first store unless another
    is given; return that."""
    store = store or runtime().stores.first(region)
    with runtime().database.write() as connection:
        drop_replicas(connection, owner)
        connection.execute(insert(replicas_table).values(new_row(owner, store, tenant_id, region)))
    return store


@DBOS.step(name="replication.put")
def put(owner: str, store: str, path: str, base: Base | None = None) -> dict[str, Any]:
    """Bring a file (a machine's disk over `base`) into `store`, as a replica that waits to be verified.

    Raises `UnusableImage`. Done again after a crash, it finds the blocks that it stored before.
    """
    replica = _replica(owner, store)
    target = _target(replica)
    meter = Meter(runtime().database, owner, store)

    def show(progress: PutProgress) -> None:
        stop_if_closing()
        meter.show(Tally(done_bytes=progress.done_bytes))

    with moving_bytes(store), _open_source(Path(path), base) as source:
        _set(replica, total_bytes=source.size_bytes, work_bytes=2 * source.size_bytes)
        while True:
            report = target.put(source, show)
            data_bytes = target.stat(report.image_id).data_bytes
            done = {
                "image_id": report.image_id,
                "work_bytes": 2 * data_bytes,
                "done_bytes": data_bytes,
                "saved_bytes": max(0, data_bytes - report.new_bytes),
                "stored_bytes": report.stored_bytes,
            }
            try:
                _set(replica, **done)
            except ReplicaGone:
                _abandon(store, replica.tenant_id, report.image_id)
                raise
            # A sweep may have deleted the same image in the moment before this row held it.
            if target.has(report.image_id):
                return done | {"total_bytes": report.size_bytes}


def _open_source(path: Path, base: Base | None) -> BlockSource:
    limit = runtime().stores.max_size_bytes
    return open_image(path, limit) if base is None else open_overlay(path, _open_base(base), limit)


def _open_base(base: Base) -> BlockSource:
    """The base, in every store that can be reached. Raises `ReplicaFailed` when none can."""
    places: list[BlockSource] = []
    reason = "no store is named"
    for store in base["stores"]:
        try:
            with translated():
                places.append(runtime().stores.open(store, base["tenant_id"]).open(base["image_id"]))
        except ReplicaFailed as error:
            reason = str(error).rstrip(".")
    if not places:
        raise ReplicaFailed(f"The image that the machine's disk lies over can't be read: {reason}.")
    return AnyOf(places)


def segment_count(size_bytes: int) -> int:
    """How many segments an image of this size has."""
    return -(-size_bytes // SEGMENT_BYTES)


def new_row(owner: str, store: str, tenant_id: str, region: str, **more: object) -> dict[str, object]:
    """A row of a replica that is being made; `more` are other columns."""
    row = {"owner": owner, "store": store, "tenant_id": tenant_id, "region": region, "image_id": ""}
    return row | {"state": "Replicating", "started_at": now(), "updated_at": now()} | more


def _replica(owner: str, store: str) -> Replica:
    """The replica that a step works on. Raises `ReplicaGone` when nobody wants it any more."""
    with runtime().database.read() as connection:
        held = [replica for replica in replicas(connection, owner) if replica.store == store]
    if not held or held[0].state != "Replicating":
        raise ReplicaGone
    return held[0]


def _target(replica: Replica) -> ImageStore:
    with translated():
        return runtime().stores.open(replica.store, replica.tenant_id)


def _sources(replica: Replica) -> list[ImageStore]:
    """The nearest stores that have the image, those of the same region first. Raises `ReplicaFailed`."""
    columns = replicas_table.c
    query = (
        select(columns.store, columns.region)
        .where(columns.image_id == replica.image_id, columns.tenant_id == replica.tenant_id)
        .where(columns.store != replica.store, columns.state == "Completed")
        .distinct()
    )
    with runtime().database.read() as connection:
        held = sorted(connection.execute(query), key=lambda row: (row.region != replica.region, row.store))
    sources: list[ImageStore] = []
    reason = "no other replica of this image is complete. Publish it again from its source"
    for row in held:
        try:
            with translated():
                source = runtime().stores.open(row.store, replica.tenant_id)
                if source.has(replica.image_id):
                    sources.append(source)
        except ReplicaFailed as error:
            reason = str(error).rstrip(".")
        if len(sources) == SOURCES_TO_TRY:
            break
    if not sources:
        raise ReplicaFailed(f"Nothing to copy from: {reason}.")
    return sources


def _set(replica: Replica, **values: object) -> None:
    """Change the row of a replica that is being made. Raises `ReplicaGone`; nothing changes then."""
    image_id = str(values.get("image_id", replica.image_id))
    columns = replicas_table.c
    with runtime().database.write() as connection:
        if image_id:
            lock_image(connection, replica.store, replica.tenant_id, image_id)
        found = connection.execute(
            update(replicas_table)
            .where(columns.owner == replica.owner, columns.store == replica.store)
            .where(columns.state == "Replicating")
            .values(updated_at=now(), **values)
        )
    if found.rowcount == 0:
        raise ReplicaGone


def _abandon(store: str, tenant_id: str, image_id: str) -> None:
    with runtime().database.write() as connection:
        lock_image(connection, store, tenant_id, image_id)
        leave(connection, store, tenant_id, image_id)
    sweep(runtime().database, runtime().stores)
