"""Events: they come back as they were recorded, are found by what they are about, and are never changed."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from opengallery.activity_log.events import FAILED, SUCCEEDED, Caller, Event, Origin, activity_events, record
from opengallery.activity_log.rotation import MIB, rotate
from opengallery.activity_log.search import Search, page
from opengallery.database import Database, now
from opengallery.settings import ActivityLogSettings

TENANT = "00000000-0000-0000-0000-00000000000a"
SUBSCRIPTION = "00000000-0000-0000-0000-00000000000b"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/Mine"
BOB = Caller(
    object_id="00000000-0000-0000-0000-00000000000c",
    user_principal_name="Bob@local",
    kind="User",
    tenant_id=TENANT,
)


def event_at(scope: str, **members: Any) -> Event:
    """An event in the log of the subscription."""
    given = {
        "operation_name": "Microsoft.Compute/galleries/write",
        "status": SUCCEEDED,
        "caller": BOB,
        "origin": Origin(address="127.0.0.1", url="https://localhost/x"),
        "tenant_id": TENANT,
        "subscription": SUBSCRIPTION,
        "status_code": 201,
        "operation_id": "00000000-0000-0000-0000-0000000000ff",
        **members,
    }
    return Event(scope=scope, **given)


def found(database: Database, **asked: Any) -> list[str]:
    """The scopes of the events that a search finds, the newest first."""
    with database.read() as connection:
        search = Search(tenant_id=TENANT, **{"subscription": SUBSCRIPTION, **asked})
        return [one.scope for one in page(connection, search, None, 100)[0]]


def test_an_event_comes_back_as_it_was_recorded(database: Database) -> None:
    whole = event_at(f"{GROUP}/x", method="PUT", error_code="Code", description="why", count=3)
    bare = event_at("/", caller=Caller(), subscription=None, status_code=None)
    with database.write() as connection:
        record(connection, whole, bare)
    with database.read() as connection:
        assert page(connection, Search(tenant_id=TENANT, subscription=SUBSCRIPTION), None, 9)[0] == [whole]
        assert page(connection, Search(tenant_id=TENANT), None, 9)[0] == [bare]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"resource_group": "MINE"}, ["b", "a"]),
        ({"resource_group": "min"}, []),
        ({"scope": f"{GROUP}/A".upper()}, ["a"]),
        ({"provider": "microsoft.network"}, ["c"]),
        ({"correlation_id": "00000000-0000-0000-0000-0000000000AA"}, ["b"]),
        ({"caller": "BOB@local"}, ["b", "a"]),
        ({"caller": BOB.object_id}, ["b", "a"]),
        ({"caller": "00000000-0000-0000-0000-0000000000EE"}, ["c"]),
        ({"status": "failed"}, ["c"]),
        ({"below": [GROUP.lower()]}, ["b", "a"]),
        ({"below": [f"{GROUP}/a".lower()]}, ["a"]),
        ({"below": []}, []),
        ({"subscription": None}, []),
        ({"subscription": SUBSCRIPTION.upper()}, ["c", "b", "a"]),
    ],
)
def test_events_are_found_by_what_they_are_about(
    database: Database, asked: dict[str, Any], names: list[str]
) -> None:
    application = Caller(app_id="00000000-0000-0000-0000-0000000000ee")
    correlated = Origin(correlation_id="00000000-0000-0000-0000-0000000000aa")
    with database.write() as connection:
        record(
            connection,
            event_at(f"{GROUP}/a"),
            event_at(f"{GROUP}/b", origin=correlated),
            event_at(
                f"/subscriptions/{SUBSCRIPTION}/resourceGroups/mine2/c",
                operation_name="Microsoft.Network/x/delete",
                caller=application,
                status=FAILED,
            ),
            event_at(f"{GROUP}/elsewhere", tenant_id="00000000-0000-0000-0000-0000000000dd"),
        )
    assert [scope[-1] for scope in found(database, **asked)] == names


def test_pages_hold_every_event_once_the_newest_first(database: Database) -> None:
    start = now()
    # Three times three at the same moment, and not recorded in the order of their times.
    events = [
        event_at(f"/{number}", happened_at=start + timedelta(seconds=number % 3)) for number in range(9)
    ]
    with database.write() as connection:
        record(connection, *events)
    search, seen, place = Search(tenant_id=TENANT, subscription=SUBSCRIPTION), [], None
    with database.read() as connection:
        for _ in range(5):
            some, place = page(connection, search, place, 2)
            seen += some
    assert place is None
    assert {one.scope for one in seen} == {f"/{number}" for number in range(9)} and len(seen) == 9
    assert [one.happened_at for one in seen] == sorted((one.happened_at for one in seen), reverse=True)


def test_an_event_can_not_be_changed(database: Database) -> None:
    with database.write() as connection:
        record(connection, event_at(f"{GROUP}/a"))
    with pytest.raises(DBAPIError, match="only appended to"), database.write() as connection:
        connection.execute(text("update activity_events set status = 'Failed'"))
    assert found(database, status=SUCCEEDED) == [f"{GROUP}/a"]


def test_what_an_event_holds_is_bounded_and_fit_to_be_kept(database: Database) -> None:
    with database.write() as connection:
        record(connection, event_at("/\0\ud800\n" + "x" * 9000, operation_name="y" * 9000))
        kept = connection.execute(activity_events.select()).one()
    assert kept.scope.startswith("/???x") and len(kept.scope) == 2048
    assert len(kept.operation_name) == 256


def test_old_events_go(database: Database) -> None:
    settings = ActivityLogSettings(days=90)
    old, recent = now() - timedelta(days=91), now() - timedelta(days=89)
    with database.write() as connection:
        record(connection, event_at("/old", happened_at=old), event_at("/recent", happened_at=recent))
    assert rotate(database, settings) == 1
    assert found(database) == ["/recent"]
    assert rotate(database, settings) == 0


def test_the_oldest_events_go_when_there_is_no_room(database: Database) -> None:
    with database.write() as connection:
        record(connection, *(event_at(f"/{number}") for number in range(2500)))
        size_bytes = connection.execute(activity_events.select()).first().size_bytes  # type: ignore[union-attr]
        # Sizes are of texts: an event is no smaller than its scope, and its details.
        assert 300 < size_bytes < 2000
    room = MIB // (size_bytes + 10)
    gone = rotate(database, ActivityLogSettings(max_mib=1))
    assert abs(gone - (2500 - room)) < 50
    with database.read() as connection:
        left = connection.execute(activity_events.select().order_by(activity_events.c.sequence)).all()
    assert [row.scope for row in left] == [f"/{number}" for number in range(gone, 2500)]
    assert sum(row.size_bytes for row in left) <= MIB


def test_failures_do_not_push_out_what_was_written(database: Database) -> None:
    with database.write() as connection:
        record(connection, *(event_at(f"/written/{number}") for number in range(100)))
        record(connection, *(event_at(f"/failed/{number}", status=FAILED) for number in range(2400)))
    assert rotate(database, ActivityLogSettings(max_mib=1)) > 1000
    with database.read() as connection:
        left = connection.execute(activity_events.select().order_by(activity_events.c.sequence)).all()
    assert [row.scope for row in left[:100]] == [f"/written/{number}" for number in range(100)]
    assert left[-1].scope == "/failed/2399" and {row.status for row in left[100:]} == {FAILED}
    assert sum(row.size_bytes for row in left[100:]) <= MIB / 2


def test_a_refused_write_leaves_no_event(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        record(connection, event_at(f"{GROUP}/a"))
        raise ZeroDivisionError
    assert found(database) == []
