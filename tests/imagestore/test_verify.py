"""Damage: it is found, it is never given out, and a sibling heals it."""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opengallery.imagestore import (
    BLOCK_BYTES,
    CorruptBlock,
    FrameCache,
    ImageNotFound,
    ImageStore,
    StoreUnavailable,
    collect,
    repair,
    transfer,
    verify,
)

from .image_sources import KEY, blocks, image

CONTENT = blocks(120, 1) + bytes(9 * BLOCK_BYTES) + blocks(5, 2) + b"end"


def objects_of(root: Path) -> list[Path]:
    return sorted([*root.rglob("packs/*/*"), *root.rglob("manifests/*/*")])


def read_all(store: ImageStore, image_id: str) -> bytes:
    return store.open(image_id).read(0, len(CONTENT))


@pytest.fixture
def image_id(directory_store: ImageStore, small_packs: None) -> str:
    return directory_store.put(image(CONTENT)).image_id


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 100), where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_flipped_byte_is_ever_given_out(
    image_id: str, tmp_path: Path, which: int, where: float, flip: int
) -> None:
    files = objects_of(tmp_path / "west-01")
    file = files[which % len(files)]
    good = file.read_bytes()
    bad = bytearray(good)
    bad[int(where * len(bad))] ^= flip
    file.write_bytes(bad)
    try:
        store = ImageStore(
            tmp_path / "west-01",
            prefix="tenants/t",
            key=KEY,
            index_dir=tmp_path / "index/other",
            name="west-01",
        )
        with pytest.raises(CorruptBlock):
            read_all(store, image_id)
        assert not verify(store, image_id).is_good
    finally:
        file.write_bytes(good)


def test_the_error_names_store_pack_and_digest(
    directory_store: ImageStore, image_id: str, tmp_path: Path
) -> None:
    file = next(tmp_path.rglob("packs/*/*"))
    content = bytearray(file.read_bytes())
    content[20] ^= 1
    file.write_bytes(content)
    directory_store.cache.clear()
    with pytest.raises(CorruptBlock) as raised:
        read_all(directory_store, image_id)
    assert (raised.value.store, raised.value.pack) == ("west-01", file.name)
    assert len(raised.value.digest) == 64


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "another pack"])
def test_a_pack_that_is_not_itself_is_refused(
    directory_store: ImageStore, image_id: str, tmp_path: Path, damage: str
) -> None:
    first, second, *_ = sorted(tmp_path.rglob("packs/*/*"))
    if damage == "gone":
        first.unlink()
    else:
        content = first.read_bytes()
        first.write_bytes({"cut": content[:-100], "empty": b"", "another pack": second.read_bytes()}[damage])
    directory_store.cache.clear()
    with pytest.raises(CorruptBlock):
        read_all(directory_store, image_id)


