"""Transfers: only missing blocks move, and a transfer that died goes on where it was."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    CorruptBlock,
    DataKey,
    ImageNotFound,
    ImageStore,
    Moved,
    WrongKey,
    finish_transfer,
    segments,
    transfer,
    transfer_segment,
    verify,
)

from .image_sources import PiecesSource, blocks, image

FAR = PiecesSource(
    2 * SEGMENT_BYTES + 30 * BLOCK_BYTES,
    [(0, blocks(100, 1)), (2 * SEGMENT_BYTES, blocks(25, 2) + blocks(5, 1))],
)


@pytest.mark.parametrize("kinds", [("directory", "directory"), ("directory", "memory"), ("memory", "local")])
def test_only_missing_blocks_move(make_store: Callable[..., ImageStore], kinds: tuple[str, str]) -> None:
    source, target = make_store("west-01", kinds[0]), make_store("east-01", kinds[1])
    old = source.put(image(blocks(100, 1))).image_id
    new = source.put(image(blocks(100, 1), blocks(7, 2), bytes(BLOCK_BYTES))).image_id

    first = transfer(source, target, old)
    assert (first.data_bytes, first.saved_bytes) == (100 * BLOCK_BYTES, 0)
    assert first.moved_bytes < first.stored_bytes < 100 * BLOCK_BYTES
    second = transfer(source, target, new)
    assert (second.data_bytes, second.saved_bytes) == (107 * BLOCK_BYTES, 100 * BLOCK_BYTES)
    assert 0 < second.moved_bytes < 7 * BLOCK_BYTES
    assert transfer(source, target, new).moved_bytes == 0
    for image_id in (old, new):
        assert verify(target, image_id).is_good
    assert target.open(new).read(0, 1 << 20) == source.open(new).read(0, 1 << 20)


def test_whole_frames_are_copied_as_they_are(make_store: Callable[..., ImageStore], tmp_path: Path) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    image_id = source.put(image(blocks(96, 1))).image_id
    moved = transfer(source, target, image_id)
    packs = [next((tmp_path / name).rglob("packs/*/*")).read_bytes() for name in ("west-01", "east-01")]
    assert packs[0][: moved.moved_bytes] == packs[1][: moved.moved_bytes]


@pytest.mark.usefixtures("small_packs")
def test_blocks_that_lie_scattered_in_frames_move_alone(make_store: Callable[..., ImageStore]) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    content = blocks(160, 1)
    pieces = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    target.put(image(b"".join(pieces[::3])))
    image_id = source.put(image(content)).image_id
    moved = transfer(source, target, image_id)
    assert moved.saved_bytes == len(pieces[::3]) * BLOCK_BYTES
    assert verify(target, image_id).is_good
    assert target.open(image_id).read(0, len(content)) == content


def test_an_image_is_there_only_when_the_transfer_is_finished(
    make_store: Callable[..., ImageStore],
) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    image_id = source.put(FAR).image_id
    assert segments(source, image_id) == 3
    seen: list[Moved] = []
    for segment in range(3):
        transfer_segment(source, target, image_id, segment, seen.append)
        assert not target.has(image_id)
    finish_transfer(source, target, image_id)
    assert target.has(image_id)
    assert len(seen) >= 2
    assert verify(target, image_id).is_good


def test_a_segment_done_again_moves_nothing(make_store: Callable[..., ImageStore]) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    image_id = source.put(FAR).image_id
    assert transfer_segment(source, target, image_id, 0).moved_bytes > 0
    # As after a crash: another process, which has lost the index too.
    for file in (target._index_dir).glob("*"):
        file.unlink()
    target = make_store("east-01")
    again = transfer_segment(source, target, image_id, 0)
    assert (again.moved_bytes, again.saved_bytes) == (0, 100 * BLOCK_BYTES)
    assert transfer_segment(source, target, image_id, 1) == Moved()
    last = transfer_segment(source, target, image_id, 2)
    assert last.saved_bytes == 5 * BLOCK_BYTES


TRANSFER_SLOWLY = """
import sys, time
from pathlib import Path
from opengallery.imagestore import DataKey, ImageStore, transfer
import opengallery.imagestore.layout as layout
import opengallery.imagestore.writing as writing
writing.PACK_BLOCKS, layout.READ_AHEAD_BYTES = 64, 65536
folder, image_id = Path(sys.argv[1]), sys.argv[2]
key = DataKey(bytes(range(32)))
stores = [
    ImageStore(folder / name, prefix="tenants/t", key=key, index_dir=folder / "index" / name, name=name)
    for name in ("west-01", "east-01")
]
def report(moved):
    print(moved.moved_bytes, flush=True)
    time.sleep(0.01)
transfer(*stores, image_id, report)
"""


@pytest.mark.parametrize("lines_until_kill", [1, 10, 25])
def test_a_transfer_killed_at_any_moment_goes_on(
    make_store: Callable[..., ImageStore], tmp_path: Path, lines_until_kill: int
) -> None:
    source = make_store("west-01")
    content = blocks(1000, 1)
    image_id = source.put(image(content)).image_id
    with subprocess.Popen(
        [sys.executable, "-c", TRANSFER_SLOWLY, str(tmp_path), image_id], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(lines_until_kill)]
        process.kill()
    assert all(lines)
    target = make_store("east-01")
    assert not target.has(image_id)
    held_packs = target.stats().packs
    moved = transfer(source, target, image_id)
    assert moved.saved_bytes == held_packs * 64 * BLOCK_BYTES
    assert verify(target, image_id).is_good
    assert target.open(image_id).read(0, len(content)) == content


def test_finishing_brings_what_no_segment_brought(make_store: Callable[..., ImageStore]) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    image_id = source.put(FAR).image_id
    transfer_segment(source, target, image_id, 0)
    assert finish_transfer(source, target, image_id).moved_bytes > 0
    assert verify(target, image_id).is_good


def test_a_corrupt_source_is_never_copied(make_store: Callable[..., ImageStore], tmp_path: Path) -> None:
    source, target = make_store("west-01"), make_store("east-01")
    image_id = source.put(image(blocks(100, 1))).image_id
    pack = next((tmp_path / "west-01").rglob("packs/*/*"))
    content = bytearray(pack.read_bytes())
    content[30_000] ^= 1
    pack.write_bytes(content)
    with pytest.raises(CorruptBlock) as raised:
        transfer(source, target, image_id)
    assert raised.value.store == "west-01"
    assert not target.has(image_id)


def test_stores_of_two_tenants_share_nothing(make_store: Callable[..., ImageStore]) -> None:
    source, target = make_store("west-01"), make_store("east-01", key=DataKey.generate())
    image_id = source.put(image(blocks(3, 1))).image_id
    with pytest.raises(WrongKey):
        transfer(source, target, image_id)
    assert target.put(image(blocks(3, 1))).image_id != image_id


def test_an_image_the_source_lacks_is_not_found(make_store: Callable[..., ImageStore]) -> None:
    with pytest.raises(ImageNotFound):
        transfer(make_store("west-01"), make_store("east-01"), "0" * 64)
