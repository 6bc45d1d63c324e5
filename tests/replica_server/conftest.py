"""A region with two replicas of one image, and the servers that serve it."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from opengallery.database import Database, metadata, now
from opengallery.imagestore import open_image
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

MIB = 1 << 20
TENANT = "tenant"
REGION = "westeurope"


@dataclass
class Region:
    """A running region: its servers, and one image of `content` in `westeurope-01` and `-02`."""

    settings: Settings
    database: Database
    stores: Stores
    servers: ReplicaServers
    image_id: str
    content: bytes
    client: httpx.Client

    def url(self, store: str = "westeurope-01") -> str:
        return self.servers.url(REGION, store, TENANT, self.image_id)

    def cookie(self, store: str = "westeurope-01", machine: str = "machine-1", seconds: int = 600) -> str:
        until = now() + timedelta(seconds=seconds)
        return self.servers.cookie(REGION, store, TENANT, self.image_id, machine, until)

    def get(
        self,
        range_header: str | None = None,
        store: str = "westeurope-01",
        method: str = "GET",
        **headers: str,
    ) -> httpx.Response:
        """Read with a good cookie."""
        headers = {"Cookie": self.cookie(store)} | headers
        if range_header is not None:
            headers["Range"] = range_header
        return self.client.request(method, self.url(store), headers=headers)

    def packs(self, store: str) -> list[Path]:
        """The files that hold the blocks of a store."""
        folder = self.settings.data / "stores" / REGION / store
        return [path for path in folder.rglob("packs/*/*") if path.is_file()]


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Region]:
    """24 MiB of data with a hole in it, in two stores; nothing is started before the first URL."""
    content = os.urandom(12 * MIB) + bytes(8 * MIB) + os.urandom(3 * MIB + 8192)
    (tmp_path / "a.raw").write_bytes(content)
    settings = Settings(data=tmp_path)
    database = Database(settings.database)
    with database.write() as connection:
        metadata.create_all(connection)
    stores = Stores(settings, database)
    for store in ("westeurope-01", "westeurope-02"):
        with open_image(tmp_path / "a.raw") as source:
            image_id = stores.open(store, TENANT).put(source).image_id
    servers = ReplicaServers(settings, stores)
    with httpx.Client(timeout=30) as client:
        yield Region(settings, database, stores, servers, image_id, content, client)
    servers.close()
    database.close()


def wait_until(is_so, timeout_s: float = 30) -> None:  # type: ignore[no-untyped-def]
    """Wait for a condition; fails the test when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


@pytest.fixture(name="wait_until")
def _wait_until():  # type: ignore[no-untyped-def]
    return wait_until
