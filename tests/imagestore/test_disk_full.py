"""A full disk: a clear error, nothing half-written left, and it works again when there is room."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, StoreUnavailable, collect, transfer, verify

from .faults import open_store
from .image_sources import blocks, image
from .mounts import resize, small_disk

pytestmark = pytest.mark.usefixtures("small_packs")
CONTENT = blocks(1500, 1)
ROOM = 64 << 20


def check_nothing_is_half_written(store: ImageStore, images: set[str]) -> None:
    assert set(store.images()) == images
    assert list(store.objects.list("temporary/")) == []
    for image_id in images:
        assert verify(store, image_id).is_good


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.985])
@pytest.mark.parametrize("work", ["publish", "transfer"])
def test_a_full_disk_stops_a_writer_and_leaves_nothing(
    tmp_path: Path, make_store: Callable[..., ImageStore], share: float, work: str
) -> None:
    source = make_store("east-01", "memory")
    image_id = source.put(image(CONTENT)).image_id
    with small_disk(tmp_path / "west-01", 2 << 20) as disk:
        store = open_store(tmp_path, "west-01")
        old = store.put(image(blocks(30, 7))).image_id

        def write() -> str:
            if work == "publish":
                return store.put(image(CONTENT)).image_id
            transfer(source, store, image_id)
            return image_id

        needed_bytes = source.stats().pack_bytes + source.stats().manifest_bytes
        filesystem = os.statvfs(disk)
        used_bytes = (filesystem.f_blocks - filesystem.f_bfree) * filesystem.f_bsize
        resize(disk, used_bytes + int(needed_bytes * share))
        with pytest.raises(
            StoreUnavailable, match=r"No space left on device. Free space there or run collect"
        ):
            write()
        check_nothing_is_half_written(store, {old})
        with pytest.raises(StoreUnavailable):
            write()
        check_nothing_is_half_written(store, {old})
        resize(disk, ROOM)
        assert write() == image_id
        check_nothing_is_half_written(store, {old, image_id})


def test_a_full_disk_stops_a_collector_and_harms_no_image(tmp_path: Path) -> None:
    with small_disk(tmp_path / "west-01", ROOM) as disk:
        store = open_store(tmp_path, "west-01")
        every = [blocks(1, seed) for seed in range(400)]
        whole = store.put(image(*every)).image_id
        kept = store.put(image(*every[::3])).image_id
        store.delete(whole)
        resize(disk, 1 << 20)
        with pytest.raises(StoreUnavailable, match="Free space there"):
            collect(store, 0, wait=True)
        check_nothing_is_half_written(store, {kept})
        resize(disk, ROOM)
        before = store.stats().pack_bytes
        collect(store, 0, wait=True)
        collect(store, 0, wait=True)
        assert store.stats().pack_bytes < before / 2
        check_nothing_is_half_written(store, {kept})