def test_a_sector_that_cannot_be_read_is_damage_and_a_lost_disk_is_not(
    directory_store: ImageStore, image_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    code = errno.EIO

    def failing(file: int, length: int, offset: int) -> bytes:
        if "/packs/" in str(Path(f"/proc/self/fd/{file}").readlink()) and offset == 0:
            raise OSError(code, os.strerror(code))
        return pread(file, length, offset)

    reader = directory_store.open(image_id)
    monkeypatch.setattr(os, "pread", failing)
    with pytest.raises(CorruptBlock, match="the disk cannot read it"):
        reader.read(0, 1)
    code = errno.ENOTCONN
    with pytest.raises(StoreUnavailable, match="Check that directory"):
        reader.read(0, 1)
    monkeypatch.undo()
    assert reader.read(0, len(CONTENT)) == CONTENT


def test_a_manifest_of_another_image_is_refused(
    directory_store: ImageStore, image_id: str, tmp_path: Path
) -> None:
    other = directory_store.put(image(blocks(3, 7))).image_id
    manifests = {file.name: file for file in tmp_path.rglob("manifests/*/*")}
    manifests[image_id].write_bytes(manifests[other].read_bytes())
    with pytest.raises(CorruptBlock, match="another image"):
        directory_store.open(image_id)


def test_a_footer_swapped_while_an_image_is_open_is_refused(
    directory_store: ImageStore, image_id: str, tmp_path: Path
) -> None:
    reader = directory_store.open(image_id)
    reader.read(0, BLOCK_BYTES)
    first, second, *_ = sorted(tmp_path.rglob("packs/*/*"))
    content = first.read_bytes(), second.read_bytes()
    first.write_bytes(content[1])
    second.write_bytes(content[0])
    directory_store.cache.clear()
    with pytest.raises(CorruptBlock):
        reader.read(0, len(CONTENT))


def test_a_sibling_heals_what_verify_finds(
    make_store: Callable[..., ImageStore], directory_store: ImageStore, image_id: str, tmp_path: Path
) -> None:
    sibling = make_store("west-02")
    transfer(directory_store, sibling, image_id)
    reader = directory_store.open(image_id)
    packs = sorted((tmp_path / "west-01").rglob("packs/*/*"))
    for file, position in ((packs[0], 20), (packs[1], -50), (packs[2], -100)):
        content = bytearray(file.read_bytes())
        content[position] ^= 1
        file.write_bytes(content)
    directory_store.cache.clear()
    report = verify(directory_store, image_id)
    assert {error.pack for error in report.bad} == {file.name for file in packs[:3]}
    with pytest.raises(CorruptBlock):
        reader.read(0, len(CONTENT))

    moved = repair(directory_store, image_id, [sibling])
    assert moved.moved_bytes > 0
    assert verify(directory_store, image_id).is_good
    assert read_all(directory_store, image_id) == CONTENT
    # A reader that was open all the time goes on by the new manifest.
    assert reader.read(0, len(CONTENT)) == CONTENT
    # What is quarantined goes when nothing needs it.
    collect(directory_store, 0, wait=True)
    assert not directory_store.quarantined_packs()
    assert not {file.name for file in packs[:3]} & {
        file.name for file in (tmp_path / "west-01").rglob("packs/*/*")
    }
    assert read_all(directory_store, image_id) == CONTENT


@pytest.mark.parametrize("position", [5, -60, -3])
def test_a_damaged_manifest_is_healed_too(
    make_store: Callable[..., ImageStore],
    directory_store: ImageStore,
    image_id: str,
    tmp_path: Path,
    position: int,
) -> None:
    sibling = make_store("west-02")
    transfer(directory_store, sibling, image_id)
    (file,) = (tmp_path / "west-01").rglob("manifests/*/*")
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    assert not verify(directory_store, image_id).is_good
    repair(directory_store, image_id, [sibling])
    assert verify(directory_store, image_id).is_good


def test_putting_the_image_again_heals_it(directory_store: ImageStore, image_id: str, tmp_path: Path) -> None:
    file = next(tmp_path.rglob("packs/*/*"))
    file.write_bytes(b"\0" * 100)
    directory_store.cache.clear()
    assert not verify(directory_store, image_id).is_good
    directory_store.put(image(CONTENT))
    assert verify(directory_store, image_id).is_good
    assert read_all(directory_store, image_id) == CONTENT


def test_a_repair_without_a_good_sibling_says_why(
    make_store: Callable[..., ImageStore], directory_store: ImageStore, image_id: str
) -> None:
    with pytest.raises(ImageNotFound, match="west-02"):
        repair(directory_store, image_id, [make_store("west-02")])


def test_a_verified_image_counts_its_data(directory_store: ImageStore, image_id: str) -> None:
    report = verify(directory_store, image_id)
    assert (report.is_good, report.checked_bytes) == (True, 126 * BLOCK_BYTES)


def test_a_small_cache_stays_within_its_bound() -> None:
    cache = FrameCache(1000)
    for number in range(100):
        cache.put(number, bytes(90), 90)
    assert cache.used_bytes <= 1000
    assert cache.get(99) == bytes(90)
    assert cache.get(1) is None
    cache.put(99, b"", 2000)
    assert cache.used_bytes == 0


def test_siblings_that_are_damaged_each_in_its_own_place_repair_each_other(
    make_store: Callable[..., ImageStore], tmp_path: Path
) -> None:
    content = random.Random(7).randbytes(3 * 32 * BLOCK_BYTES)
    stores = [make_store(name) for name in ("first-01", "second-01", "third-01")]
    image_id = stores[0].put(image(content)).image_id
    for sibling in stores[1:]:
        transfer(stores[0], sibling, image_id)
    # Each of the three frames is good in one store only.
    for number, name in enumerate(("first-01", "second-01", "third-01")):
        (pack,) = (tmp_path / name).rglob("packs/*/*")
        damaged = bytearray(pack.read_bytes())
        for frame in {0, 1, 2} - {number}:
            damaged[int((frame + 0.5) / 3 * len(content) * 0.98)] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(damaged)
        assert not verify(stores[number], image_id).is_good
    repair(stores[0], image_id, stores[1:])
    assert verify(stores[0], image_id).is_good
    assert stores[0].open(image_id).read(0, len(content)) == content
