"""The power goes at any moment of publishing and collecting: what was acknowledged is there and verifies."""

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, verify

from .faults import Worker, clean, collect_all, content_of, publish, rounds, source_of
from .image_sources import KEY
from .mounts import Disk, mounted

pytestmark = pytest.mark.usefixtures("small_packs")


def open_at(root: Path, index_dir: Path) -> ImageStore:
    return ImageStore(root / "west-01", prefix="tenants/t", key=KEY, index_dir=index_dir, name="west-01")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("work", [publish, clean])
def test_what_was_acknowledged_before_a_power_cut_is_there(tmp_path: Path, work: object) -> None:
    numbers = random.Random(12)
    chosen = publish if work is publish else clean
    with ExitStack() as stack:
        disk = Disk(tmp_path, stack)
        (tmp_path / "west-01").symlink_to(disk.root / "west-01")
        (disk.root / "west-01").mkdir()
        worker = Worker(chosen, tmp_path, "journal", range(2000))
        stack.callback(worker.end)
        stack.callback(worker.signal, signal.SIGKILL)
        while not worker.journal.said("put"):
            time.sleep(0.01)
        for turn in range(rounds(3, 20)):
            time.sleep(0.05 + numbers.random() * 0.6)
            before = worker.journal.lines()
            copy = disk.cut(f"cut-{turn}.img")
            after = worker.journal.lines()
            assert worker.exit_code is None
            acknowledged = {words[2]: int(words[1]) for words in before if words[0] == "put"}
            assert acknowledged
            deleted = {words[1] for words in after if words[0] == "deleting"}
            with mounted(tmp_path / "after", "-o", "loop", copy) as root:
                store = open_at(root, tmp_path / f"index-{turn}")
                there = set(store.images())
                assert acknowledged.keys() - deleted <= there
                for image_id in there:
                    assert verify(store, image_id).is_good
                for image_id in acknowledged.keys() - deleted:
                    content = content_of(acknowledged[image_id])
                    assert store.open(image_id).read(0, 1 << 30) == content
                # Life goes on.
                report = store.put(source_of(9000 + turn))
                collect_all(store)
                assert verify(store, report.image_id).is_good
                for image_id in there:
                    assert verify(store, image_id).is_good
            copy.unlink()
