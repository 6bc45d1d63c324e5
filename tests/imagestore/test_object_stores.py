"""The whole life of images in real object stores, and transfers between every pair of kinds of store."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opengallery.imagestore import (
    BLOCK_BYTES,
    CollectRunning,
    FrameCache,
    ImageStore,
    collect,
    repair,
    scrub,
    transfer,
    usage,
    verify,
)
from opengallery.imagestore.collect import needed_packs
from opengallery.imagestore.lease import Lease
from opengallery.imagestore.manifest import manifest_path
from opengallery.imagestore.objects import ObstoreObjects
from opengallery.imagestore.usage import pack_sizes

from .faults import content_of, source_of
from .image_sources import KEY, blocks, image
from .object_servers import MakePlace, azure_server, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_packs")]
KINDS = ["directory", "s3", "azure"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], MakePlace]]:
    """Gives the server of a kind, started when a test asks first."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        started: dict[str, MakePlace] = {}

        def server(kind: str) -> MakePlace:
            if kind not in started:
                start = {"s3": s3_server, "azure": azure_server}[kind]
                started[kind] = stack.enter_context(start(tmp_path_factory.mktemp(kind) / "server"))
            return started[kind]

        yield server


_numbers = itertools.count()


@pytest.fixture
def make_place(
    servers: Callable[[str], MakePlace], tmp_path: Path
) -> Callable[[str], tuple[Any, Callable[[], ImageStore]]]:
    """Make an empty place of a kind: what obstore (or the directory) is, and a function that opens a store."""

    def make(kind: str) -> tuple[Any, Callable[[], ImageStore]]:
        name = f"place-{next(_numbers)}"
        place = tmp_path / name if kind == "directory" else servers(kind)(name)

        def open_store() -> ImageStore:
            return ImageStore(
                place, prefix="tenants/t", key=KEY, index_dir=tmp_path / "index" / name, name=name
            )

        return place, open_store

    return make


@pytest.mark.parametrize("source_kind", KINDS)
@pytest.mark.parametrize("target_kind", KINDS)
def test_an_image_moves_between_any_two_kinds(make_place: Any, source_kind: str, target_kind: str) -> None:
    source, target = make_place(source_kind)[1](), make_place(target_kind)[1]()
    first = source.put(image(blocks(100, 1))).image_id
    second = source.put(image(blocks(100, 1), blocks(7, 2), bytes(BLOCK_BYTES))).image_id
    assert transfer(source, target, first).saved_bytes == 0
    moved = transfer(source, target, second)
    assert moved.saved_bytes == 100 * BLOCK_BYTES
    assert 0 < moved.moved_bytes < 7 * BLOCK_BYTES
    for image_id in (first, second):
        assert verify(target, image_id).is_good
    assert target.open(second).read(0, 1 << 20) == source.open(second).read(0, 1 << 20)


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_deleting_repacking_and_collecting(make_place: Any, kind: str) -> None:
    store = make_place(kind)[1]()
    every = [blocks(1, seed) for seed in range(200)]
    whole = store.put(image(*every)).image_id
    kept = store.put(image(*every[::6])).image_id
    reader = store.open(kept)
    before = store.stats().pack_bytes
    store.delete(whole)
    report = collect(store, 0, wait=True)
    assert (report.repacked_packs, report.rewritten_images, report.deleted_packs) == (5, 1, 5)
    assert store.stats().pack_bytes < before / 4
    store.cache.clear()
    assert reader.read(0, 1 << 20) == b"".join(every[::6])
    assert verify(store, kept).is_good
    assert list(store.objects.list("collect/")) == []
    assert len(usage(store).images) == 1


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_a_version_is_replaced_only_if_it_is_still_there(make_place: Any, kind: str) -> None:
    place, _ = make_place(kind)
    objects = ObstoreObjects(place, "x")

    def replace(content: bytes, version: str) -> bool:
        writer = objects.writer()
        writer.write(content)
        return writer.commit("a", version=version)

    objects.put("a", b"1")
    first = objects.version("a")
    assert replace(b"2", first)
    assert not replace(b"3", first)
    assert objects.get("a") == b"2"
    second = objects.version("a")
    objects.delete("a")
    assert not replace(b"4", second)
    assert not objects.exists("a")


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_one_collector_at_a_time(make_place: Any, kind: str) -> None:
    store = make_place(kind)[1]()
    with Lease(store), pytest.raises(CollectRunning):
        collect(store, 0)
    collect(store, 0)


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_damage_is_found_and_healed(make_place: Any, kind: str) -> None:
    store, sibling = make_place(kind)[1](), make_place("directory")[1]()
    image_id = store.put(image(blocks(120, 1))).image_id
    transfer(store, sibling, image_id)
    objects = store.objects
    for number, found in enumerate(list(objects.list("packs/"))):
        content = bytearray(objects.get(found.path))
        content[len(content) * number // 3 + 5] ^= 1
        objects.put(found.path, bytes(content), replace=True)
    store.cache.clear()
    assert [found.image_id for found in scrub(store, 1e12)] == [image_id]
    repair(store, image_id, [sibling])
    assert verify(store, image_id).is_good
    path = manifest_path(image_id)
    objects.put(path, objects.get(path)[:-7], replace=True)
    assert not verify(store, image_id).is_good
    repair(store, image_id, [sibling])
    assert list(scrub(store, 1e12)) == []


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_writers_race_with_a_collector(make_place: Any, kind: str) -> None:
    _, open_store = make_place(kind)
    acknowledged: dict[str, int] = {}
    failures: list[Exception] = []
    ended = threading.Event()

    def put(seeds: range) -> None:
        store = open_store()
        try:
            for seed in seeds:
                acknowledged[store.put(source_of(seed)).image_id] = seed
        except Exception as error:
            failures.append(error)

    def keep_collecting() -> None:
        store = open_store()
        try:
            while not ended.wait(0.2):
                collect(store, 5)
        except Exception as error:
            failures.append(error)

    racers = [threading.Thread(target=put, args=(range(10 * n, 10 * n + 4),)) for n in range(3)]
    collector = threading.Thread(target=keep_collecting)
    for racer in (*racers, collector):
        racer.start()
    for racer in racers:
        racer.join()
    ended.set()
    collector.join()
    assert failures == []
    store = open_store()
    assert set(store.images()) == acknowledged.keys()
    for image_id, seed in acknowledged.items():
        assert store.open(image_id).read(0, 1 << 30) == content_of(seed)
    for image_id in list(acknowledged)[::2]:
        store.delete(image_id)
    collect(store, 0, wait=True)
    collect(store, 0, wait=True)
    assert pack_sizes(store).keys() == needed_packs(store)
    store.cache = FrameCache(1 << 20)
    for image_id in list(acknowledged)[1::2]:
        assert verify(store, image_id).is_good


@pytest.mark.parametrize("kind", ["s3", "azure"])
def test_packs_of_the_usual_size(make_place: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    store, target = make_place(kind)[1](), make_place("directory")[1]()
    content = blocks(20_000, 3)
    image_id = store.put(image(content)).image_id
    assert store.stats().packs == 2
    transfer(store, target, image_id)
    reader = target.open(image_id)
    for offset in range(0, len(content), 8 << 20):
        assert reader.read(offset, 8 << 20) == content[offset : offset + (8 << 20)]
