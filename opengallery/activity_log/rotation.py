"""Rotation: the oldest events go when they are too old, or when all of them are too large."""

import time
from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, select, true

from opengallery.activity_log.events import FAILED, activity_events
from opengallery.database import Database, now
from opengallery.settings import ActivityLogSettings

ROWS_AT_ONCE = 200
PAUSE_S = 0.02
ROWS_MAX = 5000
MIB = 2**20

_sequence = activity_events.c.sequence


def rotate(database: Database, settings: ActivityLogSettings) -> int:
    """Delete what is older than `days`, and the oldest beyond `max_mib`. Returns how many events went.

    Failures get half of the room, so that those who are refused can't push out what others did. In short
    transactions, and not many: who gets `ROWS_MAX` or more has to come again.
    """
    room = settings.max_mib * MIB
    everything, failures = true(), activity_events.c.status == FAILED
    gone = _delete(database, everything, _too_old(database, settings.days), ROWS_MAX)
    for which, its_room in ((failures, room // 2), (everything, room)):
        # Only now: what went before makes room for the rest.
        gone += _delete(database, which, _too_many(database, which, its_room), ROWS_MAX - gone)
    return gone


def _delete(database: Database, which: ColumnElement[bool], last: int, rows_max: int) -> int:
    """Delete what is no newer than `last`, from the oldest on."""
    gone = 0
    while gone < rows_max and last:
        oldest = select(_sequence).where(which, _sequence <= last).order_by(_sequence).limit(ROWS_AT_ONCE)
        with database.write() as connection:
            some = connection.scalars(oldest).all()
            if not some:
                break
            connection.execute(delete(activity_events).where(which, _sequence.between(some[0], some[-1])))
        gone += len(some)
        time.sleep(PAUSE_S)  # others who write come between
    return gone


def _too_old(database: Database, days: int) -> int:
    """The newest event that is too old; 0 if none is."""
    is_old = activity_events.c.happened_at < now() - timedelta(days=days)
    with database.read() as connection:
        return connection.scalar(select(func.max(_sequence)).where(is_old)) or 0


def _too_many(database: Database, which: ColumnElement[bool], bytes_max: int) -> int:
    """The newest event for which there is no room any more; 0 if there is room for all."""
    size_bytes = activity_events.c.size_bytes
    with database.read() as connection:
        if (connection.scalar(select(func.sum(size_bytes)).where(which)) or 0) <= bytes_max:
            return 0
        from_newest = func.sum(size_bytes).over(order_by=_sequence.desc()).label("from_newest")
        totals = select(_sequence, from_newest).where(which).subquery()
        beyond = select(func.max(totals.c.sequence)).where(totals.c.from_newest > bytes_max)
        return connection.scalar(beyond) or 0
