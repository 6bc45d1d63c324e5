"""A worker process: does the tasks of `bulk` that its parent sends, in memory that both see.

`python -m opengallery.imagestore.worker SOCKET`. It ends when its parent does (its socket closes), and
by itself when it has had nothing to do for a while; `workers.Worker` starts it again.
"""

import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle

from opengallery.imagestore.arena import MAP, READY, map_arena
from opengallery.imagestore.bulk import TASKS, Memory
from opengallery.imagestore.keys import DataKey

IDLE_S = 60.0


def main(connection: Connection) -> None:
    """Answer until the parent is gone."""
    arenas: dict[int, Memory] = {}
    keys: dict[bytes, DataKey] = {}
    connection.send(READY)
    while connection.poll(IDLE_S):
        name, *arguments = connection.recv()
        if name == MAP:
            number, size_bytes = arguments
            arenas[number] = map_arena(recv_handle(connection), size_bytes)
            continue
        number, secret, *rest = arguments
        if secret not in keys:
            keys[secret] = DataKey(secret)
        connection.send(TASKS[name](arenas[number], keys[secret], *rest))


if __name__ == "__main__":
    # Ctrl-C in a terminal reaches the whole group; the parent decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(int(sys.argv[1])) as parent:
        try:
            main(parent)
        except (EOFError, ConnectionError):
            sys.exit(0)
