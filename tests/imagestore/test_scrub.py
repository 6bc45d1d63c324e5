"""Scrub finds what rots, reads each stored byte once and no faster than told."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import (
    ImageStore,
    ScrubEnded,
    collect,
    repair,
    scrub,
    transfer,
    verify,
)

from .image_sources import blocks, image

pytestmark = pytest.mark.usefixtures("small_packs")
FAST = 1e12


@pytest.fixture
def images(store: ImageStore) -> list[str]:
    """Two images that share a pack; the first has one for itself, the second two."""
    shared = blocks(40, 1)
    return [
        store.put(image(shared, blocks(40, 2))).image_id,
        store.put(image(shared, blocks(80, 3))).image_id,
    ]


def damage(store: ImageStore, path: str, position: float) -> None:
    content = bytearray(store.objects.get(path))
    content[int(position * len(content))] ^= 1
    store.objects.put(path, bytes(content), replace=True)


def path_of(pack_id: str) -> str:
    return f"packs/{pack_id[:2]}/{pack_id}"


def test_a_sound_store_needs_nothing(store: ImageStore, images: list[str]) -> None:
    assert list(scrub(store, FAST)) == []
    assert not store.quarantined_packs()


@pytest.mark.parametrize("position", [0.01, 0.9, 0.999])
def test_a_damaged_pack_is_told_with_every_image_that_needs_the_place(
    store: ImageStore, images: list[str], position: float
) -> None:
    (shared,) = {*store.manifest(images[0]).packs} & {*store.manifest(images[1]).packs}
    damage(store, path_of(shared), position)
    assert {found.image_id for found in scrub(store, FAST)} == set(images)
    assert store.quarantined_packs() == {shared}


def test_only_images_that_need_a_damaged_pack_are_told(store: ImageStore, images: list[str]) -> None:
    own = set(store.manifest(images[1]).packs) - set(store.manifest(images[0]).packs)
    lost = sorted(own)[0]
    store.objects.delete(path_of(lost))
    (found,) = scrub(store, FAST)
    assert found.image_id == images[1]
    assert lost in found.reason


def test_a_damaged_manifest_is_told(store: ImageStore, images: list[str]) -> None:
    for position in (0.1, 0.99):
        path = f"manifests/{images[0][:2]}/{images[0]}"
        good = store.objects.get(path)
        damage(store, path, position)
        assert [found.image_id for found in scrub(store, FAST)] == [images[0]]
        store.objects.put(path, good, replace=True)


def test_packs_that_swapped_their_names_are_told(store: ImageStore, images: list[str]) -> None:
    first, second = (path_of(pack_id) for pack_id in store.manifest(images[0]).packs)
    contents = store.objects.get(first), store.objects.get(second)
    store.objects.put(first, contents[1], replace=True)
    store.objects.put(second, contents[0], replace=True)
    assert {found.image_id for found in scrub(store, FAST)} == set(images)


def test_a_block_that_nobody_needs_is_quarantined_and_no_image_is_told(
    directory_store: ImageStore,
) -> None:
    content = blocks(40, 1)
    first = directory_store.put(image(content)).image_id
    kept = directory_store.put(image(content[: 20 * 4096])).image_id
    directory_store.delete(first)
    (pack_id,) = directory_store.manifest(kept).packs
    damage(directory_store, path_of(pack_id), 0.8)
    assert list(scrub(directory_store, FAST)) == []
    # The image leaves the bad pack, and then that goes.
    collect(directory_store, 0)
    collect(directory_store, 0)
    assert not directory_store.quarantined_packs()
    assert verify(directory_store, kept).is_good


def test_what_scrub_tells_can_be_repaired(make_store: Callable[..., ImageStore], tmp_path: Path) -> None:
    store, sibling = make_store("west-01"), make_store("east-01", "memory")
    image_id = store.put(image(blocks(200, 1))).image_id
    transfer(store, sibling, image_id)
    for number, file in enumerate(sorted((tmp_path / "west-01").rglob("packs/*/*"))):
        if number % 2:
            file.write_bytes(file.read_bytes()[: -number * 1000])
    for found in scrub(store, FAST):
        repair(store, found.image_id, [sibling])
    assert list(scrub(store, FAST)) == []
    assert verify(store, image_id).is_good


def test_scrub_reads_no_faster_than_told_and_ends_at_once(directory_store: ImageStore) -> None:
    directory_store.put(image(blocks(400, 1)))
    stats = directory_store.stats()
    waited: list[float] = []

    def wait(pause_s: float) -> bool:
        waited.append(pause_s)
        return False

    assert list(scrub(directory_store, 1000, wait)) == []
    assert stats.pack_bytes / 1000 <= sum(waited) <= (stats.pack_bytes + stats.manifest_bytes) / 1000
    before_s = time.monotonic()
    with pytest.raises(ScrubEnded):
        list(scrub(directory_store, 1, lambda pause_s: True))
    assert time.monotonic() - before_s < 10
