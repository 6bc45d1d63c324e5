"""The recorder: no refusal makes anybody wait, and no flood of them fills the log."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from opengallery.activity_log import recorder
from opengallery.activity_log.events import FAILED, Caller, Event, Origin, activity_events
from opengallery.activity_log.recorder import Recorder
from opengallery.database import Database
from opengallery.settings import ActivityLogSettings

LIMIT = 5
TENANT = "00000000-0000-0000-0000-00000000000a"
SUBSCRIPTION = "00000000-0000-0000-0000-00000000000b"


class Clock:
    """Seconds that pass when they are told to."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(database: Database, clock: Clock) -> Iterator[Recorder]:
    yield Recorder(database, ActivityLogSettings(failures_per_minute=LIMIT), clock=clock)


def refusal(name: str = "one", scope: str = "/x") -> Event:
    """A refusal of the caller `name`."""
    return Event(
        operation_name="Microsoft.Compute/galleries/read",
        scope=scope,
        status=FAILED,
        caller=Caller(object_id=name),
        origin=Origin(),
        tenant_id=TENANT,
        subscription=SUBSCRIPTION,
    )


def rows(database: Database) -> list[tuple[str | None, str, int]]:
    """Caller, scope and count of all events, in the order in which they were written."""
    with database.read() as connection:
        found = connection.execute(activity_events.select().order_by(activity_events.c.sequence)).all()
    return [(row.object_id, row.scope, row.details["count"]) for row in found]


def test_of_a_flood_so_many_are_kept_and_the_rest_is_counted(
    database: Database, log: Recorder, clock: Clock
) -> None:
    for number in range(1000):
        log.offer(refusal("flood", f"/{number}"))
    log.offer(refusal("quiet"))
    log.flush()
    kept = [("flood", f"/{number}", 1) for number in range(LIMIT)]
    assert rows(database) == [*kept, ("quiet", "/x", 1)]
    clock.seconds += 60
    log.flush()
    counted = ("flood", f"/subscriptions/{SUBSCRIPTION}", 1000 - LIMIT)
    assert rows(database) == [*kept, ("quiet", "/x", 1), counted]
    log.offer(refusal("flood", "/later"))
    log.flush()
    assert rows(database)[-1] == ("flood", "/later", 1)


def test_what_waits_is_written_when_the_server_ends(database: Database, log: Recorder) -> None:
    log.start()
    for _ in range(LIMIT + 2):
        log.offer(refusal())
    log.close()
    assert rows(database) == [("one", "/x", 1)] * LIMIT + [("one", f"/subscriptions/{SUBSCRIPTION}", 2)]


def test_many_callers_at_once_are_bounded_too(
    database: Database, log: Recorder, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(recorder, "CALLERS_MAX", 10)
    monkeypatch.setattr(recorder, "ALL_CALLERS", 6)
    for number in range(500):
        log.offer(refusal(f"caller-{number}"))
    clock.seconds += 60
    log.flush()
    assert len(rows(database)) <= 30 + 11
    assert sum(count for _, _, count in rows(database)) == 500


def test_a_refusal_waits_for_no_writer(database: Database, log: Recorder) -> None:
    with database.write() as connection:
        connection.execute(activity_events.select())
        log.offer(refusal())  # on SQLite, who wrote it now would wait for this transaction
        assert rows(database) == []
    log.flush()
    assert len(rows(database)) == 1


def test_an_event_that_no_database_can_hold_keeps_none_out(database: Database, log: Recorder) -> None:
    bad = replace(refusal(), operation_id="x" * 100, caller=Caller(app_id="y" * 100))
    for one in (refusal(), bad, refusal()):
        log.offer(one)
    log.flush()
    assert [row for row in rows(database) if row[0]] == [("one", "/x", 1)] * 2


def test_no_event_is_lost_between_threads(database: Database) -> None:
    log = Recorder(database, ActivityLogSettings(failures_per_minute=10_000))
    log.start()

    def offer(number: int) -> None:
        for _ in range(200):
            log.offer(refusal(f"thread-{number}"))

    threads = [threading.Thread(target=offer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert sum(count for _, _, count in rows(database)) == 800
