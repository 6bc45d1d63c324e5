"""A replica server as a process: start it, talk to it by lines, end it."""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import msgspec

from opengallery.replication.keys import ENVIRONMENT

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 5


class ReplicaServerFailed(Exception):
    """A replica server did not start, or ended at once."""


def spawn(listener: socket.socket, label: Path) -> "subprocess.Popen[str]":
    """Start a process that inherits `listener`, in a session of its own, so that Ctrl-C is not for it.

    `label` stands in its argument list, for people.
    """
    return subprocess.Popen(
        [sys.executable, "-m", "opengallery.replica_server", str(label)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[listener.fileno()],
        start_new_session=True,
        # It gets the data keys it needs; the key that wraps them all is none of its business.
        env={name: value for name, value in os.environ.items() if name != ENVIRONMENT},
    )


def tell(process: "subprocess.Popen[str]", message: msgspec.Struct, answer: str) -> None:
    """Send one line and wait for its answer. Raises `ReplicaServerFailed`."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(message).decode() + "\n")
        process.stdin.flush()
    except OSError as error:
        raise ReplicaServerFailed(f"The replica server {process.pid} ended.") from error
    line = _read_line(process.stdout)
    if line.strip() != answer:
        raise ReplicaServerFailed(f"The replica server {process.pid} answered '{line.strip()}'.")


def _read_line(stream: IO[str]) -> str:
    """The next line; empty when it does not come in time."""
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        return lines.get(timeout=START_TIMEOUT_S)
    except queue.Empty:
        return ""


def leave(process: "subprocess.Popen[str] | None") -> None:
    """Let a process go on without us: it hears the end of its standard input."""
    for stream in (process.stdin, process.stdout) if process else ():
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def end(process: "subprocess.Popen[str] | None") -> None:
    """End a process, by force when it takes too long, and close its pipes."""
    if process is None:
        return
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
