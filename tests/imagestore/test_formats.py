"""Image files: raw and fixed VHD are opened; what is damaged or not read is refused with what to do."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, UnusableImage, open_image

from .image_sources import blocks

MIB = 1 << 20


def vhd_footer(size_bytes: int, kind: int = 2, checksum_off_by: int = 0) -> bytes:
    fields = [
        b"conectix", 2, 0x10000, (1 << 64) - 1, 0, b"test", 1, b"Wi2k",
        size_bytes, size_bytes, 0, kind, 0, bytes(16), 0,
    ]  # fmt: skip
    layout = ">8sIIQI4sI4sQQIII16sB427x"
    fields[12] = (~sum(struct.pack(layout, *fields)) + checksum_off_by) & 0xFFFFFFFF
    return struct.pack(layout, *fields)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def refused(disk: Path, content: bytes, match: str) -> None:
    disk.write_bytes(content)
    with pytest.raises(UnusableImage, match=match):
        open_image(disk)


def test_a_raw_file_is_the_image(disk: Path) -> None:
    content = blocks(10, 1)
    disk.write_bytes(content)
    with open_image(disk) as source:
        assert source.size_bytes == len(content)
        assert source.read(0, len(content)) == content


def test_a_fixed_vhd_is_its_disk_without_the_footer(disk: Path, directory_store: ImageStore) -> None:
    content = blocks(256, 1)
    disk.write_bytes(content + vhd_footer(len(content)))
    with open_image(disk) as source:
        as_vhd = directory_store.put(source)
    disk.write_bytes(content)
    with open_image(disk) as source:
        as_raw = directory_store.put(source)
    assert as_vhd.image_id == as_raw.image_id
    assert as_vhd.size_bytes == len(content)


def test_holes_of_a_file_are_not_read(disk: Path) -> None:
    with disk.open("wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"x" * 4096, 500 * MIB)
    with open_image(disk) as source:
        extents = list(source.extents())
    assert sum(length for _, length in extents) <= MIB
    assert any(start <= 500 * MIB < start + length for start, length in extents)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda disk: disk[:-1], "whole number of 512-byte sectors"),
        (lambda disk: disk[MIB // 2 :], "footer says 1048576 bytes but 524288"),
        (lambda disk: disk[:-512] + vhd_footer(2 * MIB), "footer says 2097152 bytes but 1048576"),
        (lambda disk: bytes(MIB) + disk, "footer says 1048576 bytes but 2097152"),
        (lambda disk: disk[:-512] + vhd_footer(MIB, kind=3), "ends as a VHD of dynamic type"),
        (lambda disk: disk[:-512] + vhd_footer(MIB, kind=4), "ends as a VHD of differencing type"),
        (lambda disk: disk[:-512] + vhd_footer(MIB, kind=7), "ends as a VHD of unknown type"),
        (lambda disk: disk[:-512] + vhd_footer(MIB, checksum_off_by=1), "does not match its checksum"),
        (lambda disk: disk[-512:], "footer says 1048576 bytes but 0"),
        (lambda disk: vhd_footer(0), "its size is 0"),
        (lambda disk: disk + bytes(1024), "1024 bytes after its footer"),
        (lambda disk: vhd_footer(MIB, kind=3) + disk[:-512], "dynamic VHD that is cut short"),
        (lambda disk: b"conectix" + disk[8:-512], "damaged VHD"),
        (lambda disk: b"", "empty"),
    ],
)  # fmt: skip
def test_a_vhd_that_lies_is_refused(disk: Path, change, match: str) -> None:
    refused(disk, change(blocks(256, 1) + vhd_footer(MIB)), match)


def test_a_file_named_vhd_without_a_footer_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "disk.vhd", blocks(256, 1), "cut short")


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (b"QFI\xfb\0\0\0\3", "qcow2 file is damaged"),
        (b"KDMV\1\0\0\0", "No descriptor found|damaged"),
        (b"# Disk DescriptorFile\nversion=1\n", "VMDK"),
        (b"vhdxfile", "VHDX file is damaged"),
        (b"QED\0", "QED"),
        (b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe", "VDI"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"\xfd7zXZ\0", "xz"),
    ],
)
def test_other_formats_are_recognised_and_refused(disk: Path, head: bytes, match: str) -> None:
    refused(disk, head.ljust(1024, b"\0"), match)
    refused(disk, head, match)


def test_too_large_an_image_is_refused(disk: Path) -> None:
    disk.write_bytes(bytes(2 * MIB))
    with open_image(disk, 2 * MIB):
        pass
    with pytest.raises(UnusableImage, match="more than the 1048576 allowed"):
        open_image(disk, MIB)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = {"device": Path("/dev/zero")}.get(kind, tmp_path / kind)
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(UnusableImage):
        open_image(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(disk: Path) -> None:
    disk.write_bytes(bytes(MIB))
    with open_image(disk) as source:
        os.truncate(disk, 4096)
        with pytest.raises(UnusableImage, match="became shorter"):
            source.read(0, MIB)


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
@pytest.mark.parametrize(
    ("target", "options", "is_good"),
    [
        ("raw", "", True),
        ("vpc", "subformat=fixed,force_size", True),
        ("vpc", "subformat=dynamic", True),
        ("qcow2", "", True),
        ("vmdk", "", True),
        ("vhdx", "", True),
        ("vdi", "", False),
        ("qed", "", False),
    ],
)
def test_what_qemu_writes_is_told_apart(tmp_path: Path, target: str, options: str, is_good: bool) -> None:
    raw, converted = tmp_path / "raw", tmp_path / "converted"
    raw.write_bytes(blocks(256, 1))
    command = ["qemu-img", "convert", "-f", "raw", "-O", target]
    subprocess.run([*command, *(["-o", options] if options else []), raw, converted], check=True)
    if is_good:
        with open_image(converted) as source:
            # A VHD without force_size is rounded up to whole cylinders.
            assert source.read(0, source.size_bytes) == raw.read_bytes().ljust(source.size_bytes, b"\0")
    else:
        with pytest.raises(UnusableImage, match="Convert it first"):
            open_image(converted)
