"""Collect frees what no image needs, and nothing else, whoever writes meanwhile."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from opengallery.imagestore import (
    BLOCK_BYTES,
    CollectRunning,
    ImageStore,
    UnreadableManifests,
    collect,
    finish_transfer,
    repair,
    transfer,
    transfer_segment,
    verify,
)
from opengallery.imagestore.lease import LEASES, Lease

from .image_sources import PiecesSource, blocks, image

pytestmark = pytest.mark.usefixtures("small_packs")


def test_deleting_and_collecting_frees_space_and_shared_blocks_survive(store: ImageStore) -> None:
    kept_content = blocks(40, 1)
    kept = store.put(image(kept_content)).image_id
    dropped = store.put(image(kept_content, blocks(120, 2))).image_id
    before = store.stats()
    assert before.packs == 4
    store.delete(dropped)
    first = collect(store, 0)
    assert (first.marked_packs, first.deleted_packs) == (3, 0)
    second = collect(store, 0)
    assert (second.deleted_packs, second.freed_bytes) == (3, first.marked_bytes)
    assert store.stats().packs == 1
    assert store.stats().pack_bytes == before.pack_bytes - second.freed_bytes
    assert verify(store, kept).is_good
    assert store.open(kept).read(0, len(kept_content)) == kept_content
    # What was collected can be put again.
    assert store.put(image(kept_content, blocks(120, 2))).new_bytes == 120 * BLOCK_BYTES
    assert verify(store, dropped).is_good


def test_nothing_younger_than_the_grace_is_touched(directory_store: ImageStore) -> None:
    directory_store.delete(directory_store.put(image(blocks(40, 1))).image_id)
    assert collect(directory_store, 60).marked_packs == 0
    assert collect(directory_store, 0).marked_packs == 1
    assert collect(directory_store, 60).deleted_packs == 0
    assert collect(directory_store, 0).deleted_packs == 1


def test_an_image_put_after_the_mark_stores_its_blocks_anew(directory_store: ImageStore) -> None:
    source = image(blocks(40, 1))
    directory_store.delete(directory_store.put(source).image_id)
    collect(directory_store, 0)
    report = directory_store.put(source)
    assert report.new_bytes == 40 * BLOCK_BYTES
    collect(directory_store, 0)
    assert verify(directory_store, report.image_id).is_good


def test_a_manifest_written_between_mark_and_delete_keeps_its_packs(
    make_store: Callable[..., ImageStore],
) -> None:
    class MarkedMeanwhile(PiecesSource):
        def extents(self) -> Iterator[tuple[int, int]]:
            # The writer has read the marks; now its blocks' packs get marked.
            assert collect(collector, 0).marked_packs == 1
            return super().extents()

    content = blocks(40, 1)
    collector, writer = make_store(), make_store()
    collector.delete(collector.put(image(content)).image_id)
    report = writer.put(MarkedMeanwhile(len(content), [(0, content)]))
    assert report.new_bytes == 0
    assert collect(collector, 0).deleted_packs == 0
    assert verify(writer, report.image_id).is_good
    # The mark is gone, the pack is relied on again.
    assert writer.put(image(content, blocks(1, 2))).new_bytes == BLOCK_BYTES


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_writer_paused_for_longer_than_the_grace_loses_work_but_no_image(
    make_store: Callable[..., ImageStore], rounds: int
) -> None:
    class CollectedMeanwhile(PiecesSource):
        reads = 0

        def extents(self) -> Iterator[tuple[int, int]]:
            self.reads += 1
            if self.reads <= rounds:
                for image_id in collector.images():
                    collector.delete(image_id)
                collect(collector, 0, wait=True)
                assert collector.stats().packs == 0
            return super().extents()

    content = blocks(200, 1)
    collector, writer = make_store(), make_store()
    collector.delete(collector.put(image(content)).image_id)
    source = CollectedMeanwhile(len(content), [(0, content)])
    report = writer.put(source)
    assert source.reads == 2
    assert verify(writer, report.image_id).is_good
    assert writer.open(report.image_id).read(0, len(content)) == content


def test_a_writer_that_finds_its_packs_doomed_writes_them_anew(directory_store: ImageStore) -> None:
    class Doomed(PiecesSource):
        def extents(self) -> Iterator[tuple[int, int]]:
            # A collector that died, or sleeps, between its last look at the manifests and the deletes.
            directory_store.objects.put("collect/doomed/x", json.dumps({"packs": packs}).encode())
            return super().extents()

    content = blocks(40, 1)
    first = directory_store.put(image(content)).image_id
    packs = directory_store.manifest(first).packs
    directory_store.delete(first)
    report = directory_store.put(Doomed(len(content), [(0, content)]))
    assert not set(directory_store.manifest(report.image_id).packs) & set(packs)
    # The next collector ends what the dead one began.
    assert collect(directory_store, 0).deleted_packs == 1
    assert verify(directory_store, report.image_id).is_good


def test_a_transfer_whose_packs_were_collected_brings_them_again(
    make_store: Callable[..., ImageStore],
) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    image_id = source.put(image(blocks(100, 1))).image_id
    transfer_segment(source, target, image_id, 0)
    collect(target, 0, wait=True)
    assert target.stats().packs == 0
    finish_transfer(source, target, image_id)
    assert verify(target, image_id).is_good


def test_a_manifest_that_cannot_be_read_stops_deletes_and_is_named(
    make_store: Callable[..., ImageStore], directory_store: ImageStore, tmp_path: Path
) -> None:
    kept = directory_store.put(image(blocks(40, 1))).image_id
    transfer(directory_store, make_store("west-02"), kept)
    directory_store.delete(directory_store.put(image(blocks(40, 2))).image_id)
    manifest = next((tmp_path / "west-01").rglob("manifests/*/*"))
    content = bytearray(manifest.read_bytes())
    content[-1] ^= 1
    manifest.write_bytes(content)
    with pytest.raises(UnreadableManifests, match=f"{kept}. Repair it") as raised:
        collect(directory_store, 0, wait=True)
    assert raised.value.images == [kept]
    assert directory_store.stats().packs == 2
    # It does as it is told.
    repair(directory_store, kept, [make_store("west-02")])
    collect(directory_store, 0, wait=True)
    assert directory_store.stats().packs == 1
    assert verify(directory_store, kept).is_good


def test_one_collector_at_a_time_until_its_lease_ends(store: ImageStore) -> None:
    with Lease(store):
        with pytest.raises(CollectRunning, match="Try again in"):
            collect(store, 0)
    collect(store, 0)
    assert list(store.objects.list(LEASES)) == []


def test_the_lease_of_a_collector_that_was_killed_is_taken_over(store: ImageStore) -> None:
    content = json.dumps({"until_s": time.time() - 1}).encode()
    store.objects.put(LEASES + "dead", content)
    store.objects.put(LEASES + "damaged", b"\0" * 20)
    with pytest.raises(CollectRunning):
        collect(store, 0)
    store.objects.delete(LEASES + "damaged")
    collect(store, 0)
    assert list(store.objects.list(LEASES)) == []


def test_a_collector_that_lost_its_lease_notices(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opengallery.imagestore.lease.LEASE_S", 0.0)
    paused = Lease(store)
    paused.hold()
    with Lease(store) as other:
        with pytest.raises(CollectRunning, match="took over"):
            paused.hold()
        other.hold()


def test_of_collectors_that_come_at_once_at_most_one_works(store: ImageStore) -> None:
    working = 0
    most = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal working, most
        for _ in range(10):
            with suppress(CollectRunning), Lease(store):
                with lock:
                    working += 1
                    most = max(most, working)
                time.sleep(0.001)
                with lock:
                    working -= 1

    racers = [threading.Thread(target=work) for _ in range(4)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert most == 1
    with Lease(store):
        pass


def test_a_doomed_pack_that_an_image_needs_is_emptied_first(directory_store: ImageStore) -> None:
    # Its writer was killed after the manifest and before the look at what is doomed.
    content = blocks(60, 1)
    image_id = directory_store.put(image(content)).image_id
    packs = directory_store.manifest(image_id).packs
    directory_store.objects.put("collect/doomed/x", json.dumps({"packs": packs[:1]}).encode())
    assert collect(directory_store, 0).rewritten_images == 1
    assert verify(directory_store, image_id).is_good
    assert collect(directory_store, 0).deleted_packs == 1
    assert list(directory_store.objects.list("collect/")) == []
    assert verify(directory_store, image_id).is_good
    assert directory_store.open(image_id).read(0, len(content)) == content


def test_records_that_are_damaged_are_dropped(directory_store: ImageStore) -> None:
    image_id = directory_store.put(image(blocks(40, 1))).image_id
    for number, content in enumerate((b"", b"{", b"[]", b'{"packs": [1]}', b'{"packs": ["../x"]}')):
        directory_store.objects.put(f"collect/marks/{number}", content)
        directory_store.objects.put(f"collect/doomed/{number}", content)
    directory_store.put(image(blocks(40, 2)))
    collect(directory_store, 0)
    assert list(directory_store.objects.list("collect/")) == []
    assert verify(directory_store, image_id).is_good


def test_files_of_dead_writers_are_swept(directory_store: ImageStore, tmp_path: Path) -> None:
    leftover = tmp_path / "west-01/tenants/t/temporary/dead"
    leftover.write_bytes(bytes(500))
    assert collect(directory_store, 0).swept_bytes == 0
    os.utime(leftover, (1, 1))
    assert collect(directory_store, 0).swept_bytes == 500
