"""A pack that is mostly dead is written anew, and nobody who reads, writes or deletes meanwhile minds."""

from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import (
    BLOCK_BYTES,
    ImageStore,
    collect,
    repair,
    transfer,
    usage,
    verify,
)
from opengallery.imagestore.manifest import manifest_path
from opengallery.imagestore.packs import FRAME_BLOCKS

from .image_sources import blocks, image

pytestmark = pytest.mark.usefixtures("small_packs")

FIRST = [blocks(1, seed) for seed in range(200)]
# Every eighth block of five packs, some neighbours, and blocks of its own.
KEPT = [*FIRST[::8], *FIRST[100:110]]


@pytest.fixture(params=["directory", "memory", "local"])
def mostly_dead(request: pytest.FixtureRequest, make_store: Callable[..., ImageStore]) -> ImageStore:
    store = make_store("west-01", request.param)
    first = store.put(image(*FIRST)).image_id
    store.put(image(*KEPT))
    store.delete(first)
    return store


def only_image(store: ImageStore) -> str:
    (image_id,) = store.images()
    return image_id


def test_repacking_gives_back_the_space_of_dead_blocks(mostly_dead: ImageStore) -> None:
    store = mostly_dead
    image_id = only_image(store)
    reader = store.open(image_id)
    before = store.stats()
    report = collect(store, 0)
    assert (report.repacked_packs, report.rewritten_images, report.deleted_packs) == (5, 1, 0)
    report = collect(store, 0)
    assert report.deleted_packs == 5
    after = store.stats()
    live_share = len(set(KEPT)) / len(FIRST)
    assert after.pack_bytes < before.pack_bytes * live_share * 1.15
    assert usage(store).dead_bytes < after.pack_bytes * 0.1
    assert verify(store, image_id).is_good
    assert store.open(image_id).read(0, 1 << 20) == b"".join(KEPT)
    # A reader that was open all the time reads on.
    store.cache.clear()
    assert reader.read(0, 1 << 20) == b"".join(KEPT)
    # Nothing is left to do, and nothing of it stays behind.
    quiet = collect(store, 0, wait=True)
    assert (quiet.marked_packs, quiet.repacked_packs, quiet.deleted_packs) == (0, 0, 0)
    assert list(store.objects.list("collect/")) == []


def test_packs_that_are_mostly_needed_stay(directory_store: ImageStore) -> None:
    first = directory_store.put(image(*FIRST)).image_id
    directory_store.put(image(*(block for i, block in enumerate(FIRST) if i % 3)))
    directory_store.delete(first)
    report = collect(directory_store, 0, wait=True)
    assert (report.repacked_packs, report.deleted_packs) == (0, 0)
    assert collect(directory_store, 0, repack_below=0.7, wait=True).deleted_packs == 5


def test_blocks_that_another_pack_holds_are_not_written_again(mostly_dead: ImageStore) -> None:
    store = mostly_dead
    collect(store, 0)
    # A second collector, or one that goes on after a crash, finds what the first has copied.
    for found in list(store.objects.list("collect/marks/")):
        store.objects.delete(found.path)
    before = store.stats().pack_bytes
    assert collect(store, 0).kept_bytes == 0
    assert store.stats().pack_bytes == before


def test_an_image_deleted_meanwhile_stays_deleted(
    mostly_dead: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opengallery.imagestore import repack

    store = mostly_dead
    image_id = only_image(store)
    writer = repack.ManifestWriter

    class DeletedMeanwhile(writer):
        def finish(self, pack_ids: dict[int, str]) -> str:
            store.delete(image_id)
            return super().finish(pack_ids)

    monkeypatch.setattr(repack, "ManifestWriter", DeletedMeanwhile)
    assert collect(store, 0).rewritten_images == 0
    assert list(store.images()) == []


def test_a_manifest_mended_meanwhile_stays(mostly_dead: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from opengallery.imagestore import repack

    store = mostly_dead
    path = manifest_path(only_image(store))
    writer = repack.ManifestWriter
    mended = bytearray()

    class MendedMeanwhile(writer):
        def finish(self, pack_ids: dict[int, str]) -> str:
            # The same bytes again make no other version on S3, so one byte differs.
            mended[:] = b"x" + store.objects.get(path)
            store.objects.put(path, bytes(mended), replace=True)
            return super().finish(pack_ids)

    monkeypatch.setattr(repack, "ManifestWriter", MendedMeanwhile)
    assert collect(store, 0).rewritten_images == 0
    assert store.objects.get(path) == mended


def test_a_damaged_block_stays_with_its_image_until_a_sibling_mends_it(
    make_store: Callable[..., ImageStore], tmp_path: Path
) -> None:
    store, sibling = make_store("west-01"), make_store("west-02")
    first = store.put(image(*FIRST)).image_id
    kept = store.put(image(*KEPT)).image_id
    whole = store.put(image(*FIRST[1::8])).image_id
    transfer(store, sibling, kept)
    store.delete(first)
    pack_id = store.manifest(kept).packs[1]
    file = next((tmp_path / "west-01").rglob(f"packs/*/{pack_id}"))
    content = bytearray(file.read_bytes())
    # The frame of block 48, the first of this pack's third frame.
    content[int(len(content) * 0.22)] ^= 1
    file.write_bytes(content)
    collect(store, 0, wait=True)
    damaged = [image_id for image_id in (kept, whole) if not verify(store, image_id).is_good]
    assert kept in damaged
    moved = repair(store, kept, [sibling])
    assert moved.moved_bytes < 20 * BLOCK_BYTES
    assert verify(store, kept).is_good
    for image_id in set(damaged) - {kept}:
        store.delete(image_id)
    collect(store, 0, wait=True)
    collect(store, 0, wait=True)
    assert store.open(kept).read(0, 1 << 20) == b"".join(KEPT)
    assert not store.quarantined_packs()


def test_a_repair_moves_only_what_cannot_be_read_here(
    make_store: Callable[..., ImageStore], tmp_path: Path
) -> None:
    store, sibling = make_store("west-01"), make_store("west-02")
    image_id = store.put(image(*FIRST[:40])).image_id
    transfer(store, sibling, image_id)
    file = next((tmp_path / "west-01").rglob("packs/*/*"))
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    assert len(verify(store, image_id).bad) == 1
    moved = repair(store, image_id, [sibling])
    assert 0 < moved.moved_bytes < (FRAME_BLOCKS + 1) * BLOCK_BYTES
    assert moved.saved_bytes == (40 - FRAME_BLOCKS) * BLOCK_BYTES
    assert verify(store, image_id).is_good
