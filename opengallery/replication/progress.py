"""Replicas as the database knows them: state, bytes done, moved and saved, time left.

An owner is the lower-cased ARM id of a version, an image or a disk; here it is an opaque text.
Work on a replica is counted twice over its data: once to bring it, once to read it back.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, Column, Connection, Index, String, Table, Text, and_, select, update

from opengallery.database import Database, UtcDateTime, metadata, now

State = Literal["Pending", "Replicating", "Completed", "Failed", "Removing"]
WRITE_INTERVAL_S = 0.2

replicas_table = Table(
    "replicas",
    metadata,
    Column("owner", String(1024), primary_key=True),
    Column("store", String(128), primary_key=True),
    Column("tenant_id", String(64), nullable=False),
    Column("region", String(64), nullable=False),
    Column("image_id", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("total_bytes", BigInteger, nullable=False, default=0),
    Column("work_bytes", BigInteger, nullable=False, default=0),
    Column("done_bytes", BigInteger, nullable=False, default=0),
    Column("moved_bytes", BigInteger, nullable=False, default=0),
    Column("saved_bytes", BigInteger, nullable=False, default=0),
    Column("stored_bytes", BigInteger, nullable=False, default=0),
    Column("served_bytes", BigInteger, nullable=False, default=0),
    Column("source_region", String(64), nullable=True),
    Column("source_store", String(128), nullable=True),
    Column("details", Text, nullable=False, default=""),
    Column("started_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_replicas_image", "tenant_id", "image_id", "store"),
)


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of one owner. `total_bytes` is the image's size, `work_bytes` what there is to do.

    `moved_bytes` came from the source store, compressed; `saved_bytes` is data that the store held
    already. `source_store` is where it was copied from, None for a replica that was put there.
    """

    owner: str
    store: str
    tenant_id: str
    region: str
    image_id: str
    state: State
    total_bytes: int
    work_bytes: int
    done_bytes: int
    moved_bytes: int
    saved_bytes: int
    stored_bytes: int
    served_bytes: int
    source_region: str | None
    source_store: str | None
    details: str
    started_at: datetime
    updated_at: datetime

    @property
    def fraction(self) -> float:
        """How much of the work is done, 0 to 1; 1 only when the replica is verified."""
        if self.state == "Completed":
            return 1.0
        return min(0.99, self.done_bytes / self.work_bytes) if self.work_bytes else 0.0


@dataclass(frozen=True, slots=True)
class RegionStatus:
    """How far one owner's replicas in one region are. `progress` is a percentage, 0 to 100.

    `moved_bytes` is everything that was copied for these replicas, `wide_area_bytes` the part of it
    that came from another region. `seconds_left` is None when nothing runs or nothing was seen yet.
    """

    region: str
    state: Literal["Unknown", "Replicating", "Completed", "Failed"]
    details: str
    progress: int
    moved_bytes: int
    wide_area_bytes: int
    saved_bytes: int
    seconds_left: int | None


def replicas(connection: Connection, owner: str) -> list[Replica]:
    """All replicas of `owner`, by region and store."""
    columns = replicas_table.c
    query = select(replicas_table).where(columns.owner == owner).order_by(columns.region, columns.store)
    return [Replica(**row) for row in connection.execute(query).mappings()]


def region_status(connection: Connection, owner: str, *others: str) -> list[RegionStatus]:
    """Every region in which `owner` has or awaits replicas, and what is being removed is left out.

    With `others`, which go where it goes, all are one: a region is complete when it is for each of them.
    """
    owners = (owner, *others)
    regions: dict[str, list[Replica]] = {}
    for each in owners:
        for replica in replicas(connection, each):
            if replica.state != "Removing":
                regions.setdefault(replica.region, []).append(replica)
    return [_region_status(region, held, len(owners)) for region, held in sorted(regions.items())]


