"""Which pages of a file are uploaded."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengallery.cli.disk_file import BLOCK_BYTES, GAP_BYTES, MIB, PUT_MAX_BYTES, DiskFile, nonzero_parts
from opengallery.cli.failure import CommandFailed
from opengallery.cli.page_blob import holds, merged
from opengallery.imagestore.vhd import fixed_footer


def rebuild(file: DiskFile) -> bytes:
    """What a server would hold after all pieces were put."""
    content = bytearray(file.size_bytes)
    for extent in file.extents():
        for _, pieces in file.pieces(extent):
            for piece in pieces:
                assert piece.offset % 512 == 0 and len(piece.data) % 512 == 0
                assert 0 < len(piece.data) <= PUT_MAX_BYTES
                content[piece.offset : piece.offset + len(piece.data)] = piece.data
    return bytes(content)


def test_a_sparse_file_comes_out_the_same_and_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(100 * MIB)
        for offset in (0, 5 * MIB + 512, 64 * MIB - 100, 100 * MIB - 512):
            file.seek(offset)
            file.write(os.urandom(512))
    with DiskFile(path) as disk:
        assert disk.size_bytes == 100 * MIB
        assert sum(length for _, length in disk.extents()) < 2 * MIB
        assert rebuild(disk) == path.read_bytes()


def test_a_size_that_is_no_whole_number_of_mib_is_filled_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(20 * MIB + 1536))
    with DiskFile(path) as disk:
        assert disk.size_bytes == 21 * MIB
        assert rebuild(disk) == path.read_bytes().ljust(21 * MIB, b"\0")


def test_a_fixed_vhd_is_its_disk_without_the_footer(tmp_path: Path) -> None:
    path, content = tmp_path / "disk.vhd", os.urandom(22 * MIB)
    path.write_bytes(content + fixed_footer(22 * MIB))
    with DiskFile(path) as disk:
        assert disk.size_bytes == 22 * MIB
        assert rebuild(disk) == content


def test_a_small_disk_grows_to_what_azure_takes(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(512))
    with DiskFile(path) as disk:
        assert rebuild(disk) == path.read_bytes().ljust(20 * MIB, b"\0")


@pytest.mark.parametrize("head", [b"QFI\xfb", b"vhdxfile", b"KDMV"])
def test_a_damaged_file_of_another_format_is_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(head.ljust(MIB, b"\0"))
    with pytest.raises(CommandFailed, match=r"qemu-img convert|Make the file again"):
        DiskFile(path)


def test_a_missing_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"absent\.raw"):
        DiskFile(tmp_path / "absent.raw")
    (tmp_path / "empty.raw").touch()
    with pytest.raises(CommandFailed, match=r"empty\.raw"):
        DiskFile(tmp_path / "empty.raw")


def test_the_fingerprint_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"a" * MIB)
    with DiskFile(path) as disk:
        before = disk.fingerprint
    os.utime(path, ns=(0, 1))
    with DiskFile(path) as disk:
        assert disk.fingerprint != before


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 40)), max_size=8), st.integers(0, 4000))
def test_nonzero_parts_hold_every_byte_that_is_not_zero(runs: list[tuple[int, int]], tail: int) -> None:
    content = bytearray(360 * BLOCK_BYTES + tail)
    for start, length in runs:
        content[start * BLOCK_BYTES : (start + length) * BLOCK_BYTES] = b"x" * length * BLOCK_BYTES
    rebuilt = bytearray(len(content) + 512)
    parts = nonzero_parts(bytes(content))
    for offset, data in parts:
        rebuilt[offset : offset + len(data)] = data
    assert rebuilt[: len(content)] == content
    ends = [(offset, offset + len(data)) for offset, data in parts]
    assert all(later - end >= GAP_BYTES for (_, end), (later, _) in itertools.pairwise(ends))


def test_holds_wants_the_whole_piece() -> None:
    ranges = merged([(4096, 8192), (0, 4096), (16384, 20480)])
    assert ranges == [(0, 8192), (16384, 20480)]
    assert holds(ranges, 0, 8192) and holds(ranges, 4096, 512) and holds(ranges, 16384, 4096)
    assert not holds(ranges, 4096, 8192) and not holds(ranges, 8192, 512) and not holds([], 0, 1)


@pytest.mark.parametrize("content", [b"", b"x" * 1000])
def test_what_is_no_image_is_not_to_be_uploaded_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(
        CommandFailed, match=r"a\.txt is no disk image \(raw images are .*qcow2 or VMDK\)"
    ) as failed:
        DiskFile(tmp_path / "a.txt")
    assert "Upload it again" not in str(failed.value)
