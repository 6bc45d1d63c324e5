"""Many writers in one store at once: no lock, no lost image, blocks at worst stored twice."""

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, collect, verify

from .image_sources import KEY, PiecesSource, blocks, image

WRITERS = 4


def sources(writer: int) -> list[PiecesSource]:
    """Images that overlap with those of the other writers; the first is the same for all."""
    return [
        image(blocks(60, 0)),
        image(blocks(60, 0), blocks(60, writer % 2 + 1), blocks(30, writer + 10)),
        image(blocks(50, writer + 10), blocks(60, 1)),
    ]


def put_all(path: Path, index_dir: Path, writer: int) -> None:
    store = ImageStore(path, prefix="t", key=KEY, index_dir=index_dir, name="west-01")
    for source in sources(writer):
        store.put(source)


def check(store: ImageStore) -> None:
    for writer in range(WRITERS):
        for source in sources(writer):
            image_id = store.put(source).image_id
            assert store.open(image_id).read(0, source.size_bytes) == source.read(0, source.size_bytes)
            assert verify(store, image_id).is_good
    # Nothing new was stored by the check itself, so every writer's image was whole already.
    assert len(list(store.images())) == 1 + 2 * WRITERS


def test_processes_race_into_one_store_and_one_index(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    racers = [
        context.Process(target=put_all, args=(tmp_path / "store", tmp_path / "index", writer))
        for writer in range(WRITERS)
    ]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * WRITERS
    store = ImageStore(tmp_path / "store", prefix="t", key=KEY, index_dir=tmp_path / "index", name="west-01")
    packs = store.stats().packs
    check(store)
    assert store.stats().packs == packs


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("is_collecting", [False, True])
def test_threads_race_into_one_image_store(store: ImageStore, is_collecting: bool) -> None:
    failures: list[Exception] = []
    acknowledged: set[str] = set()
    ended = threading.Event()

    def guarded(work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            failures.append(error)

    def put(writer: int) -> None:
        for source in sources(writer):
            acknowledged.add(store.put(source).image_id)

    def keep_collecting() -> None:
        while not ended.is_set():
            # A grace of none is shorter than a put: writers lose work all the time, and never an image.
            collect(store, 0.05)

    racers = [
        threading.Thread(target=guarded, args=(lambda writer=writer: put(writer),))
        for writer in range(WRITERS)
    ]
    collector = threading.Thread(target=guarded, args=(keep_collecting,))
    if is_collecting:
        collector.start()
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    ended.set()
    if is_collecting:
        collector.join()
    assert failures == []
    assert set(store.images()) == acknowledged
    for image_id in acknowledged:
        assert verify(store, image_id).is_good
    check(store)
