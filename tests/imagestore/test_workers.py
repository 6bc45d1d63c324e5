"""Worker processes: they do what is done without them, and nothing is lost when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, transfer, verify, workers
from opengallery.imagestore.workers import WorkerPool

from .image_sources import blocks, image

LARGE = blocks(512, 1) + blocks(16_000, 2)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """A pool of its own for this test, with two workers."""
    own = WorkerPool(2)
    monkeypatch.setattr(workers, "_pool", own)
    yield own
    own.close()


def children(process_id: int) -> list[int]:
    """The worker processes that a process has."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == process_id and b"opengallery.imagestore.worker" in command:
                found.append(int(entry.name))
    return found


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(600):
        if holds():
            return
        time.sleep(0.05)
    pytest.fail("it did not come to hold")


def start_workers(pool: WorkerPool, store: ImageStore) -> None:
    """Put until the processes are up."""
    pool.expect_much()
    wait_until(lambda: bool(store.put(image(LARGE[: 24 << 20]))) and len(children(os.getpid())) == 2)


def test_a_large_image_is_put_and_read_by_workers(pool: WorkerPool, directory_store: ImageStore) -> None:
    start_workers(pool, directory_store)
    report = directory_store.put(image(LARGE))
    reader = directory_store.open(report.image_id)
    for offset in range(0, len(LARGE), 1 << 20):
        assert reader.read(offset, 1 << 20) == LARGE[offset : offset + (1 << 20)]
    assert len(children(os.getpid())) == 2
    assert verify(directory_store, report.image_id).is_good


def test_a_small_image_starts_no_process(pool: WorkerPool, directory_store: ImageStore) -> None:
    directory_store.put(image(LARGE[: 8 << 20]))
    assert children(os.getpid()) == []
    assert pool.has_much_to_do is False


def test_workers_that_are_killed_again_and_again_lose_nothing(
    pool: WorkerPool, make_store: Callable[..., ImageStore]
) -> None:
    store, target = make_store("west-01"), make_store("east-01")
    start_workers(pool, store)
    killed = 0

    def kill(_: object) -> None:
        nonlocal killed
        for child in children(os.getpid())[:1]:
            os.kill(child, signal.SIGKILL)
            killed += 1

    image_id = store.put(image(LARGE), kill).image_id
    transfer(store, target, image_id, kill)
    assert killed >= 2
    assert target.open(image_id).read(0, len(LARGE)) == LARGE
    assert verify(target, image_id).is_good


def test_workers_that_cannot_start_are_not_needed(
    pool: WorkerPool, directory_store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "COMMAND", [sys.executable, "-c", "raise SystemExit(1)"])
    image_id = directory_store.put(image(LARGE)).image_id
    assert directory_store.open(image_id).read(0, len(LARGE)) == LARGE


PUT = """
import sys, time
from pathlib import Path
from opengallery.imagestore import ImageStore, open_image
from opengallery.imagestore.workers import workers
store = ImageStore.at(Path(sys.argv[1]))
workers().expect_much()
while True:
    with open_image(Path(sys.argv[2])) as source:
        store.put(source)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core has no workers")
    file = tmp_path / "disk.raw"
    file.write_bytes(LARGE)
    with subprocess.Popen([sys.executable, "-c", PUT, str(tmp_path / "images"), str(file)]) as process:
        wait_until(lambda: len(children(process.pid)) >= 2)
        started = children(process.pid)
        process.kill()
    wait_until(lambda: not any(is_running(child) for child in started))


def is_running(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_damage_that_is_read_ahead_is_told_to_the_read_that_needs_it(
    pool: WorkerPool, directory_store: ImageStore, tmp_path: Path
) -> None:
    from opengallery.imagestore import CorruptBlock

    image_id = directory_store.put(image(LARGE)).image_id
    damaged = 0
    for pack in tmp_path.rglob("packs/*/*"):
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.write_bytes(content)
        damaged += 1
    reader = directory_store.open(image_id)
    bad = 0
    for offset in range(0, len(LARGE), 1 << 18):
        try:
            assert reader.read(offset, 1 << 18) == LARGE[offset : offset + (1 << 18)]
        except CorruptBlock:
            bad += 1
    assert damaged <= bad <= 2 * damaged
