"""Real machines that boot while their replicas are killed, fall silent, or rot."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from opengallery.database import Database
from opengallery.imagestore import verify
from opengallery.replication.progress import replicas
from opengallery.replication.stores import Stores
from opengallery.settings import Settings
from tests.imagestore.faults import rounds

from .publishing import MIB, definition, id_of, upload, version_body
from .serving import Gallery, until
from .storm import ONE_A_STORE, Storm, bring_back, empty_memory, kill_replica, server_of, store_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DELAY_S = 10


@pytest.fixture(scope="module")
def gallery() -> Iterator[Gallery]:
    """A server with a process for every store."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    running = Gallery(folder / "data", ONE_A_STORE)
    running.serve()
    yield running
    running.end()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def image(gallery: Gallery, boot_image: Path) -> str:
    """The boot image as a managed image."""
    definition(gallery)
    return upload(gallery, boot_image, "boot")


@pytest.fixture
def storm(gallery: Gallery, image: str, request: pytest.FixtureRequest) -> Iterator[Storm]:
    """Machines to be, of a version with as many replicas as the test's parameter says."""
    version = f"{definition(gallery)}/versions/1.0.0"
    gallery.put(version, version_body(gallery, image, westcentralus=request.param))
    storm = Storm(gallery, version)
    yield storm
    storm.end()
    gallery.act("DELETE", version)


def stores_of(storm: Storm) -> list[str]:
    """The stores with a replica of the storm's version."""
    return [replica["store"] for replica in storm.gallery.get(f"{storm.version}/replicas")["value"]]


def until_read(storm: Storm, more_bytes: int) -> None:
    """Wait until the replicas have served so much more."""
    before = storm.served_bytes()
    until(lambda: storm.served_bytes() >= before + more_bytes)


@pytest.mark.parametrize("storm", [2], indirect=True)
def test_a_silent_replica_delays_machines_by_seconds(storm: Storm, payload: str) -> None:
    # Machines that share two cores slow each other down by more than what is looked for here.
    each = rounds(3, 5)
    storm.start(2 * each)
    silent = storm.machines[0].store
    disturbed = [machine for machine in storm.machines if machine.store == silent]
    undisturbed = [machine for machine in storm.machines if machine.store != silent]
    assert len(disturbed) == len(undisturbed) == each
    pid = server_of(storm.gallery, silent)
    assert storm.look() == 0
    os.kill(pid, signal.SIGSTOP)
    try:
        storm.until_ready(payload)
        # The slowest beside the slowest: where boots take long, machines differ by seconds anyway.
        usual_s = sorted(machine.boot_s for machine in undisturbed)
        late_s = sorted(machine.boot_s for machine in disturbed)
        delays_s = [round(late - usual, 1) for late, usual in zip(late_s, usual_s, strict=True)]
        print(f"undisturbed {usual_s} s, a silent replica delays by {delays_s} s")
        assert max(delays_s) <= DELAY_S
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("storm", [5], indirect=True)
@pytest.mark.parametrize("is_last_killed", [False, True])
def test_machines_boot_though_one_replica_after_another_is_killed(
    storm: Storm, payload: str, is_last_killed: bool
) -> None:
    count = rounds(4, 20)
    storm.start(count)
    stores = stores_of(storm)
    killed = stores if is_last_killed else stores[:-1]
    for store in killed:
        kill_replica(storm.gallery, store)
        if store != killed[-1]:
            until_read(storm, count * MIB // 2)
    if is_last_killed:
        until(storm.are_paused, 60 * count)  # they share two cores until they miss what they read
        assert storm.look() < count
        time.sleep(10)  # longer than a read's time-out, and than the pause between two tries to go on
        assert storm.look() < count
        bring_back(storm.gallery, stores[1])
    storm.until_ready(payload)
    for store in killed:
        if store_folder(storm.gallery, store).with_suffix(".away").exists():
            bring_back(storm.gallery, store)


@pytest.mark.parametrize("storm", [2], indirect=True)
def test_a_corrupted_replica_under_a_booting_machine_is_repaired(storm: Storm, payload: str) -> None:
    for each in stores_of(
        storm
    ):  # earlier machines had the same image, whose right bytes are still in memory
        empty_memory(storm.gallery, each)
    storm.start(1, settled=False)
    store = storm.machines[0].store
    packs = [file for file in store_folder(storm.gallery, store).rglob("packs/*/*") if file.is_file()]
    assert packs
    for pack in packs:
        size_bytes = pack.stat().st_size
        with pack.open("r+b") as file:
            for offset in range(4096, size_bytes - 4096, 65536):
                file.seek(offset)
                file.write(os.urandom(64))
    assert storm.look() == 0
    storm.until_ready(payload)

    def is_repaired() -> bool:
        states = storm.gallery.get(f"{storm.version}/replicas")["value"]
        return {replica["state"] for replica in states} == {"Completed"} and _is_good(storm, store)

    until(is_repaired)
    served = {r["store"]: r["bytesServed"] for r in storm.gallery.get(f"{storm.version}/replicas")["value"]}
    assert all(served.values())


def _is_good(storm: Storm, store: str) -> bool:
    """Whether every byte of the version's image in this store is right."""
    settings = Settings(data=storm.gallery.data)
    database = Database(settings.database)
    with database.read() as connection:
        (replica,) = [
            each
            for each in replicas(connection, id_of(storm.gallery, storm.version).lower())
            if each.store == store
        ]
    opened = Stores(settings, database).open(store, replica.tenant_id)
    is_good = verify(opened, replica.image_id).bad == []
    database.close()
    return is_good
