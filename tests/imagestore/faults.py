"""Faults to live through: processes that are killed or stopped, and how often.

`SOAK=1` (`make soak`) makes many rounds; otherwise a short slice of each runs. Every round has a seed,
which stands in its failure.
"""

import contextlib
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from opengallery.imagestore import CollectRunning, ImageStore, collect, lease, transfer, writing

from .image_sources import KEY, PiecesSource, blocks

IS_SOAK = os.environ.get("SOAK") == "1"
GRACE_S = 0.1
LEASE_S = 0.4
PACK_BLOCKS = 40
POOL = [blocks(1, seed) for seed in range(400)]


def rounds(in_ci: int, in_soak: int) -> int:
    """How many rounds a test makes."""
    return in_soak if IS_SOAK else in_ci


def content_of(seed: int) -> bytes:
    """An image that shares runs of blocks with most others, and has some of its own."""
    numbers = random.Random(seed)
    pieces: list[bytes] = []
    for _ in range(numbers.randint(3, 5)):
        start = numbers.randrange(len(POOL))
        pieces += POOL[start : start + numbers.randint(5, 40)]
        pieces.append(blocks(numbers.randint(0, 4), seed))
        pieces.append(bytes(4096 * numbers.randint(0, 3)))
    return b"".join(pieces)[: -numbers.randint(1, 4096)]


def source_of(seed: int) -> PiecesSource:
    """The image of `seed`, to be put."""
    content = content_of(seed)
    return PiecesSource(len(content), [(0, content)])


def open_store(folder: Path, name: str) -> ImageStore:
    """The store `name`, as another process sees it."""
    return ImageStore(
        folder / name, prefix="tenants/t", key=KEY, index_dir=folder / "index" / name, name=name
    )


def hurry() -> None:
    """Let packs be small and leases short, in this process."""
    writing.PACK_BLOCKS = PACK_BLOCKS
    lease.LEASE_S = LEASE_S
    # The package's `collect` is the function.
    sys.modules["opengallery.imagestore.collect"].SWEEP_AFTER_S = 0.0


class Journal:
    """What a worker says, a line at a time: it is there whatever happens to the worker afterwards."""

    def __init__(self, path: Path) -> None:
        """Lines go to the end of `path`."""
        self._path = path

    def say(self, *words: object) -> None:
        """Add a line."""
        with self._path.open("a") as out:
            out.write(" ".join(str(word) for word in words) + "\n")

    def lines(self) -> list[list[str]]:
        """Everything said, in words."""
        return [line.split() for line in self._path.read_text().splitlines()]

    def said(self, *words: object) -> bool:
        """Whether a line begins like this."""
        wanted = [str(word) for word in words]
        return any(line[: len(wanted)] == wanted for line in self.lines())


def publish(folder: Path, journal: Journal, seeds: Iterable[int]) -> None:
    """Put images and acknowledge each."""
    store = open_store(folder, "west-01")
    for seed in seeds:
        journal.say("begin", seed)
        report = store.put(source_of(seed))
        journal.say("put", seed, report.image_id)


def replicate(folder: Path, journal: Journal, seeds: Iterable[int]) -> None:
    """Bring images from a sibling and acknowledge each."""
    store, sibling = open_store(folder, "west-01"), open_store(folder, "east-01")
    for seed in seeds:
        image_id = sibling.put(source_of(seed)).image_id
        journal.say("begin", seed)
        transfer(sibling, store, image_id)
        journal.say("put", seed, image_id)


def clean(folder: Path, journal: Journal, seeds: Iterable[int], image_ids: Iterable[str] = ()) -> None:
    """Delete images and collect after each; then go on with new ones."""
    store = open_store(folder, "west-01")

    def delete(image_id: str) -> None:
        journal.say("deleting", image_id)
        store.delete(image_id)
        with contextlib.suppress(CollectRunning):
            collect(store, GRACE_S, wait=True)

    for image_id in image_ids:
        delete(image_id)
    for seed in seeds:
        journal.say("begin", seed)
        image_id = store.put(source_of(seed)).image_id
        journal.say("put", seed, image_id)
        delete(image_id)


class Worker:
    """One process at work, until it is killed or done."""

    def __init__(self, work: Callable[..., None], folder: Path, name: str, *args: object) -> None:
        """Start; its journal is the file `name` in `folder`."""
        path = folder / name
        path.write_text("")
        self.journal = Journal(path)
        self.exit_code: int | None = None
        # A fork takes milliseconds. It holds no lock of this process: nothing else runs here.
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                hurry()
                work(folder, self.journal, *args)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        if self.exit_code is None:
            os.kill(self._pid, number)

    def end(self, timeout_s: float = 60) -> int:
        """Wait for the end; return the exit code, that of a signal negative."""
        deadline_s = time.monotonic() + timeout_s
        while self.exit_code is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.exit_code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline_s:
                os.kill(self._pid, signal.SIGKILL)
                deadline_s += 10
            else:
                time.sleep(0.001)
        return self.exit_code


def collect_all(store: ImageStore) -> None:
    """Collect until nothing is left to do, also when a collector was killed a moment ago."""
    deadline_s = time.monotonic() + 60
    for _ in range(2):
        while True:
            try:
                collect(store, 0, wait=True)
                break
            except CollectRunning:
                assert time.monotonic() < deadline_s
                time.sleep(0.1)
