"""A replica server process: `python -m opengallery.replica_server`, started by the supervisor.

Its start comes as a JSON line on standard input, because it holds keys; what it may serve besides
comes as more lines. It answers each with a line on standard output, and ends with its parent.
"""

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TextIO

import msgspec
from granian.constants import Interfaces
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server

from opengallery.replica_server.http import ReplicaApplication
from opengallery.replica_server.images import Images
from opengallery.replica_server.protocol import BACKLOG, Start
from opengallery.replication.places import StorePlaces

CONNECTIONS = 1 << 16
PR_SET_PDEATHSIG = 1


class ReplicaServer(Server):
    """Granian on a socket that listens already.

    The supervisor keeps the socket, so that reads wait, and are not refused, while a dead server is
    started again. (Granian's own has SO_REUSEPORT: two servers could each get half of the reads.)
    """

    def __init__(self, application: ReplicaApplication, listener: socket.socket) -> None:
        """`listener` listens, and stays open as long as the server."""
        super().__init__(
            application,
            address=listener.getsockname()[0],
            port=listener.getsockname()[1],
            interface=Interfaces.ASGINL,
            websockets=False,
            log_enabled=False,
            backlog=BACKLOG,
            backpressure=CONNECTIONS,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        self._shd = SocketHolder(self._listener.fileno(), False, BACKLOG)  # type: ignore[call-arg,assignment]


def main() -> None:
    """Serve until the parent dies, closes standard input, or sends SIGTERM."""
    # Standard output is for answers only: what anything else prints there goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    start = msgspec.json.decode(sys.stdin.readline(), type=Start)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.parent_pid:
        sys.exit("The parent is gone already.")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    images = Images(Path(start.index), start.cache_bytes)
    images.learn(start.places)
    application = ReplicaApplication(images, start.cookie_key, start.counters_secret)
    listener = socket.socket(fileno=start.listener)
    print("serving", file=answers)
    asyncio.run(_serve(ReplicaServer(application, listener), images, answers))
    # The thread that waits on standard input can't be ended otherwise.
    os._exit(0)


async def _serve(server: ReplicaServer, images: Images, answers: TextIO) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.stop)

    def learn() -> None:
        for line in sys.stdin:
            images.learn(msgspec.json.decode(line, type=StorePlaces))
            print("learned", file=answers)
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(server.stop)

    threading.Thread(target=learn, name="learn", daemon=True).start()
    await server.serve()


if __name__ == "__main__":
    main()
