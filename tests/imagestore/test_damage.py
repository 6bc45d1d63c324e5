"""Bit flips, truncations and losses at random places of a store: found, never served, healed by a sibling."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from opengallery.imagestore import (
    ImageStore,
    ImageStoreError,
    UnreadableManifests,
    collect,
    repair,
    scrub,
    transfer,
    verify,
)

from .faults import content_of, open_store, rounds, source_of

pytestmark = pytest.mark.usefixtures("small_packs")
PARTS = ["packs", "footers", "manifests", "index"]


def files_of(folder: Path, part: str) -> list[Path]:
    place = folder / "west-01/tenants/t"
    return sorted(
        {
            "packs": place.glob("packs/*/*"),
            "footers": place.glob("packs/*/*"),
            "manifests": place.glob("manifests/*/*"),
            "index": (folder / "index/west-01").glob("*.run"),
        }[part]
    )


def damage(file: Path, part: str, numbers: random.Random) -> str:
    """Do one thing to a file; return what."""
    content = bytearray(file.read_bytes())
    kind = numbers.choice(["flip", "flip", "flip", "cut", "zero", "lose"])
    if not content or kind == "lose":
        file.unlink()
        return f"lost {file}"
    # A footer of these packs is about the last twentieth of them.
    first = int(len(content) * 0.95) if part == "footers" else 0
    position = numbers.randrange(first, len(content))
    if kind == "cut":
        content = content[:position]
    elif kind == "zero":
        content[position : position + 512] = bytes(len(content[position : position + 512]))
    else:
        content[position] ^= 1 << numbers.randrange(8)
    file.write_bytes(content)
    return f"{kind} at {position} of {file}"


def never_serves_a_wrong_byte(store: ImageStore, image_id: str, content: bytes) -> bool:
    """Read an image in ranges; return whether all of it could be read."""
    is_whole = True
    try:
        reader = store.open(image_id)
    except ImageStoreError:
        return False
    for offset in range(0, len(content), 100_000):
        try:
            assert reader.read(offset, 100_000) == content[offset : offset + 100_000]
        except ImageStoreError:
            is_whole = False
    return is_whole


@pytest.mark.timeout(1800)
def test_damage_anywhere_is_found_and_healed(tmp_path: Path) -> None:
    numbers = random.Random(4096)
    sibling = open_store(tmp_path, "east-01")
    store = open_store(tmp_path, "west-01")
    seeds = range(6)
    ids = {sibling.put(source_of(seed)).image_id: seed for seed in seeds}
    for image_id in ids:
        transfer(sibling, store, image_id)
    contents = {image_id: content_of(seed) for image_id, seed in ids.items()}
    unreadable = 0
    for turn in range(rounds(100, 1000)):
        part = PARTS[turn % len(PARTS)]
        files = files_of(tmp_path, part)
        if not files:
            # A damaged index is thrown away, and made again by the next writer.
            store.refresh_index()
            store.index.flush()
            files = files_of(tmp_path, part)
        what = damage(numbers.choice(files), part, numbers)
        store = open_store(tmp_path, "west-01")
        there = set(store.images())
        readable = {
            image_id
            for image_id, content in contents.items()
            if image_id in there and never_serves_a_wrong_byte(store, image_id, content)
        }
        unreadable += len(readable) < len(ids)
        # A writer meets the damage before anybody has found it. (It relies on frames that it has not read.)
        if turn % 3 == 0:
            store.put(source_of(turn % 6))
        told = {found.image_id for found in scrub(store, 1e12)}
        bad = {image_id for image_id in store.images() if not verify(store, image_id).is_good}
        assert told == bad, what
        # And once it is found, who has the source at hand heals it.
        if turn % 3 == 1:
            image_id = store.put(source_of(turn % 6)).image_id
            bad.discard(image_id)
            assert verify(store, image_id).is_good, what
        if part == "index":
            assert readable == ids.keys(), what
        for image_id in bad | (ids.keys() - set(store.images())):
            repair(store, image_id, [sibling])
        for image_id, content in contents.items():
            assert store.open(image_id).read(0, 1 << 30) == content, what
        assert list(scrub(store, 1e12)) == [], what
        if turn % 10 == 9:
            collect(store, 0, wait=True)
            collect(store, 0, wait=True)
            assert not store.quarantined_packs()
    assert unreadable > turn / 4


READ_UNDER_DAMAGE = """
import sys
from pathlib import Path
from tests.imagestore.faults import content_of, open_store, source_of
folder = Path(sys.argv[1])
store = open_store(folder, "west-01")
image_id = store.put(source_of(1)).image_id
store.index.flush()
store.refresh_index()
(file,) = (folder / "index/west-01").glob("*.run")
with file.open("r+b") as out:
    out.truncate(0)
report = store.put(source_of(2))
assert store.open(report.image_id).read(0, 1 << 30) == content_of(2)
print("alive")
"""


@pytest.mark.xfail(reason="the index maps its files: a file cut under a living process ends that process")
def test_an_index_that_is_cut_under_a_living_process_does_not_end_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READ_UNDER_DAMAGE, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout == "alive\n"


def test_damage_while_collecting_deletes_nothing_that_a_sibling_cannot_replace(tmp_path: Path) -> None:
    numbers = random.Random(8192)
    sibling = open_store(tmp_path, "east-01")
    store = open_store(tmp_path, "west-01")
    for turn in range(rounds(5, 100)):
        seeds = range(4 * turn, 4 * turn + 4)
        ids = [sibling.put(source_of(seed)).image_id for seed in seeds]
        for image_id in ids:
            transfer(sibling, store, image_id)
        store.delete(ids[0])
        part = numbers.choice(PARTS[:3])
        what = damage(numbers.choice(files_of(tmp_path, part)), part, numbers)
        store = open_store(tmp_path, "west-01")
        try:
            collect(store, 0, wait=True)
        except UnreadableManifests as error:
            for image_id in error.images:
                repair(store, image_id, [sibling])
        for found in scrub(store, 1e12):
            repair(store, found.image_id, [sibling])
        for image_id, seed in zip(ids[1:], list(seeds)[1:], strict=True):
            if image_id not in set(store.images()):
                repair(store, image_id, [sibling])
            assert store.open(image_id).read(0, 1 << 30) == content_of(seed), what
            store.delete(image_id)
