"""An image that is changed in place version after version does not become slow to read."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opengallery.imagestore import BLOCK_BYTES, ImageStore, verify
from opengallery.imagestore.layout import FooterChecksums, read_layout
from opengallery.imagestore.packs import Footer
from opengallery.imagestore.scatter import FrameUse

from .image_sources import blocks, image

BLOCKS = 1200


def opened_blocks(store: ImageStore, image_id: str) -> int:
    """How many blocks the frames have that the image needs."""
    manifest = store.manifest(image_id)
    footers = FooterChecksums(store, manifest)
    layout = read_layout(store, manifest, 0, footers)
    opened = 0
    for number in np.unique(layout.pack).tolist():
        if number >= 0:
            footer = footers.footer(number)
            frames = np.unique(footer.frames_of(layout.entry[layout.pack == number]))
            opened += int(np.diff(footer.first_entry)[frames].sum())
    return opened


def versions(count: int) -> list[bytes]:
    """Versions of an image, each with 25 runs of 1 to 6 blocks changed."""
    numbers = random.Random(3)
    content = bytearray(blocks(BLOCKS, 1))
    found = [bytes(content)]
    for version in range(1, count):
        fresh = blocks(150, 100 + version)
        for number in range(25):
            length = numbers.randint(1, 6) * BLOCK_BYTES
            at = numbers.randrange(BLOCKS - 6) * BLOCK_BYTES
            content[at : at + length] = fresh[number * 6 * BLOCK_BYTES :][:length]
        found.append(bytes(content))
    return found


def test_blocks_that_lie_scattered_are_written_anew(
    make_store: Callable[..., ImageStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = versions(20)
    as_they_come = make_store("as-they-come")
    last = [as_they_come.put(image(content)) for content in contents][-1]
    monkeypatch.setattr("opengallery.imagestore.scatter.MIN_WASTE_BLOCKS", 16)
    gathered = make_store("gathered")
    reports = [gathered.put(image(content)) for content in contents]
    assert reports[-1].image_id == last.image_id
    assert opened_blocks(as_they_come, last.image_id) > 2 * BLOCKS
    assert opened_blocks(gathered, last.image_id) < 1.3 * BLOCKS
    assert sum(report.gathered_bytes for report in reports) > 0
    assert {report.new_bytes for report in reports[1:]} <= {n * BLOCK_BYTES for n in range(25, 151)}
    for report, content in zip(reports, contents, strict=True):
        assert gathered.open(report.image_id).read(0, len(content)) == content
        assert verify(gathered, report.image_id).is_good


def test_a_block_that_repeats_stays_one(directory_store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opengallery.imagestore.scatter.MIN_WASTE_BLOCKS", 1)
    content = blocks(64, 1)
    directory_store.put(image(content))
    kept = content[: 3 * BLOCK_BYTES]
    report = directory_store.put(image(kept, blocks(3, 9), kept, kept))
    assert report.gathered_bytes == 3 * BLOCK_BYTES
    assert directory_store.open(report.image_id).read(0, 1 << 20) == kept + blocks(3, 9) + kept + kept


@pytest.mark.usefixtures("small_packs")
def test_frames_that_are_used_whole_stay(make_store: Callable[..., ImageStore], tmp_path: Path) -> None:
    store = make_store()
    content = blocks(300, 1)
    store.put(image(content))
    shuffled = [content[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES)]
    random.Random(1).shuffle(shuffled)
    report = store.put(image(*shuffled))
    assert (report.new_bytes, report.gathered_bytes) == (0, 0)


def test_the_frames_with_the_least_use_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opengallery.imagestore.scatter.MIN_WASTE_BLOCKS", 1)
    starts = np.arange(0, 11 * 32, 32)
    footer = Footer("0" * 64, b"", np.zeros((320, 32), np.uint8), starts, starts)
    use = FrameUse()
    # Frame 0 is used by one block, frame 1 by a quarter, the others whole; frame 9 not at all.
    use.count(7, footer, np.concatenate(([5], np.arange(32, 36), np.arange(64, 288))))

    def gone(own_blocks: int) -> dict[int, list[int]]:
        return {pack: np.flatnonzero(part).tolist() for pack, part in use.scattered(own_blocks).items()}

    # What moves is bounded by what is new: as much.
    assert [gone(own_blocks) for own_blocks in (0, 1, 4, 5)] == [{}, {7: [0]}, {7: [0]}, {7: [0, 1]}]
