"""A replica server process: `python -m opengallery.replica_server`, started by the supervisor.

Its start comes as a JSON line on standard input, because it holds keys; what it may serve besides
comes as more lines. It answers each with a line on standard output, and ends with its parent, unless it
is told where to wait for the next one (see `handover`).
"""

import ctypes
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import msgspec

from opengallery.replica_server.boots import Boots
from opengallery.replica_server.checked_bytes import CheckedBytes
from opengallery.replica_server.connections import Connections
from opengallery.replica_server.handover import outlive
from opengallery.replica_server.http import ReplicaApplication
from opengallery.replica_server.images import Images
from opengallery.replica_server.protocol import Start
from opengallery.replication.places import StorePlaces

CONNECTIONS = 1 << 16
# Just enough for the image store to read ahead of streams.
FRAME_CACHE_BYTES = 128 << 20
# Threads that decompress must not hold up the one that sends.
SWITCH_INTERVAL_S = 0.0005
PR_SET_PDEATHSIG = 1
# From malloc.h. Threads that decompress would each keep a heap, and holes in it where frames were: 110 MB more.
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BYTES = 64 << 10


def main() -> None:
    """Serve until the parent dies, closes standard input, or sends SIGTERM."""
    # Standard output is for answers only: what anything else prints there goes to standard error.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    start = msgspec.json.decode(sys.stdin.readline(), type=Start)
    libc = ctypes.CDLL(None)
    libc.mallopt(M_ARENA_MAX, 2)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
    if start.handover is None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if start.handover is None and os.getppid() != start.parent_pid:
        sys.exit("The parent is gone already.")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    images = Images(Path(start.index), FRAME_CACHE_BYTES)
    images.learn(start.places)
    checked = CheckedBytes(start.cache_bytes)
    boots = Boots(Path(start.boots)) if start.boots else None
    application = ReplicaApplication(images, checked, start.cookie_key, start.counters_secret, boots)
    listener = socket.socket(fileno=start.listener)
    connections = Connections(
        listener,
        application.answer,
        application.refuse,
        min(CONNECTIONS, most // 2),
        application.hot,
        application.warming.fulfil() if application.warming else None,
    )
    signal.signal(signal.SIGTERM, lambda *_: connections.stop())
    without_parent: Callable[[], None] = connections.stop
    if start.handover is not None:
        without_parent = outlive(Path(start.handover), start.listener, application.counters, connections.stop)
    threading.Thread(target=_learn, args=(images, answers, without_parent), name="learn", daemon=True).start()
    print("serving", file=answers)
    if boots is not None:
        threading.Thread(target=boots.save_now_and_then, name="boots", daemon=True).start()
    connections.serve()
    # The thread that waits on standard input can't be ended otherwise.
    os._exit(0)


def _learn(images: Images, answers: TextIO, without_parent: Callable[[], None]) -> None:
    for line in sys.stdin:
        images.learn(msgspec.json.decode(line, type=StorePlaces))
        print("learned", file=answers)
    without_parent()


if __name__ == "__main__":
    main()
