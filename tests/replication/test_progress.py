"""What the progress of replicas looks like from outside."""

from collections.abc import Callable

import pytest
from sqlalchemy import select

from opengallery.database import Database
from opengallery.replication.progress import (
    Meter,
    ReplicaGone,
    Tally,
    add_served,
    region_status,
    replicas,
    replicas_table,
    set_state,
)

MIB = 1 << 20
AddReplica = Callable[..., None]


def test_a_region_is_completed_when_every_replica_is(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01", done_bytes=100, work_bytes=100)
        add_replica(connection, "v", "east-02", "Pending", work_bytes=100)
        add_replica(connection, "v", "west-01", done_bytes=100, work_bytes=100)
        add_replica(connection, "v", "north-01", "Failed", details="the disk is full")
        add_replica(connection, "v", "north-02")
        add_replica(connection, "v", "south-01", "Removing")
        add_replica(connection, "other", "east-01", "Failed")
    with database.read() as connection:
        status = {region.region: region for region in region_status(connection, "v")}
    assert list(status) == ["east", "north", "west"]
    assert (status["east"].state, status["east"].progress) == ("Replicating", 50)
    assert (status["west"].state, status["west"].progress) == ("Completed", 100)
    assert (status["north"].state, status["north"].details) == ("Failed", "north-01: the disk is full")


def test_all_bytes_done_is_not_completed_before_it_is_verified(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01", "Replicating", done_bytes=100, work_bytes=100)
    with database.read() as connection:
        (status,) = region_status(connection, "v")
    assert (status.state, status.progress) == ("Replicating", 99)


def test_a_region_waits_for_every_owner_that_goes_there(database: Database, add_replica: AddReplica) -> None:
    half = {"work_bytes": 100, "done_bytes": 50}
    with database.write() as connection:
        for owner, store in (("os", "east-01"), ("os", "west-01"), ("os", "south-01"), ("zero", "south-01")):
            add_replica(connection, owner, store)
        add_replica(connection, "zero", "west-01", "Replicating", **half)
        add_replica(connection, "os", "north-01", "Failed", details="it is full")
    with database.read() as connection:
        found = {status.region: status for status in region_status(connection, "os", "zero")}
        (alone,) = region_status(connection, "zero")[:1]
    assert {region: (status.state, status.progress) for region, status in found.items()} == {
        "east": ("Unknown", 50),
        "west": ("Replicating", 75),
        "south": ("Completed", 100),
        "north": ("Failed", 0),
    }
    assert (alone.region, alone.state) == ("south", "Completed")


def test_time_left_follows_the_observed_rate(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        add_replica(
            connection, "v", "east-01", "Replicating", seconds=10, done_bytes=20 * MIB, work_bytes=60 * MIB
        )
        add_replica(connection, "v", "east-02", "Pending", work_bytes=60 * MIB)
        add_replica(connection, "v", "west-01", "Pending", work_bytes=60 * MIB)
    with database.read() as connection:
        east, west = region_status(connection, "v")
    assert east.seconds_left == 50
    assert west.seconds_left is None


def test_bytes_over_the_wide_area_are_told_apart(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01", moved_bytes=7, saved_bytes=3, source_region="west")
        add_replica(connection, "v", "east-02", moved_bytes=7, saved_bytes=3, source_region="east")
    with database.read() as connection:
        (status,) = region_status(connection, "v")
    assert (status.moved_bytes, status.wide_area_bytes, status.saved_bytes) == (14, 7, 6)


def test_served_bytes_add_up(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01")
        add_replica(connection, "v", "east-02")
        for served_bytes in (5, 6):
            add_served(connection, {("east-01", "1" * 64): served_bytes, ("east-01", "2" * 64): 100})
    with database.read() as connection:
        assert [replica.served_bytes for replica in replicas(connection, "v")] == [11, 0]


def test_the_meter_stops_who_works_on_an_unwanted_replica(
    database: Database, add_replica: AddReplica
) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01", "Replicating")
    meter = Meter(database, "v", "east-01")
    meter.write(Tally(10, 5, 2, 6))
    with database.read() as connection:
        row = connection.execute(select(replicas_table)).one()
    assert (row.done_bytes, row.moved_bytes, row.saved_bytes, row.stored_bytes) == (10, 5, 2, 6)
    with database.write() as connection:
        set_state(connection, "v", ["east-01"], "Removing")
    with pytest.raises(ReplicaGone):
        meter.write(Tally(20))


def test_the_meter_writes_a_few_times_a_second_at_most(database: Database, add_replica: AddReplica) -> None:
    with database.write() as connection:
        add_replica(connection, "v", "east-01", "Replicating")
    meter = Meter(database, "v", "east-01")
    meter.show(Tally(1))
    meter.show(Tally(2))
    with database.read() as connection:
        assert connection.execute(select(replicas_table.c.done_bytes)).scalar() == 1
