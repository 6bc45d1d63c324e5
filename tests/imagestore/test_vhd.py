"""The footer that turns a disk into a fixed VHD."""

import shutil
import subprocess
from pathlib import Path

import pytest

from opengallery.imagestore.formats import VHD_FIXED, read_vhd_footer
from opengallery.imagestore.vhd import checksum, fixed_footer, geometry

GIB = 1024**3


@pytest.mark.parametrize("size_bytes", [1024**2, 2 * GIB, 127 * GIB, 4096 * GIB])
def test_a_footer_is_read_back_as_fixed_and_of_this_size(size_bytes: int) -> None:
    footer = read_vhd_footer(fixed_footer(size_bytes))
    assert footer is not None
    assert (footer.kind, footer.size_bytes) == (VHD_FIXED, size_bytes)


def test_the_checksum_notices_every_changed_byte() -> None:
    footer = fixed_footer(1024**2)
    for position in range(512):
        if position in range(64, 68):
            continue
        changed = bytearray(footer)
        changed[position] ^= 0xFF
        assert checksum(bytes(changed)) != footer[64:68]


def test_two_footers_have_different_ids() -> None:
    assert fixed_footer(1024**2)[68:84] != fixed_footer(1024**2)[68:84]


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    # From the specification's formula: 17, 31, 63 and 255 sectors a track.
    [
        (40 * 1024**2, (963, 5, 17)),
        (2 * GIB, (4161, 16, 63)),
        (4096 * GIB, (65535, 16, 255)),
    ],
)
def test_geometry_follows_the_specification(size_bytes: int, expected: tuple[int, int, int]) -> None:
    assert geometry(size_bytes) == expected


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_qemu_reads_what_we_write(tmp_path: Path) -> None:
    image = tmp_path / "disk.vhd"
    image.write_bytes(bytes(3 * 1024**2) + fixed_footer(3 * 1024**2))
    info = subprocess.run(
        ["qemu-img", "check", "-f", "vpc", image], capture_output=True, text=True, check=False
    )
    assert "Could not open" not in info.stderr
