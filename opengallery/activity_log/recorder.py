"""The recorder: takes events in, and never makes who brings one wait for the database.

What was written is recorded in the transaction that wrote it. Refusals and failures have none: they wait in a
bounded queue, which one thread writes in batches. A caller gets so many of them a minute; the rest is counted,
and told of in one event at the end of the minute.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, SQLAlchemyError

from opengallery.activity_log import events
from opengallery.activity_log.events import Event
from opengallery.activity_log.rotation import ROWS_MAX, rotate
from opengallery.database import Database
from opengallery.settings import ActivityLogSettings

FLUSH_S = 1.0
ROTATE_S = 3600.0
WINDOW_S = 60.0
BATCH_MAX = 200
WAITING_MAX = 10_000
CALLERS_MAX = 1000
ALL_CALLERS = 20
"""So many times the limit of one caller is that of all callers together, in a minute."""
_OTHERS = ""

log = structlog.get_logger()

Place = Callable[[Connection, Event], Event]
"""Says in whose log an event stands, and completes its caller."""


@dataclass
class _Tally:
    """What one caller brought in the current minute: single events, and how many more, like the last one."""

    kept: int = 0
    more: int = 0
    last: Event | None = None


class Recorder:
    """Takes events of one server. Safe to use from many threads."""

    def __init__(
        self,
        database: Database,
        settings: ActivityLogSettings,
        place: Place = lambda _connection, one: one,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`place` completes an event before it is written; `clock` gives seconds."""
        self._database = database
        self._settings = settings
        self._place = place
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._waiting: list[Event] = []
        self._tallies: dict[str, _Tally] = {}
        self._kept = 0
        self._window = self._clock() // WINDOW_S
        self._rotate_at = 0.0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def record(self, connection: Connection, one: Event) -> None:
        """Write the event of something that was done, in its transaction."""
        events.record(connection, self._place(connection, one))

    def offer(self, one: Event) -> None:
        """Take the event of something that was refused or failed; it is written within seconds."""
        name = one.caller.object_id or one.origin.address or _OTHERS
        with self._lock:
            self._turn()
            if name not in self._tallies and len(self._tallies) >= CALLERS_MAX:
                name = _OTHERS
            tally = self._tallies.setdefault(name, _Tally())
            limit = self._settings.failures_per_minute
            has_room = self._kept < ALL_CALLERS * limit and len(self._waiting) < WAITING_MAX
            if tally.kept < limit and has_room:
                tally.kept += 1
                self._kept += 1
                self._waiting.append(one)
            else:
                tally.more += 1
                tally.last = one

    def start(self) -> None:
        """Write what comes in, and rotate, in a thread until `close`."""
        self._thread = threading.Thread(target=self._run, name="activity-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, the counts of this minute too, and end the thread."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        with self._lock:
            self._count()
        self._try(self.flush)

    def flush(self) -> None:
        """Write what waits now, in batches; what can't be written goes on waiting."""
        with self._writing:
            while True:
                with self._lock:
                    self._turn()
                    batch = self._waiting[:BATCH_MAX]
                if not batch:
                    return
                self._write(batch)
                with self._lock:
                    del self._waiting[: len(batch)]

    def _write(self, batch: list[Event]) -> None:
        with self._database.read() as connection:
            placed = [self._place(connection, one) for one in batch]
        try:
            with self._database.write() as connection:
                events.record(connection, *placed)
        except DataError:  # one that the database can't hold must not keep the others out for ever
            log.exception("an event can't be kept")
            for one in placed if len(placed) > 1 else ():
                self._write([one])

    def _run(self) -> None:
        while not self._ending.wait(FLUSH_S):
            self._try(self.flush)
            if self._clock() >= self._rotate_at:
                self._rotate_at = self._clock() + ROTATE_S
                self._try(self._rotate)

    def _rotate(self) -> None:
        if rotate(self._database, self._settings) >= ROWS_MAX:
            self._rotate_at = 0.0

    def _try(self, work: Callable[[], object]) -> None:
        """Do it; what the database refuses is done another time."""
        try:
            work()
        except SQLAlchemyError as error:
            log.error("the activity log can't be written", reason=str(getattr(error, "orig", error)))

    def _turn(self) -> None:
        """Begin a new minute if it is time. Holds the lock."""
        window = self._clock() // WINDOW_S
        if window != self._window:
            self._window = window
            self._count()

    def _count(self) -> None:
        """Put an event for what was only counted. Holds the lock."""
        for tally in self._tallies.values():
            if tally.last is not None:
                scope = f"/subscriptions/{tally.last.subscription}" if tally.last.subscription else "/"
                description = f"{tally.more} more failures of this caller within a minute; this is the last."
                counted = replace(
                    tally.last, id=str(uuid4()), scope=scope, count=tally.more, description=description
                )
                self._waiting.append(counted)
        self._tallies.clear()
        self._kept = 0
