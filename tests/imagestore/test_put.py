"""Putting images: only new blocks are written, and a put can die at any moment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import (
    BLOCK_BYTES,
    DataKey,
    ImageNotFound,
    ImageStore,
    PutProgress,
    UnsupportedFormat,
    UnusableImage,
    WrongKey,
    open_image,
    verify,
)

from .image_sources import PiecesSource, blocks, image


def test_a_second_image_stores_only_the_blocks_it_does_not_share(store: ImageStore) -> None:
    shared = blocks(100, 1)
    first = store.put(image(shared))
    second = store.put(image(bytes(BLOCK_BYTES), shared[: 60 * BLOCK_BYTES], blocks(7, 2)))
    assert first.new_bytes == 100 * BLOCK_BYTES
    assert second.new_bytes == 7 * BLOCK_BYTES
    assert second.stored_bytes < 7 * BLOCK_BYTES
    assert store.stat(second.image_id).data_bytes == 67 * BLOCK_BYTES


def test_a_block_that_repeats_is_stored_once(directory_store: ImageStore) -> None:
    one = blocks(1, 5)
    report = directory_store.put(image(one * 2000, blocks(1, 6), one))
    assert report.new_bytes == 2 * BLOCK_BYTES


def test_the_same_image_again_writes_nothing(store: ImageStore) -> None:
    source = image(blocks(50, 1))
    first, again = store.put(source), store.put(source)
    assert first.image_id == again.image_id
    assert (again.new_bytes, again.stored_bytes) == (0, 0)


def test_stored_bytes_are_what_the_store_grew_by(directory_store: ImageStore) -> None:
    report = directory_store.put(image(blocks(333, 1)))
    stats = directory_store.stats()
    assert report.stored_bytes == stats.pack_bytes + stats.manifest_bytes


def test_progress_grows_to_the_size(directory_store: ImageStore) -> None:
    seen: list[PutProgress] = []
    source = image(blocks(2100, 1), size_bytes=3000 * BLOCK_BYTES)
    directory_store.put(source, seen.append)
    done = [progress.done_bytes for progress in seen]
    assert done == sorted(done)
    assert done[-1] == source.size_bytes
    assert len(done) >= 3


def test_a_source_that_fails_leaves_nothing_but_packs(directory_store: ImageStore, tmp_path: Path) -> None:
    class Broken(PiecesSource):
        def read(self, offset: int, length: int) -> bytes:
            if offset > 0:
                raise UnusableImage("gone")
            return super().read(offset, length)

    content = blocks(2100, 1)
    with pytest.raises(UnusableImage):
        directory_store.put(Broken(len(content), [(0, content)]))
    assert list(directory_store.images()) == []
    assert not list((tmp_path / "west-01/tenants/t/temporary").iterdir())
    assert directory_store.put(image(content)).new_bytes == len(content)


def test_another_key_is_refused(make_store: Callable[..., ImageStore]) -> None:
    make_store("one").put(image(blocks(3, 1)))
    with pytest.raises(WrongKey, match="another data key"):
        make_store("one", key=DataKey.generate())


def test_a_newer_format_is_refused(make_store: Callable[..., ImageStore], tmp_path: Path) -> None:
    make_store("one")
    file = tmp_path / "one/tenants/t/format.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UnsupportedFormat, match="format 2"):
        make_store("one")


def test_a_damaged_format_file_says_what_to_do(make_store: Callable[..., ImageStore], tmp_path: Path) -> None:
    make_store("one")
    (tmp_path / "one/tenants/t/format.json").write_text("{")
    with pytest.raises(UnsupportedFormat, match="Copy it from another store"):
        make_store("one")


def test_a_source_that_gives_too_little_is_refused(directory_store: ImageStore) -> None:
    class Short(PiecesSource):
        def read(self, offset: int, length: int) -> bytes:
            return super().read(offset, length)[:-1]

    with pytest.raises(UnusableImage, match="gave 8191 bytes"):
        directory_store.put(Short(8192, [(0, blocks(2, 1))]))


def test_what_is_no_image_is_not_found(directory_store: ImageStore) -> None:
    with pytest.raises(ImageNotFound):
        directory_store.open("0" * 64)
    with pytest.raises(ValueError):
        directory_store.open("../../etc/passwd")


def test_a_directory_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(blocks(20, 1))
    with open_image(file) as source:
        image_id = ImageStore.at(tmp_path / "images").put(source).image_id
    again = ImageStore.at(tmp_path / "images")
    assert again.open(image_id).read(0, 1 << 20) == file.read_bytes()
    assert (tmp_path / "images/data.key").stat().st_mode & 0o777 == 0o600


PUT_SLOWLY = """
import sys, time
from pathlib import Path
from opengallery.imagestore import ImageStore, open_image
import opengallery.imagestore.writing as writing
writing.PACK_BLOCKS = 256
class Slow:
    def __init__(self, source): self.source, self.size_bytes = source, source.size_bytes
    def extents(self): return ((at, 1 << 18) for at in range(0, self.size_bytes, 1 << 18))
    def read(self, offset, length):
        time.sleep(0.01)
        print(offset, flush=True)
        return self.source.read(offset, length)
store = ImageStore.at(Path(sys.argv[1]))
print("ready", flush=True)
with open_image(Path(sys.argv[2])) as source:
    print(store.put(Slow(source)).image_id, flush=True)
"""


@pytest.mark.parametrize("lines_until_kill", [2, 12, 30, 38, 41])
def test_a_put_killed_at_any_moment_is_done_again(tmp_path: Path, lines_until_kill: int) -> None:
    content = blocks(2560, 1)
    file = tmp_path / "disk.raw"
    file.write_bytes(content)
    with subprocess.Popen(
        [sys.executable, "-c", PUT_SLOWLY, str(tmp_path / "images"), str(file)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for _ in range(lines_until_kill):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    store = ImageStore.at(tmp_path / "images")
    assert len(list(store.images())) <= 1
    held_bytes = store.stats().packs * 256 * BLOCK_BYTES
    with open_image(file) as source:
        report = store.put(source)
    assert report.new_bytes == max(0, len(content) - held_bytes)
    assert store.open(report.image_id).read(0, len(content)) == content
    assert verify(store, report.image_id).is_good


def test_leftovers_are_swept_when_they_are_old(directory_store: ImageStore, tmp_path: Path) -> None:
    leftover = tmp_path / "west-01/tenants/t/temporary/dead"
    leftover.write_bytes(b"x" * 1000)
    assert directory_store.objects.sweep(60) == 0
    os.utime(leftover, (time.time() - 100, time.time() - 100))
    assert directory_store.objects.sweep(60) == 1000
    assert not leftover.exists()
