"""Overlays: a machine's disk becomes the image that QEMU sees in it, and only what was written is new."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengallery.imagestore import (
    AnyOf,
    CorruptBlock,
    ImageStore,
    UnusableImage,
    open_image,
    open_overlay,
)
from opengallery.imagestore.blocks import BlockSource

KIB, MIB = 1024, 1024**2
LIMIT_BYTES = 64 * MIB


def base_file(folder: Path, size_bytes: int = 3 * MIB) -> Path:
    """A raw image with data, a hole, and data again."""
    path = folder / "base.raw"
    content = bytearray(b"base" * (size_bytes // 4))
    content[MIB : 2 * MIB] = bytes(MIB)
    path.write_bytes(content)
    return path


def overlay_file(folder: Path, size_bytes: int, *commands: str) -> Path:
    """An overlay without a backing header, as machines have it, after these qemu-io commands."""
    path = folder / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size_bytes)], check=True)
    for command in commands:
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, path], check=True, capture_output=True)
    return path


def seen_by_qemu(overlay: Path, base: Path | None) -> bytes:
    """What a machine over these reads from its disk."""
    backing = None if base is None else {"driver": "raw", "file": {"driver": "file", "filename": str(base)}}
    node = {"driver": "qcow2", "file": {"driver": "file", "filename": str(overlay)}, "backing": backing}
    seen = overlay.with_suffix(".seen")
    subprocess.run(["qemu-img", "convert", "-O", "raw", f"json:{json.dumps(node)}", seen], check=True)
    return seen.read_bytes()


def taken_in(store: ImageStore, overlay: Path, base: BlockSource | None) -> tuple[bytes, int]:
    """The bytes of the image that the overlay becomes, and how many of them were new."""
    with open_overlay(overlay, base, LIMIT_BYTES) as source:
        report = store.put(source)
    reader = store.open(report.image_id)
    return reader.read(0, reader.size_bytes), report.new_bytes


WRITES = st.lists(
    st.tuples(st.integers(0, 79), st.integers(1, 9), st.sampled_from(["-P 7", "-z", "-z -u"])), max_size=5
)


@settings(max_examples=12, deadline=None)
@given(WRITES, st.booleans())
def test_an_overlay_becomes_what_qemu_sees(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, str]], is_larger: bool
) -> None:
    folder = tmp_path_factory.mktemp("overlay")
    size_bytes = (5 if is_larger else 3) * MIB
    commands = [
        f"write {how} {start * 37}k {min(length * 41, size_bytes // KIB - start * 37)}k"
        for start, length, how in writes
    ]
    base, overlay = base_file(folder), overlay_file(folder, size_bytes, *commands)
    store = ImageStore.at(folder / "store")
    assert taken_in(store, overlay, open_image(base))[0] == seen_by_qemu(overlay, base)


def test_only_what_was_written_is_new(tmp_path: Path) -> None:
    base = tmp_path / "base.raw"
    base.write_bytes(bytes(range(256)) * (3 * MIB // 256))
    store = ImageStore.at(tmp_path / "store")
    with open_image(base) as source:
        base_id = store.put(source).image_id
    overlay = overlay_file(tmp_path, 3 * MIB, "write -P 9 100k 8k")
    content, new_bytes = taken_in(store, overlay, store.open(base_id))
    assert content == seen_by_qemu(overlay, base)
    assert 0 < new_bytes <= 64 * KIB


@pytest.mark.parametrize("offset_kib", [0, 1536, 2944])
def test_a_half_hydrated_overlay_is_taken_in_whole(tmp_path: Path, offset_kib: int) -> None:
    base = base_file(tmp_path)
    overlay = overlay_file(tmp_path, 3 * MIB, "write -P 9 100k 8k")
    before = seen_by_qemu(overlay, base)
    # Hydrating copies what is read: here a part of the disk, from somewhere on.
    node = {
        "driver": "copy-on-read",
        "file": {
            "driver": "qcow2",
            "file": {"driver": "file", "filename": str(overlay)},
            "backing": {"driver": "raw", "file": {"driver": "file", "filename": str(base)}},
        },
    }
    read = f"read {offset_kib}k 128k"
    subprocess.run(["qemu-io", "-c", read, f"json:{json.dumps(node)}"], check=True, capture_output=True)
    assert taken_in(ImageStore.at(tmp_path / "store"), overlay, open_image(base))[0] == before


def test_a_hydrated_overlay_needs_no_base(tmp_path: Path) -> None:
    overlay = overlay_file(tmp_path, 2 * MIB, "write -P 9 0 1M")
    content, _ = taken_in(ImageStore.at(tmp_path / "store"), overlay, None)
    assert content == seen_by_qemu(overlay, None) == b"\x09" * MIB + bytes(MIB)


def test_what_is_no_overlay_is_refused(tmp_path: Path) -> None:
    raw = base_file(tmp_path)
    with pytest.raises(UnusableImage, match="no machine's disk"):
        open_overlay(raw, None, LIMIT_BYTES)
    named = tmp_path / "named.qcow2"
    options = ["-f", "qcow2", "-F", "raw", "-b", str(raw)]
    subprocess.run(["qemu-img", "create", "-q", *options, named], check=True)
    with pytest.raises(UnusableImage, match="backing file"):
        open_overlay(named, None, LIMIT_BYTES)


def test_a_sibling_serves_what_one_place_can_not(tmp_path: Path) -> None:
    base = base_file(tmp_path)
    stores = [ImageStore.at(tmp_path / name) for name in ("a", "b")]
    with open_image(base) as source:
        # The two stores have different keys, as those of two tenants.
        places = [store.open(store.put(source).image_id) for store in stores]
    for pack in (tmp_path / "a" / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(bytes(pack.stat().st_size))
    with pytest.raises(CorruptBlock):
        ImageStore.at(tmp_path / "a").open(places[0].image_id).read(0, MIB)
    overlay = overlay_file(tmp_path, 3 * MIB, "write -P 9 100k 8k")
    fresh = ImageStore.at(tmp_path / "a").open(places[0].image_id)
    content, _ = taken_in(ImageStore.at(tmp_path / "c"), overlay, AnyOf([fresh, places[1]]))
    assert content == seen_by_qemu(overlay, base)
