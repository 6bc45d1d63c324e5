"""Rows of the replicas table, image files, and a DBOS that runs the workflows."""

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS
from sqlalchemy import Connection, insert

from opengallery.database import Database, now
from opengallery.replication import workflows
from opengallery.replication.progress import replicas_table
from opengallery.replication.stores import Stores
from opengallery.settings import RegionSettings, Settings, StoreSettings

MIB = 1 << 20


def _add_replica(
    connection: Connection, owner: str, store: str, state: str = "Completed", **more: Any
) -> None:
    """A replica of image `i...` of tenant `t` in the region that the store's name says."""
    seconds = more.pop("seconds", 0)
    ended = now()
    row = {
        "owner": owner,
        "store": store,
        "tenant_id": "t",
        "region": store.rpartition("-")[0],
        "image_id": "1" * 64,
        "state": state,
        "started_at": ended - timedelta(seconds=seconds),
        "updated_at": ended,
        **more,
    }
    connection.execute(insert(replicas_table).values(row))


@pytest.fixture
def add_replica() -> Callable[..., None]:
    """Adds a row: connection, owner, store, state, any other column; `seconds` since it was started."""
    return _add_replica


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two regions with named stores, of three and one; all others make theirs on demand."""
    named = {"west": [f"west-0{number}" for number in (1, 2, 3)], "north": ["north-01"]}
    return Settings(
        data=tmp_path,
        regions={
            region: RegionSettings([StoreSettings(name, str(tmp_path / "disks" / name)) for name in names])
            for region, names in named.items()
        },
    )


@pytest.fixture
def stores(settings: Settings, database: Database) -> Stores:
    """The stores of `settings`."""
    return Stores(settings, database)


@pytest.fixture
def launch(settings: Settings, database: Database, stores: Stores) -> Callable[[], None]:
    """Starts DBOS, as a server does when it starts: unfinished workflows go on."""

    def start() -> None:
        DBOS.destroy()
        workflows.bind(database, stores)
        DBOS(
            config={
                "name": "gallery",
                "system_database_url": f"sqlite:///{settings.data / 'workflows.sqlite'}",
                "application_version": "1",
                "run_admin_server": False,
                "log_level": "CRITICAL",
            }
        )
        DBOS.launch()

    return start


@pytest.fixture
def running(launch: Callable[[], None]) -> Iterator[None]:
    """DBOS runs, and the workflows work on `database` and `stores`."""
    launch()
    yield
    workflows.close()
    DBOS.destroy()


@pytest.fixture
def image_file(tmp_path: Path) -> Callable[..., Path]:
    """Makes a raw image file: random MiBs at these offsets (in MiB), holes elsewhere."""

    def make(name: str, size_mib: int, random_at_mib: list[int]) -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(size_mib * MIB)
            for offset in random_at_mib:
                file.seek(offset * MIB)
                file.write(os.urandom(MIB))
        return path

    return make
