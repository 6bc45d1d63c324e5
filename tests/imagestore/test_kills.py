"""Processes that die, or stand still for longer than their lease, at any moment of their work."""

import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, transfer, verify
from opengallery.imagestore.collect import REPACK_BELOW, needed_packs
from opengallery.imagestore.usage import pack_sizes, survey

from .faults import (
    LEASE_S,
    PACK_BLOCKS,
    Journal,
    Worker,
    clean,
    collect_all,
    content_of,
    open_store,
    publish,
    replicate,
    rounds,
    source_of,
)

IMAGES_MAX = 8


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `hurry` does in the workers, here for the length of a test."""
    monkeypatch.setattr("opengallery.imagestore.lease.LEASE_S", LEASE_S)
    monkeypatch.setattr("opengallery.imagestore.writing.PACK_BLOCKS", PACK_BLOCKS)
    monkeypatch.setattr(sys.modules["opengallery.imagestore.collect"], "SWEEP_AFTER_S", 0.0)


class Ledger:
    """What a store must hold: acknowledged images by id, each with its seed."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.under_way: set[int] = set()
        self.deleted: set[str] = set()

    def take(self, journal: Journal) -> None:
        """Add what a worker has said."""
        for kind, word, *rest in journal.lines():
            if kind == "begin":
                self.under_way.add(int(word))
            elif kind == "put":
                self.under_way.discard(int(word))
                self.acknowledged[rest[0]] = int(word)
                self.deleted.discard(rest[0])
            else:
                self.acknowledged.pop(word, None)
                self.deleted.add(word)

    def check(self, store: ImageStore) -> None:
        """Every acknowledged image reads back; another is there only whole, and if it was under way."""
        there = set(store.images())
        assert self.acknowledged.keys() <= there
        others = there - self.acknowledged.keys() - self.deleted
        assert len(others) <= len(self.under_way)
        for image_id in there - self.acknowledged.keys():
            assert verify(store, image_id).is_good
        for image_id in others:
            content = store.open(image_id).read(0, 1 << 30)
            assert content in [content_of(seed) for seed in self.under_way]
        for image_id, seed in self.acknowledged.items():
            assert store.open(image_id).read(0, 1 << 30) == content_of(seed)


def check_no_garbage(store: ImageStore) -> None:
    """After collecting, nothing is there that no image needs."""
    collect_all(store)
    assert pack_sizes(store).keys() == needed_packs(store)
    for folder in ("collect/", "temporary/", "quarantine/"):
        assert list(store.objects.list(folder)) == []
    for pack in survey(store, [store.manifest(image_id) for image_id in store.images()], pack_sizes(store)):
        assert pack.live_share >= REPACK_BELOW


@pytest.mark.timeout(1800)
def test_kills_at_any_moment_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    count = rounds(21, 201)
    numbers = random.Random(20_181_112)
    ledger = Ledger()
    sibling = open_store(tmp_path, "east-01")
    killed = 0
    for turn in range(count):
        work = (publish, replicate, clean)[turn % 3]
        seeds = range(1000 * turn, 1000 * turn + 500)
        kept = list(ledger.acknowledged)
        arguments = (seeds, kept[:-IMAGES_MAX]) if work is clean else (seeds,)
        worker = Worker(work, tmp_path, "journal", *arguments)
        # In half of the rounds somebody else is at work in the same store.
        others = range(1000 * turn + 500, 1000 * turn + 502)
        other = Worker(publish if work is clean else clean, tmp_path, "other", others) if turn % 2 else None
        time.sleep(numbers.random() * 0.25)
        worker.signal(signal.SIGKILL)
        killed += worker.end() == -signal.SIGKILL
        ledger.take(worker.journal)
        if other is not None:
            assert other.end() == 0
            ledger.take(other.journal)
        # As another process that starts afterwards.
        store = open_store(tmp_path, "west-01")
        ledger.check(store)
        # What was interrupted can be done again.
        for seed in ledger.under_way:
            image_id = sibling.put(source_of(seed)).image_id
            if work is replicate:
                transfer(sibling, store, image_id)
            assert store.put(source_of(seed)).image_id == image_id
            ledger.acknowledged[image_id] = seed
        ledger.under_way.clear()
        for image_id in ledger.deleted:
            store.delete(image_id)
        ledger.deleted.clear()
        if turn % 3 == 2:
            check_no_garbage(store)
            ledger.check(store)
    # The test must not pass because everybody was done before the kill.
    assert killed == count


@pytest.mark.timeout(600)
@pytest.mark.parametrize("work", [publish, replicate])
def test_a_writer_that_stood_still_past_every_lease_goes_on(
    tmp_path: Path, work: Callable[..., None]
) -> None:
    numbers = random.Random(7)
    store = open_store(tmp_path, "west-01")
    for turn in range(rounds(5, 50)):
        seeds = range(3 * turn, 3 * turn + 3)
        worker = Worker(work, tmp_path, "journal", seeds)
        time.sleep(numbers.random() * 0.2)
        worker.signal(signal.SIGSTOP)
        ledger = Ledger()
        ledger.take(worker.journal)
        deleted = set(store.images()) - ledger.acknowledged.keys()
        for image_id in deleted:
            store.delete(image_id)
        collect_all(store)
        worker.signal(signal.SIGCONT)
        assert worker.end() == 0
        ledger.take(worker.journal)
        assert sorted(ledger.acknowledged.values()) == list(seeds)
        # One may have been stored, and not yet acknowledged, when it was deleted above.
        for image_id in deleted - set(store.images()):
            ledger.acknowledged.pop(image_id, None)
        ledger.check(open_store(tmp_path, "west-01"))
        check_no_garbage(store)


@pytest.mark.timeout(600)
def test_a_collector_that_stood_still_past_its_lease_harms_nobody(tmp_path: Path) -> None:
    numbers = random.Random(11)
    store = open_store(tmp_path, "west-01")
    for turn in range(rounds(5, 80)):
        seeds = range(4 * turn, 4 * turn + 4)
        ids = [store.put(source_of(seed)).image_id for seed in seeds]
        worker = Worker(clean, tmp_path, "journal", [], ids[:1])
        time.sleep(numbers.random() * 0.2)
        worker.signal(signal.SIGSTOP)
        # Somebody else takes over, and others publish what the first may be about to delete.
        store.delete(ids[1])
        collect_all(store)
        assert store.put(source_of(seeds[0])).image_id == ids[0]
        worker.signal(signal.SIGCONT)
        assert store.put(source_of(seeds[1])).image_id == ids[1]
        worker.end()
        ledger = Ledger()
        ledger.acknowledged = dict(zip(ids, seeds, strict=True))
        if not worker.journal.said("deleting", ids[0]):
            raise AssertionError("the collector did nothing")
        # It may have been stopped before its delete, which then was the last word on that image.
        if not store.has(ids[0]):
            del ledger.acknowledged[ids[0]]
        ledger.check(open_store(tmp_path, "west-01"))
        check_no_garbage(store)
        for image_id in ids:
            store.delete(image_id)
