"""Images that go together: the replicas of all, or what was there before."""

from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.database import Database
from opengallery.imagestore.packs import pack_path
from opengallery.replication.progress import region_status, replicas
from opengallery.replication.stores import Stores
from opengallery.replication.workflows import (
    DataDisk,
    NothingToReplicate,
    ReplicationFailed,
    Target,
    ingest,
    replicate,
)

TENANT = "tenant"
WEST: Target = {"region": "west", "count": 2}
NORTH: Target = {"region": "north", "count": 1}
DATA: DataDisk = {"owner": "data/version", "source_owner": "data", "name": "data disk 0"}
pytestmark = pytest.mark.usefixtures("running")


def states(database: Database, owner: str) -> dict[str, str]:
    """The state of each replica of an owner."""
    with database.read() as connection:
        return {replica.store: replica.state for replica in replicas(connection, owner)}


def bring_in(image_file: Callable[..., Path]) -> None:
    """An OS disk in one region, and a data disk that has no block in common with it in another."""
    ingest("os", TENANT, str(image_file("os.raw", 8, [0, 1])), "east")
    ingest("data", TENANT, str(image_file("data.raw", 16, [5])), "south")


def test_data_disks_go_where_the_os_disk_goes(database: Database, image_file: Callable[..., Path]) -> None:
    bring_in(image_file)
    replicate("version", "os", [WEST], [DATA])
    assert states(database, "version") == states(database, "data/version")
    replicate("version", "os", [NORTH], [DATA])
    assert states(database, "version") == states(database, "data/version") == {"north-01": "Completed"}


def test_nothing_goes_when_one_of_the_disks_failed(
    database: Database, stores: Stores, image_file: Callable[..., Path]
) -> None:
    bring_in(image_file)
    replicate("version", "os", [NORTH], [DATA])
    with database.read() as connection:
        (source,) = replicas(connection, "data")
    for store in ("south-01", "north-01"):
        opened = stores.open(store, TENANT)
        for pack in opened.manifest(source.image_id).packs:
            opened.objects.delete(pack_path(pack))
    with pytest.raises(ReplicationFailed) as failed:
        replicate("version", "os", [WEST], [DATA])
    assert list(failed.value.regions) == ["west"]
    assert failed.value.regions["west"].startswith("data disk 0: west-01: ")
    assert states(database, "version") == {
        "north-01": "Completed",
        "west-01": "Completed",
        "west-02": "Completed",
    }
    assert states(database, "data/version")["north-01"] == "Completed"
    with database.read() as connection:
        north, west = region_status(connection, "version", "data/version")
    assert (north.state, west.state) == ("Completed", "Failed")


def test_nothing_is_begun_when_a_disk_has_no_source(
    database: Database, image_file: Callable[..., Path]
) -> None:
    bring_in(image_file)
    gone: DataDisk = {"owner": "gone/version", "source_owner": "gone", "name": "data disk 1"}
    with pytest.raises(NothingToReplicate, match="'gone' has no complete image"):
        replicate("version", "os", [WEST], [DATA, gone])
    assert set(states(database, "version").values()) == {"Failed"}
    assert set(states(database, "data/version").values()) == {"Failed"}
    ingest("gone", TENANT, str(image_file("gone.raw", 8, [2])), "east")
    replicate("version", "os", [WEST], [DATA, gone])
    for owner in ("version", "data/version", "gone/version"):
        assert states(database, owner) == {"west-01": "Completed", "west-02": "Completed"}
