"""Rotation: the oldest events go when they are too old, or when all of them are too large."""

import time
from datetime import timedelta

from sqlalchemy import delete, func, select

from opengallery.activity_log.events import activity_events
from opengallery.database import Database, now
from opengallery.settings import ActivityLogSettings

ROWS_AT_ONCE = 200
PAUSE_S = 0.02
ROWS_MAX = 5000
MIB = 2**20

_sequence = activity_events.c.sequence


def rotate(database: Database, settings: ActivityLogSettings) -> int:
    """Delete what is older than `days`, and the oldest beyond `max_mib`. Returns how many events went.

    In short transactions, and not many: who gets `ROWS_MAX` or more has to come again.
    """
    last = max(_too_old(database, settings.days), _too_many(database, settings.max_mib * MIB))
    gone = 0
    while gone < ROWS_MAX:
        with database.write() as connection:
            first = connection.scalar(select(func.min(_sequence)))
            if first is None or first > last:
                break
            some = (_sequence <= last) & (_sequence < first + ROWS_AT_ONCE)
            gone += connection.execute(delete(activity_events).where(some)).rowcount
        time.sleep(PAUSE_S)  # others who write come between
    return gone


def _too_old(database: Database, days: int) -> int:
    """The newest event that is too old; 0 if none is."""
    is_old = activity_events.c.happened_at < now() - timedelta(days=days)
    with database.read() as connection:
        return connection.scalar(select(func.max(_sequence)).where(is_old)) or 0


def _too_many(database: Database, bytes_max: int) -> int:
    """The newest event for which there is no room any more; 0 if there is room for all."""
    size_bytes = activity_events.c.size_bytes
    with database.read() as connection:
        if (connection.scalar(select(func.sum(size_bytes))) or 0) <= bytes_max:
            return 0
        from_newest = func.sum(size_bytes).over(order_by=_sequence.desc()).label("from_newest")
        totals = select(_sequence, from_newest).subquery()
        beyond = select(func.max(totals.c.sequence)).where(totals.c.from_newest > bytes_max)
        return connection.scalar(beyond) or 0
