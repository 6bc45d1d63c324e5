"""Progress on standard error: live bars on a terminal, now and then a line elsewhere."""

import contextlib
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Elsewhere than on a terminal: nothing for what is over soon, then a line of every row this often.
QUIET_FOR_S = 2.0
LINES_EVERY_S = 5.0
SPIN_EVERY_S = 0.1
SPINNER = "|/-\\"


@dataclass(frozen=True)
class Row:
    """One thing that moves: what it is, how far (0 to 1), and what to say of it."""

    label: str
    fraction: float
    text: str

    @property
    def line(self) -> str:
        """The row as a line of text."""
        return f"{self.label}: {self.fraction:.0%} {self.text}".rstrip()


class Board:
    """Shows rows while it is entered: `show` them as often as you like."""

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` shows nothing."""
        self._quiet = quiet
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lines_due = time.monotonic() + QUIET_FOR_S
        self._shown: dict[str, Row] = {}
        self._printed: set[str] = set()

    def __enter__(self) -> "Board":
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress:
            self._progress.stop()
        elif self._printed and not self._quiet:
            self._print()

    def show(self, rows: list[Row]) -> None:
        """Show the rows as they are now."""
        if self._quiet:
            return
        if self._progress is None:
            self._shown.update((row.label, row) for row in rows)
            if time.monotonic() >= self._lines_due:
                self._lines_due = time.monotonic() + LINES_EVERY_S
                self._print()
            return
        for row in rows:
            if row.label not in self._tasks:
                self._tasks[row.label] = self._progress.add_task(row.label, total=1.0, text="")
            self._progress.update(self._tasks[row.label], completed=row.fraction, text=row.text)

    def _print(self) -> None:
        for row in self._shown.values():
            if row.line not in self._printed:
                self._printed.add(row.line)
                print(row.line, file=sys.stderr, flush=True)


@dataclass(eq=False)
class _Wait:
    text: str
    since: float
    is_insistent: bool
    line_due: float


class Waiting:
    """Says what is waited for, while it is: a spinner on a terminal, a line elsewhere.

    Safe to use from several threads, which then share one spinner.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """`quiet` shows nothing."""
        self._quiet = quiet
        self._changed = threading.Condition()
        self._waits: list[_Wait] = []
        self._mine = threading.local()
        self._thread: threading.Thread | None = None
        self._is_line_used = False
        self._turns = 0

    @contextlib.contextmanager
    def on(self, text: str, *, insistent: bool = False) -> Iterator[None]:
        """Wait for what `text` says. Inside another wait of this thread it shows nothing of its own.

        `insistent`: on a terminal from the start, elsewhere again and again; else once, after a while.
        """
        if self._quiet or getattr(self._mine, "is_waiting", False):
            yield
            return
        now = time.monotonic()
        wait = _Wait(text, now, insistent, now + QUIET_FOR_S)
        self._mine.is_waiting = True
        with self._changed:
            self._waits.append(wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._spin, daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            self._mine.is_waiting = False
            with self._changed:
                self._waits.remove(wait)
                if not self._waits:
                    self._clear()
                    self._changed.notify_all()

    def _spin(self) -> None:
        with self._changed:
            while self._waits:
                # Whoever closed standard error wants to hear nothing.
                with contextlib.suppress(OSError, ValueError):
                    self._show()
                self._changed.wait(SPIN_EVERY_S)
            self._thread = None

    def _show(self) -> None:
        now = time.monotonic()
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            for wait in self._waits:
                if now >= wait.line_due:
                    wait.line_due = now + LINES_EVERY_S if wait.is_insistent else math.inf
                    elapsed = f" {now - wait.since:.0f} s" if wait.is_insistent else ""
                    print(f"{wait.text} ...{elapsed}", file=sys.stderr, flush=True)
            return
        shown = [wait for wait in self._waits if wait.is_insistent or now - wait.since >= QUIET_FOR_S]
        if not shown:
            self._clear()
            return
        self._turns += 1
        others = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
        end = f" ... {now - shown[0].since:.0f} s{others}"
        room = max(shutil.get_terminal_size().columns - len(end) - 3, 10)
        line = f"{SPINNER[self._turns % len(SPINNER)]} {shown[0].text[:room]}{end}"
        self._is_line_used = True
        sys.stderr.write(f"\r{line}\x1b[K")
        sys.stderr.flush()

    def _clear(self) -> None:
        if self._is_line_used:
            self._is_line_used = False
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()


def note(text: str, *, quiet: bool = False) -> None:
    """A line to the user on standard error."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def format_bytes(size_bytes: float) -> str:
    """`633 MiB`, `1.5 GiB`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size_bytes >= 1000 and len(units) > 1:
        size_bytes /= 1024
        units.pop(0)
    digits = 1 if units[0] != "B" and size_bytes < 10 else 0
    return f"{size_bytes:.{digits}f} {units[0]}"


def format_left(seconds: float | None) -> str:
    """`0:12 left`, `1:02:03 left`, nothing where nobody knows."""
    if seconds is None:
        return ""
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02} left" if hours else f"{minute}:{second:02} left"


def region_rows(version: dict[str, Any]) -> list[Row]:
    """The rows of an image version that was got with `$expand=ReplicationStatus`."""
    status = (version.get("properties") or {}).get("replicationStatus") or {}
    return [_region_row(entry) for entry in status.get("summary") or ()]


def _region_row(entry: dict[str, Any]) -> Row:
    state = entry.get("state") or "Unknown"
    parts = [] if state == "Replicating" else [state]
    if (moved := entry.get("bytesMoved")) is not None:
        parts.append(f"{format_bytes(moved)} moved")
    if (saved := entry.get("bytesSaved")) is not None:
        parts.append(f"{format_bytes(saved)} saved")
    if state == "Replicating" and (left := format_left(entry.get("secondsLeft"))):
        parts.append(left)
    if state == "Failed" and entry.get("details"):
        parts.append(entry["details"])
    fraction = 1.0 if state == "Completed" else min((entry.get("progress") or 0) / 100, 1.0)
    return Row(entry.get("region") or "?", fraction, ", ".join(parts))
