"""What is shown while bytes move."""

import os
import pty
import subprocess
import sys
import time

import pytest

from opengallery.cli import progress
from opengallery.cli.progress import Board, Row, Waiting, format_bytes, format_left, region_rows


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.5 KiB"),
        (633 << 20, "633 MiB"),
        (1 << 30, "1.0 GiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_bytes(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0, "0:00 left"), (72, "1:12 left"), (3723, "1:02:03 left")]
)
def test_time_left(seconds: float | None, text: str) -> None:
    assert format_left(seconds) == text


def test_regions_show_percent_moved_saved_and_time_left() -> None:
    summary = [
        {
            "region": "West US",
            "state": "Replicating",
            "progress": 40,
            "bytesMoved": 412 << 20,
            "bytesSaved": 230 << 20,
            "secondsLeft": 12,
        },
        {"region": "East US", "state": "Completed", "progress": 100, "bytesMoved": 0, "bytesSaved": 5 << 30},
        {"region": "UK South", "state": "Failed", "progress": 7, "details": "No space.", "secondsLeft": None},
        {"region": "Japan East", "state": "Unknown", "progress": 0},
    ]
    version = {"properties": {"replicationStatus": {"summary": summary}}}
    assert [row.line for row in region_rows(version)] == [
        "West US: 40% 412 MiB moved, 230 MiB saved, 0:12 left",
        "East US: 100% Completed, 0 B moved, 5.0 GiB saved",
        "UK South: 7% Failed, No space.",
        "Japan East: 0% Unknown",
    ]
    assert region_rows({}) == []


def test_lines_come_late_and_never_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Board() as board:
        board.show([Row("a", 0.1, "")])
        assert capsys.readouterr().err == ""
        now[0] += progress.QUIET_FOR_S
        board.show([Row("a", 0.5, "x"), Row("b", 0.0, "")])
        assert capsys.readouterr().err == "a: 50% x\nb: 0%\n"
        board.show([Row("a", 0.6, "x")])
        now[0] += progress.LINES_EVERY_S
        board.show([Row("a", 0.7, "x"), Row("b", 0.0, "")])
        assert capsys.readouterr().err == "a: 70% x\n"
        board.show([Row("a", 1.0, "done")])
    assert capsys.readouterr().err == "a: 100% done\n"


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "QUIET_FOR_S", 0)
    with Board(quiet=True) as board:
        board.show([Row("a", 0.1, "")])
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars() -> None:
    code = (
        "from opengallery.cli.progress import Board, Row\n"
        "with Board() as board: board.show([Row('West US', 0.5, '1 MiB moved')])"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "West US" in shown and "50%" in shown and "1 MiB moved" in shown


def test_a_short_wait_is_silent_and_a_long_one_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SPIN_EVERY_S", 0.01)
    waiting = Waiting()
    with waiting.on("waiting for a"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "QUIET_FOR_S", 0.05)
    monkeypatch.setattr(progress, "LINES_EVERY_S", 0.05)
    with waiting.on("waiting for a"), waiting.on("within"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "waiting for a ...\n"
    with waiting.on("taking in", insistent=True):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 1 and set(lines) == {"taking in ... 0 s"}
    with Waiting(quiet=True).on("a", insistent=True):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_spinner_that_is_wiped_away() -> None:
    code = (
        "import time\nfrom opengallery.cli import progress\n"
        "with progress.Waiting().on('waiting for vm', insistent=True): time.sleep(0.5)"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "/ waiting for vm ... 0 s" in shown and "- waiting for vm ... 0 s" in shown
    assert shown.endswith("\r\x1b[K")
