"""Replica servers one by one, each a process on a socket of its choice: what the supervisor starts, without it."""

import os
import re
import secrets
import socket
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path

import msgspec

from opengallery.database import now
from opengallery.replica_server.cookies import sign
from opengallery.replica_server.process import end, spawn, tell
from opengallery.replica_server.protocol import Counters, Start
from opengallery.replication.places import StorePlaces
from opengallery.replication.stores import Stores

CACHE_BYTES = 128 << 20


class ReplicaProcess:
    """A replica server of one store and one image, listening where `listener` does."""

    def __init__(
        self, listener: socket.socket, stores: Stores, store: str, tenant_id: str, image_id: str
    ) -> None:
        self._address: tuple[str, int] = listener.getsockname()
        self._key, self._secret = secrets.token_bytes(32), secrets.token_urlsafe(32)
        self._replica = store, tenant_id, image_id
        self._listener = listener
        self.process = spawn(listener, Path(stores.data) / store)
        places = StorePlaces([stores.place(store)], {tenant_id: stores.keys.data_key(tenant_id)})
        index = str(Path(stores.data) / "index")
        start = Start(os.getpid(), listener.fileno(), self._key, self._secret, CACHE_BYTES, index, places)
        tell(self.process, start, "serving")

    @property
    def url(self) -> str:
        """Where the image is read."""
        return f"http://{self._address[0]}:{self._address[1]}/images/{'/'.join(self._replica)}"

    def cookie(self, machine: str) -> str:
        """What lets `machine` read it for a day."""
        until = now() + timedelta(days=1)
        return sign(self._key, machine, *self._replica, int(until.timestamp()))

    def sent_bytes(self) -> int:
        """What it has sent so far."""
        connection = HTTPConnection(*self._address, timeout=30)
        connection.request("GET", "/counters", headers={"Authorization": f"Bearer {self._secret}"})
        counters = msgspec.json.decode(connection.getresponse().read(), type=Counters)
        connection.close()
        return sum(count for _, _, count in counters.served)

    def close(self) -> None:
        """End it."""
        end(self.process)
        self._listener.close()


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for path in children for child in path.read_text().split()]
    return [pid, *(member for child in found for member in family(child))]


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far; 0 when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """The most resident memory that a process had; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0
