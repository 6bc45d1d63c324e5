"""Bringing images in, replicating and removing them, with real stores and a real DBOS."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS, SetWorkflowID
from sqlalchemy import select

from opengallery.database import Database
from opengallery.imagestore import UnusableImage, verify
from opengallery.replication import boot_pieces, steps, workflows
from opengallery.replication.leftovers import leftovers
from opengallery.replication.placement import (
    TooManyReplicas,
    choose_reader,
    end_reading,
    read_plan,
)
from opengallery.replication.progress import Replica, region_status, replicas, replicas_table
from opengallery.replication.stores import Stores
from opengallery.replication.workflows import (
    NothingToReplicate,
    ReplicationFailed,
    ReplicationStopped,
    adopt,
    ingest,
    remove,
    repair,
    replicate,
)

MIB = 1 << 20
TENANT = "tenant"
ImageFile = Callable[..., Path]
pytestmark = pytest.mark.usefixtures("running")


def held(database: Database, owner: str) -> dict[str, Replica]:
    with database.read() as connection:
        return {replica.store: replica for replica in replicas(connection, owner)}


def states(database: Database, owner: str) -> dict[str, str]:
    return {store: replica.state for store, replica in held(database, owner).items()}


def targets(**counts: int) -> list[workflows.Target]:
    return [{"region": region, "count": count} for region, count in counts.items()]


def has(stores: Stores, store: str, image_id: str) -> bool:
    return stores.open(store, TENANT).has(image_id)


def test_an_ingested_file_is_one_verified_replica(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    path = image_file("a.raw", 64, [0, 1, 40])
    content = path.read_bytes()
    done = ingest("disk", TENANT, str(path), "east")
    (replica,) = held(database, "disk").values()
    assert (replica.store, replica.region, replica.state) == ("east-01", "east", "Completed")
    assert (
        (replica.image_id, replica.total_bytes)
        == (done.image_id, done.size_bytes)
        == (done.image_id, 64 * MIB)
    )
    assert replica.done_bytes == replica.work_bytes == 6 * MIB
    assert replica.stored_bytes > 3 * MIB
    assert stores.open("east-01", TENANT).open(done.image_id).read(0, 64 * MIB) == content


def test_an_unusable_file_leaves_nothing(database: Database, tmp_path: Path) -> None:
    (tmp_path / "bad.raw").write_bytes(b"QFI\xfb" + bytes(4092))
    with pytest.raises(UnusableImage, match="qcow2"):
        ingest("disk", TENANT, str(tmp_path / "bad.raw"), "east")
    assert held(database, "disk") == {}


def test_replicas_are_made_in_every_region_and_hold_the_same_bytes(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    # Three segments of 256 MiB, one of them empty.
    path = image_file("a.raw", 700, [0, 1, 2, 255, 600, 699])
    image_id = ingest("image", TENANT, str(path), "east").image_id
    replicate("version", "image", targets(east=1, west=2, south=3))
    found = held(database, "version")
    assert list(found) == ["east-01", "south-01", "south-02", "south-03", "west-01", "west-02"]
    assert {replica.state for replica in found.values()} == {"Completed"}
    for store in found:
        reader = stores.open(store, TENANT).open(image_id)
        with path.open("rb") as file:
            for offset, length in (
                (0, 4 * MIB),
                (254 * MIB, 4 * MIB),
                (599 * MIB, 3 * MIB),
                (699 * MIB, MIB),
            ):
                file.seek(offset)
                assert reader.read(offset, length) == file.read(length)
    # One hop a region over the wide area; the others come from their neighbours, and the source's stays.
    assert {store: replica.source_store for store, replica in found.items()} == {
        "east-01": None,
        "south-01": "east-01",
        "south-02": "south-01",
        "south-03": "south-01",
        "west-01": "east-01",
        "west-02": "west-01",
    }
    assert found["east-01"].moved_bytes == 0
    assert found["south-01"].moved_bytes > 6 * MIB and found["south-01"].saved_bytes == 0
    with database.read() as connection:
        status = {region.region: region for region in region_status(connection, "version")}
    assert {region.progress for region in status.values()} == {100}
    assert status["south"].wide_area_bytes == found["south-01"].moved_bytes


def test_only_the_difference_is_done(database: Database, stores: Stores, image_file: ImageFile) -> None:
    image_id = ingest("image", TENANT, str(image_file("a.raw", 8, [0, 1, 2])), "east").image_id
    replicate("version", "image", targets(west=1, south=2))
    before = held(database, "version")
    replicate("version", "image", targets(west=3, south=1))
    after = held(database, "version")
    assert list(after) == ["south-01", "west-01", "west-02", "west-03"]
    assert after["west-01"] == before["west-01"] and after["south-01"] == before["south-01"]
    assert not has(stores, "south-02", image_id)
    replicate("version", "image", targets(north=1))
    assert list(held(database, "version")) == ["north-01"]
    assert not any(has(stores, store, image_id) for store in ("west-01", "west-02", "west-03", "south-01"))
    assert has(stores, "east-01", image_id), "the managed image still owns it"


def test_a_version_like_one_that_is_there_moves_little(database: Database, image_file: ImageFile) -> None:
    first = image_file("a.raw", 32, list(range(16)))
    second = first.with_name("b.raw")
    content = bytearray(first.read_bytes())
    content[5 * MIB : 5 * MIB + 8192] = b"\x01" * 8192
    second.write_bytes(content)
    for name, path in (("1", first), ("2", second)):
        ingest(f"image-{name}", TENANT, str(path), "east")
        replicate(f"/definition/versions/{name}", f"image-{name}", targets(west=1))
    replica = held(database, "/definition/versions/2")["west-01"]
    assert replica.moved_bytes < 64 * 1024
    assert replica.saved_bytes == 16 * MIB - 8192 + 4096  # the two new blocks are equal


def test_too_many_replicas_are_refused_before_anything_changes(
    database: Database, image_file: ImageFile
) -> None:
    ingest("image", TENANT, str(image_file("a.raw", 4, [0])), "east")
    replicate("version", "image", targets(west=1))
    with pytest.raises(TooManyReplicas, match="Replica count 4 exceeds the 3 stores of region 'west'"):
        replicate("version", "image", targets(south=1, west=4))
    assert states(database, "version") == {"west-01": "Completed"}


def test_a_source_without_replicas_is_refused(database: Database) -> None:
    with pytest.raises(NothingToReplicate):
        replicate("version", "image", targets(west=1))
    assert held(database, "version") == {}


def test_a_region_that_fails_does_not_stop_the_others(
    database: Database, stores: Stores, image_file: ImageFile, tmp_path: Path
) -> None:
    ingest("image", TENANT, str(image_file("a.raw", 8, [0, 1])), "east")
    replicate("version", "image", targets(south=1))
    (tmp_path / "disks").mkdir()
    (tmp_path / "disks" / "north-01").write_text("a file where the store's directory should be")
    with pytest.raises(ReplicationFailed) as failed:
        replicate("version", "image", targets(north=1, west=2))
    assert list(failed.value.regions) == ["north"]
    found = held(database, "version")
    # The replica that was not asked for any more stays: nothing is dropped in a failure.
    assert states(database, "version") == {
        "north-01": "Failed",
        "south-01": "Completed",
        "west-01": "Completed",
        "west-02": "Completed",
    }
    assert found["north-01"].details
    with database.read() as connection:
        status = {region.region: region for region in region_status(connection, "version")}
    assert status["north"].state == "Failed" and "north-01" in status["north"].details

    (tmp_path / "disks" / "north-01").unlink()
    replicate("version", "image", targets(north=1, west=2))
    assert set(states(database, "version").values()) == {"Completed"}
    assert list(held(database, "version")) == ["north-01", "west-01", "west-02"]


def test_a_source_with_a_bad_block_is_passed_over(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    image_id = ingest("image", TENANT, str(image_file("a.raw", 8, [0, 1, 2])), "east").image_id
    replicate("version", "image", targets(east=2))
    _damage_packs(stores, "east-01")
    replicate("version", "image", targets(east=2, west=1))
    assert verify(stores.open("west-01", TENANT), image_id).is_good
    assert held(database, "version")["west-01"].source_store == "east-02"


def test_a_damaged_replica_is_repaired_from_its_sibling(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    path = image_file("a.raw", 8, [0, 1, 2])
    image_id = ingest("image", TENANT, str(path), "east").image_id
    replicate("version", "image", targets(west=2))
    _damage_packs(stores, "west-02")
    assert repair("west-02", TENANT, image_id) == ""
    assert states(database, "version") == {"west-01": "Completed", "west-02": "Completed"}
    assert stores.open("west-02", TENANT).open(image_id).read(0, 8 * MIB) == path.read_bytes()
    assert verify(stores.open("west-02", TENANT), image_id).is_good


def test_a_damaged_replica_without_sibling_is_failed_and_not_read(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    image_id = ingest("image", TENANT, str(image_file("a.raw", 8, [0])), "east").image_id
    _damage_packs(stores, "east-01")
    assert "Nothing to copy from" in repair("east-01", TENANT, image_id)
    assert states(database, "image") == {"east-01": "Failed"}


def test_adopting_moves_nothing_and_outlives_the_source(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    path = image_file("a.raw", 8, [3])
    done = ingest("disk", TENANT, str(path), "east")
    assert adopt("image", "disk", "east") == done
    remove("disk")
    assert states(database, "image") == {"east-01": "Completed"}
    assert stores.open("east-01", TENANT).open(done.image_id).read(0, 8 * MIB) == path.read_bytes()
    remove("image")
    assert not has(stores, "east-01", done.image_id)
    with pytest.raises(NothingToReplicate):
        adopt("other", "disk")


def test_an_image_that_a_machine_reads_stays_until_it_is_hydrated(
    database: Database, stores: Stores, image_file: ImageFile
) -> None:
    image_id = ingest("image", TENANT, str(image_file("a.raw", 8, [0])), "east").image_id
    replicate("version", "image", targets(west=3))
    remove("image")
    with database.write() as connection:
        plan = choose_reader(connection, "machine", "version", "west", limit=2)
    boot_pieces.add(stores.data, TENANT, image_id, [0, 5])
    remove("version")
    assert held(database, "version") == {}
    there = {store: has(stores, store, image_id) for store in ("west-01", "west-02", "west-03")}
    assert there == {store: store in plan.stores for store in there}
    with database.read() as connection:
        assert read_plan(connection, "machine") == plan
    with database.write() as connection:
        end_reading(connection, "machine")
    assert boot_pieces.load(stores.data, TENANT, image_id) == [0, 5]
    assert workflows.sweep() == 2
    assert not any(has(stores, store, image_id) for store in there)
    assert not any((stores.data / "boot-pieces").rglob("*.json")), (
        "what boots read goes with the last replica"
    )
    with database.read() as connection:
        assert connection.execute(select(leftovers)).all() == []


def test_removing_stops_the_replication(
    database: Database, stores: Stores, image_file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = ingest("image", TENANT, str(image_file("a.raw", 64, list(range(48)))), "east").image_id
    moving, removed = threading.Event(), threading.Event()
    transfer_segment = steps.transfer_segment

    def transfer_slowly(source: Any, target: Any, image: str, segment: int, progress: Any) -> Any:
        def wait(moved: Any) -> None:
            moving.set()
            removed.wait(30)
            time.sleep(0.3)
            progress(moved)

        return transfer_segment(source, target, image, segment, wait)

    monkeypatch.setattr(steps, "transfer_segment", transfer_slowly)
    handle = DBOS.start_workflow(replicate, "version", "image", targets(west=2))
    assert moving.wait(30)
    remove("version")
    removed.set()
    with pytest.raises(ReplicationStopped):
        handle.get_result()
    assert held(database, "version") == {}
    assert not has(stores, "west-01", image_id) and not has(stores, "west-02", image_id)


def test_a_server_that_closes_in_mid_transfer_goes_on_at_its_next_start(
    database: Database, image_file: ImageFile, monkeypatch: pytest.MonkeyPatch, launch: Callable[[], None]
) -> None:
    ingest("image", TENANT, str(image_file("a.raw", 64, list(range(48)))), "east")
    moving, closed = threading.Event(), threading.Event()
    transfer_segment = steps.transfer_segment

    def transfer_slowly(source: Any, target: Any, image: str, segment: int, progress: Any) -> Any:
        def wait(moved: Any) -> None:
            moving.set()
            closed.wait(30)
            progress(moved)

        return transfer_segment(source, target, image, segment, wait)

    monkeypatch.setattr(steps, "transfer_segment", transfer_slowly)
    with SetWorkflowID("replicating"):
        DBOS.start_workflow(replicate, "version", "image", targets(west=2))
    assert moving.wait(30)
    workflows.close()
    closed.set()
    DBOS.destroy()
    assert set(states(database, "version").values()) == {"Pending", "Replicating"}
    launch()
    DBOS.retrieve_workflow("replicating").get_result(polling_interval_sec=0.1)
    assert states(database, "version") == {"west-01": "Completed", "west-02": "Completed"}


def test_progress_moves_while_bytes_move(
    database: Database, image_file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest("image", TENANT, str(image_file("a.raw", 128, list(range(96)))), "east")
    transfer_segment = steps.transfer_segment
    seen: list[tuple[int, int]] = []

    def look(source: Any, target: Any, image: str, segment: int, progress: Any) -> Any:
        def show(moved: Any) -> None:
            time.sleep(0.05)
            progress(moved)
            replica = held(database, "version")["west-01"]
            seen.append((replica.done_bytes, replica.moved_bytes))

        return transfer_segment(source, target, image, segment, show)

    monkeypatch.setattr(steps, "transfer_segment", look)
    replicate("version", "image", targets(west=1))
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "there were rows between the start and the end"
    assert all(done_bytes <= 96 * MIB for done_bytes, _ in seen)


def test_named_stores_are_filled_evenly(database: Database, image_file: ImageFile) -> None:
    for number in range(3):
        path = image_file(f"{number}.raw", 4, [0, 1])
        ingest(f"image-{number}", TENANT, str(path), "east")
        replicate(f"version-{number}", f"image-{number}", targets(west=1, south=1))
    with database.read() as connection:
        query = select(replicas_table.c.store).where(replicas_table.c.owner.like("version-%"))
        assert sorted(connection.scalars(query)) == ["south-01"] * 3 + ["west-01", "west-02", "west-03"]


def _damage_packs(stores: Stores, store: str) -> None:
    """Turn a byte in the middle of every pack of the store."""
    place = stores.place(store)
    assert place.path is not None
    packs = [path for path in Path(place.path).rglob("packs/*/*") if path.is_file()]
    assert packs
    for pack in packs:
        content = bytearray(pack.read_bytes())
        content[len(content) // 3] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)
