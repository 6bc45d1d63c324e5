"""`gallery monitor activity-log list`: what it asks for, and what it shows."""

from datetime import timedelta

import pytest

from opengallery.cli.failure import Misuse
from opengallery.cli.monitor import parse_offset, period

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, Answer, Request, StandIn

LOG = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Insights/eventtypes/management/values"


def _events(arm: StandIn, count: int) -> list[str]:
    """Let the stand-in answer with events, and collect the filters that it was asked with."""
    filters: list[str] = []
    event = {
        "eventTimestamp": "2026-01-31T12:00:00Z",
        "status": {"value": "Failed"},
        "subStatus": {"value": "Forbidden"},
        "operationName": {"value": "Microsoft.Compute/galleries/read"},
        "caller": "bob@local",
        "resourceId": "/subscriptions/s/resourceGroups/rg",
        "correlationId": "c",
    }

    def answer(request: Request) -> Answer | None:
        if not request.path.startswith(LOG):
            return None
        filters.append(request.query["$filter"])
        return Answer(
            200, {"value": [event] * count, "nextLink": f"{arm.url}{LOG}?api-version=2015-04-01&$filter=x"}
        )

    arm.fault = answer
    return filters


def test_the_filter_has_what_was_asked_for(gallery: Gallery, arm: StandIn) -> None:
    filters = _events(arm, 60)
    words = [
        "-g",
        "rg's",
        "--status",
        "Failed",
        "--caller",
        "bob@local",
        "--start-time",
        "2026-01-31T12:00:00",
    ]
    done = gallery("monitor", "activity-log", "list", *words, "--offset", "1h")
    assert done.code == 0, done.err
    assert filters == [
        "eventTimestamp ge '2026-01-31T12:00:00+00:00' and eventTimestamp le '2026-01-31T13:00:00+00:00' "
        "and resourceGroupName eq 'rg''s' and caller eq 'bob@local' and status eq 'Failed'"
    ]
    assert len(done.json) == 50


def test_pages_are_followed_up_to_the_count_that_was_asked_for(gallery: Gallery, arm: StandIn) -> None:
    filters = _events(arm, 2)
    done = gallery("monitor", "activity-log", "list", "--max-events", "5", "-o", "table")
    assert done.code == 0, done.err
    assert len(filters) == 3
    assert done.out.splitlines()[0].split() == [
        "Time", "Status", "SubStatus", "Operation", "Caller", "ResourceId", "CorrelationId"
    ]  # fmt: skip
    assert len(done.out.splitlines()) == 7


def test_an_offset_is_read_as_az_reads_it() -> None:
    assert parse_offset("1d2h3m4s") == timedelta(days=1, hours=2, minutes=3, seconds=4)
    assert parse_offset("90M") == timedelta(minutes=90)
    for text in ("", "6", "h", "1h1d", "-1h", "9" * 20 + "d"):
        with pytest.raises(Misuse):
            parse_offset(text)


def test_what_is_missing_of_a_period_is_an_offset_away() -> None:
    hour = timedelta(hours=1)
    assert period("2026-01-31T12:00:00Z", None, hour)[1] == "2026-01-31T13:00:00+00:00"
    assert period(None, "2026-01-31T12:00:00+02:00", hour)[0] == "2026-01-31T09:00:00+00:00"
    for start, end in (("noon", None), (None, "x"), ("0001-01-01", "0001-01-01")):
        if start == end:
            assert period(start, end, hour)
        else:
            with pytest.raises(Misuse):
                period(start, end, hour)
    with pytest.raises(Misuse):
        period("9999-12-31T23:30:00Z", None, hour)
