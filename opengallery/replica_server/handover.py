"""Handover: a replica server that outlives its control plane gives its socket to the next one.

It waits at a Unix socket, whose folder only its user may enter. Who connects gets the listening socket;
when a successor serves on it, this server is told to end, and answers with what it has sent since its
control plane went. So the port answers all the time, and machines read on.
"""

import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from opengallery.replica_server.protocol import Counters

HELLO = b"socket"
END = b"end"
TIMEOUT_S = 5


class Handover:
    """The other end of the handover: a server of an earlier control plane that still serves."""

    def __init__(self, connection: socket.socket, listener: socket.socket) -> None:
        """`listener` is the socket that both have now."""
        self._connection = connection
        self.listener = listener

    def end(self) -> Counters:
        """Let the old server end: its successor serves. Returns what nobody has counted yet."""
        try:
            with self._connection, self._connection.makefile("rb") as answers:
                self._connection.sendall(END)
                return msgspec.json.decode(answers.read(), type=Counters)
        except (OSError, msgspec.MsgspecError):
            return Counters([], [])


def outlive(
    path: Path, listener: int, counters: Callable[[], Counters], stop: Callable[[], None]
) -> Callable[[], None]:
    """Wait at `path`, in a thread, for who takes `listener` over; call `stop` when told to end.

    Returns what to call when the control plane has gone, which counts no more from then on.
    """
    counted = Counters([], [])

    def without_parent() -> None:
        nonlocal counted
        counted = counters()
        # What it wrote to may be a pipe that nobody reads any more.
        if not stat.S_ISREG(os.fstat(sys.stderr.fileno()).st_mode):
            with Path(os.devnull).open("ab") as nowhere:
                os.dup2(nowhere.fileno(), sys.stderr.fileno())

    waiting = socket.socket(socket.AF_UNIX)
    with _short(path) as address:
        path.unlink(missing_ok=True)
        waiting.bind(address)
    waiting.listen()

    def give() -> None:
        while True:
            connection, _ = waiting.accept()
            with connection, suppress(OSError):
                socket.send_fds(connection, [HELLO], [listener])
                if connection.recv(len(END)) == END:
                    connection.sendall(msgspec.json.encode(counters().since(counted)))
                    break
        stop()

    threading.Thread(target=give, name="handover", daemon=True).start()
    return without_parent


def take_over(path: Path) -> Handover | None:
    """Get the socket of the server that waits at `path`; None when there is none any more."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_S)
    try:
        with _short(path) as address:
            connection.connect(address)
        _, (descriptor,), *_ = socket.recv_fds(connection, len(HELLO), 1)
    except (OSError, ValueError):
        connection.close()
        path.unlink(missing_ok=True)
        return None
    return Handover(connection, socket.socket(fileno=descriptor))


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A short name for a socket: its whole path may be longer than the 107 bytes the kernel takes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