def _region_status(region: str, held: list[Replica], owners: int) -> RegionStatus:
    states = {replica.state for replica in held}
    unbegun = owners - len({replica.owner for replica in held})
    state: Literal["Unknown", "Replicating", "Completed", "Failed"] = "Completed"
    if states & {"Pending", "Replicating"}:
        state = "Replicating"
    elif "Failed" in states:
        state = "Failed"
    elif unbegun:
        state = "Unknown"
    failures = [f"{replica.store}: {replica.details}" for replica in held if replica.state == "Failed"]
    return RegionStatus(
        region=region,
        state=state,
        details="; ".join(failures),
        progress=int(100 * sum(replica.fraction for replica in held) / (len(held) + unbegun)),
        moved_bytes=sum(replica.moved_bytes for replica in held),
        wide_area_bytes=sum(
            replica.moved_bytes for replica in held if replica.source_region not in (None, region)
        ),
        saved_bytes=sum(replica.saved_bytes for replica in held),
        seconds_left=_seconds_left(held) if state == "Replicating" else None,
    )


def _seconds_left(held: list[Replica]) -> int | None:
    """What is left at the rate of the replicas that are moving, or else of the last one that moved."""
    waiting = [replica for replica in held if replica.state in ("Pending", "Replicating")]
    observed = [replica for replica in waiting if replica.state == "Replicating" and replica.done_bytes]
    if not observed:
        finished = [replica for replica in held if replica.state == "Completed" and replica.done_bytes]
        observed = sorted(finished, key=lambda replica: replica.updated_at)[-1:]
    seconds = sum((replica.updated_at - replica.started_at).total_seconds() for replica in observed)
    if not observed or seconds <= 0:
        return None
    bytes_left = sum(max(0, replica.work_bytes - replica.done_bytes) for replica in waiting)
    return round(bytes_left * seconds / sum(replica.done_bytes for replica in observed))


def set_state(
    connection: Connection, owner: str, stores: Iterable[str], state: State, details: str = ""
) -> None:
    """Give the replicas of `owner` in `stores` a state, and say why."""
    connection.execute(
        update(replicas_table)
        .where(replicas_table.c.owner == owner, replicas_table.c.store.in_(list(stores)))
        .values(state=state, details=details, updated_at=now())
    )


def add_served(connection: Connection, counters: Mapping[tuple[str, str], int]) -> None:
    """Add the bytes that replica servers sent since the last call, by store and image id.

    Owners that share an image in a store share its bytes too: the server knows images only.
    """
    columns = replicas_table.c
    for (store, image_id), served_bytes in sorted(counters.items()):
        if served_bytes:
            connection.execute(
                update(replicas_table)
                .where(and_(columns.store == store, columns.image_id == image_id))
                .values(served_bytes=columns.served_bytes + served_bytes)
            )


@dataclass(frozen=True, slots=True)
class Tally:
    """What was done for one replica so far, all in bytes (see `Replica`)."""

    done_bytes: int = 0
    moved_bytes: int = 0
    saved_bytes: int = 0
    stored_bytes: int = 0


class ReplicaGone(Exception):
    """The replica is being removed, or is gone already: whoever works on it stops."""


class Meter:
    """Writes the progress of one replica, a few times a second, and notices when it is unwanted."""

    def __init__(self, database: Database, owner: str, store: str) -> None:
        self._database = database
        self._where = and_(replicas_table.c.owner == owner, replicas_table.c.store == store)
        self._written_s = 0.0

    def show(self, tally: Tally) -> None:
        """Write `tally` unless the last write was just now. Raises `ReplicaGone`."""
        if time.monotonic() - self._written_s >= WRITE_INTERVAL_S:
            self.write(tally)

    def write(self, tally: Tally) -> None:
        """Write `tally`. Raises `ReplicaGone`."""
        columns = replicas_table.c
        with self._database.write() as connection:
            found = connection.execute(
                update(replicas_table)
                .where(self._where, columns.state == "Replicating")
                .values(
                    done_bytes=tally.done_bytes,
                    moved_bytes=tally.moved_bytes,
                    saved_bytes=tally.saved_bytes,
                    stored_bytes=tally.stored_bytes,
                    updated_at=now(),
                )
            )
        self._written_s = time.monotonic()
        if found.rowcount == 0:
            raise ReplicaGone
