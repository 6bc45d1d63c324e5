"""QMP: conversations with QEMU over its socket, from ordinary threads.

`qemu.qmp` is asynchronous; one private event loop serves all conversations. A conversation lasts as
long as its commands, so that a server that comes later finds the socket free.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError

Command = tuple[str, Mapping[str, object]]

CONNECTIONS = 3


class QmpUnavailable(Exception):
    """Nobody answers at the socket: QEMU has ended, or hangs."""


class QmpRefused(Exception):
    """QEMU refused a command; the message is its own."""


class Qmp:
    """The event loop in which all conversations take place."""

    def __init__(self) -> None:
        # The library logs whole commands when asked to, and one of ours carries a signature.
        logging.getLogger("qemu.qmp").setLevel(logging.WARNING)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()

    def execute(
        self, socket_path: Path, commands: Sequence[Command], timeout_s: float = 10, fd: int | None = None
    ) -> list[Any]:
        """Run `commands` one after another and return their answers; QEMU gets `fd` before the first.

        Raises `QmpUnavailable`, and `QmpRefused` at the first command that QEMU refuses.
        """
        conversation = asyncio.wait_for(_converse(socket_path, commands, fd), timeout_s)
        try:
            return asyncio.run_coroutine_threadsafe(conversation, self._loop).result()
        except ExecuteError as error:
            raise QmpRefused(str(error)) from error
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            raise QmpUnavailable(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End the event loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _converse(socket_path: Path, commands: Sequence[Command], fd: int | None) -> list[Any]:
    left = CONNECTIONS
    while True:
        client = QMPClient("machine")
        left -= 1
        try:
            await client.connect(connect(socket_path))
            if fd is not None:
                client.send_fd_scm(fd)
            return [await client.execute(name, arguments) for name, arguments in commands]
        except ConnectError:
            # An event that comes before QEMU's first answer ends a session in which nothing was asked yet.
            if not left:
                raise
        finally:
            # QEMU may be the first to hang up, after `quit` for instance.
            with suppress(QMPError, OSError, EOFError):
                await client.disconnect()


def listen(socket_path: Path) -> socket.socket:
    """Make the socket on which QEMU will answer, in place of one that was left behind."""
    socket_path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with _Folder(socket_path) as address:
        listener.bind(address)
    listener.listen()
    return listener


def connect(socket_path: Path) -> socket.socket:
    """Connect to QEMU's socket; without waiting, since a full backlog means that nobody answers."""
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        with _Folder(socket_path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


class _Folder:
    """A short name for a socket: its whole path may be longer than the 107 bytes the kernel takes."""

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
