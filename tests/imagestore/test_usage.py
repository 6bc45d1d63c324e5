"""Usage says what each image costs, and what deleting it gives back."""

import pytest

from opengallery.imagestore import BLOCK_BYTES, ImageStore, collect, usage

from .image_sources import blocks, image

pytestmark = pytest.mark.usefixtures("small_packs")


def test_an_empty_store_holds_nothing(store: ImageStore) -> None:
    held = usage(store)
    assert (held.logical_bytes, held.unique_bytes, held.dead_bytes, held.images) == (0, 0, 0, [])


def test_shared_blocks_count_once_and_are_freed_by_nobody(store: ImageStore) -> None:
    shared = blocks(80, 1)
    first = store.put(image(shared, blocks(40, 2), shared, size_bytes=1 << 20)).image_id
    second = store.put(image(shared)).image_id
    held = usage(store)
    assert held.logical_bytes == (1 << 20) + 80 * BLOCK_BYTES
    assert held.data_bytes == (200 + 80) * BLOCK_BYTES
    assert held.unique_bytes == 120 * BLOCK_BYTES
    stats = store.stats()
    assert held.stored_bytes == stats.pack_bytes + stats.manifest_bytes
    of = {image.image_id: image for image in held.images}
    assert of[first].ratio > of[second].ratio > 1.5
    assert 40 * BLOCK_BYTES / 2 < of[first].freed_bytes < 40 * BLOCK_BYTES
    assert of[second].freed_bytes == store.stat(second).manifest_bytes
    # Footers are the difference.
    assert 0 < held.dead_bytes < 0.05 * held.stored_bytes


def test_deleting_an_image_frees_about_what_was_said(directory_store: ImageStore) -> None:
    store = directory_store
    every = [blocks(1, seed) for seed in range(200)]
    first = store.put(image(*every)).image_id
    store.put(image(*every[::5]))
    before = usage(store)
    said = next(image.freed_bytes for image in before.images if image.image_id == first)
    store.delete(first)
    assert usage(store).dead_bytes > said * 0.9
    collect(store, 0, wait=True)
    freed = before.stored_bytes - usage(store).stored_bytes
    assert said * 0.9 < freed < said * 1.1


def test_a_damaged_manifest_is_named_and_the_others_counted(store: ImageStore) -> None:
    bad, good = (store.put(image(blocks(40, seed))).image_id for seed in (1, 2))
    path = f"manifests/{bad[:2]}/{bad}"
    store.objects.put(path, store.objects.get(path)[:-1], replace=True)
    held = usage(store)
    assert held.unreadable == [bad]
    assert [image.image_id for image in held.images] == [good]
