"""Formats of disk image files: tell them apart safely, and open those that can become an image.

Raw and fixed VHD (the format of Azure's page blobs) are read. qcow2, VMDK, VHDX and the like are
recognised by their first bytes and refused with the command that converts them: nothing here follows
what such a file says about other files. Source: Virtual Hard Disk Image Format Specification 1.0.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from opengallery.imagestore.blocks import MAX_IMAGE_BYTES, BlockSource
from opengallery.imagestore.errors import UnusableImage

SECTOR_BYTES = 512
VHD_COOKIE = b"conectix"
VHD_FOOTER = struct.Struct(">8sIIQI4sI4sQQIII16sB427x")
VHD_FIXED = 2
VHD_KINDS = {2: "fixed", 3: "dynamic", 4: "differencing"}
VHD_SEARCH_BYTES = 64 << 10

TO_RAW = "Convert it first: qemu-img convert -O raw SOURCE TARGET (or -O vpc -o subformat=fixed,force_size)."
REFUSED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"QFI\xfb", "qcow2"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"QED\x00", "QED"),
    (64, b"\x7f\x10\xda\xbe", "VDI"),
)
COMPRESSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
)


@dataclass(frozen=True)
class VhdFooter:
    """The fields of a VHD footer that matter here."""

    kind: int
    size_bytes: int


class FileSource:
    """The first `size_bytes` bytes of an open file, a `BlockSource`. Owns the file."""

    def __init__(self, file: int, size_bytes: int) -> None:
        """Take over the file descriptor `file`."""
        self._file = file
        self._size_bytes = size_bytes

    @property
    def size_bytes(self) -> int:
        """The size of the image."""
        return self._size_bytes

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the file; closing again does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield what the file system says is no hole (SEEK_DATA)."""
        end = 0
        while end < self._size_bytes:
            try:
                start = os.lseek(self._file, end, os.SEEK_DATA)
                end = min(os.lseek(self._file, start, os.SEEK_HOLE), self._size_bytes)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if start < end:
                yield start, end - start

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes. Raises `UnusableImage` when the file became shorter."""
        content = os.pread(self._file, length, offset)
        while len(content) < length:
            more = os.pread(self._file, length - len(content), offset + len(content))
            if not more:
                raise UnusableImage("The file became shorter while it was read. Upload it again.")
            content += more
        return content


def open_image(path: Path, max_size_bytes: int = MAX_IMAGE_BYTES) -> BlockSource:
    """Open a raw or fixed VHD file as an image. Raises `UnusableImage`, which says what to do."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnusableImage(f"Cannot open the file: {error.strerror}.") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage("This is not a regular file. Give a raw or fixed VHD image file.")
        size_bytes = _image_size(file, status.st_size, path.suffix.lower() == ".vhd")
        if size_bytes > max_size_bytes:
            raise UnusableImage(
                f"The image has {size_bytes} bytes, more than the {max_size_bytes} allowed. "
                "Shrink it, or raise the limit."
            )
        return FileSource(file, size_bytes)
    except BaseException:
        os.close(file)
        raise


def _image_size(file: int, file_bytes: int, is_named_vhd: bool) -> int:
    """Return how many bytes from the file's start are the image. Raises `UnusableImage`."""
    if file_bytes == 0:
        raise UnusableImage("The file is empty. Upload it again.")
    head = os.pread(file, SECTOR_BYTES, 0)
    for offset, magic, name in REFUSED:
        if head.startswith(magic, offset):
            raise UnusableImage(f"The file is a {name} image, which this release does not read. {TO_RAW}")
    for magic, name in COMPRESSED:
        if head.startswith(magic):
            raise UnusableImage(f"The file is compressed with {name}. Decompress it first.")
    if file_bytes % SECTOR_BYTES:
        raise UnusableImage(
            f"The file has {file_bytes} bytes, which is not a whole number of {SECTOR_BYTES}-byte sectors: "
            "it is probably cut short. Upload it again."
        )
    footer_offset = file_bytes - SECTOR_BYTES
    footer = os.pread(file, SECTOR_BYTES, footer_offset)
    if footer.startswith(VHD_COOKIE):
        return _vhd_size(footer, footer_offset)
    if head.startswith(VHD_COOKIE):
        if read_vhd_footer(head) is not None:
            raise UnusableImage(f"The file is a dynamic VHD that is cut short. {TO_RAW}")
        raise UnusableImage(f"The file begins like a damaged VHD. {TO_RAW}")
    if is_named_vhd:
        raise UnusableImage(
            "The file is named .vhd but has no VHD footer at its end: it is cut short or something was "
            f"added. Upload it again. {TO_RAW}"
        )
    _refuse_buried_footer(file, file_bytes)
    return file_bytes


def _vhd_size(content: bytes, footer_offset: int) -> int:
    footer = read_vhd_footer(content)
    if footer is None:
        raise UnusableImage("The file's VHD footer does not match its checksum. Upload it again.")
    if footer.kind != VHD_FIXED:
        kind = VHD_KINDS.get(footer.kind, "unknown")
        raise UnusableImage(
            f"The file is a VHD of {kind} type; only fixed ones are read. "
            "Convert it first: qemu-img convert -f vpc -O vpc -o subformat=fixed,force_size SOURCE TARGET."
        )
    if footer.size_bytes != footer_offset:
        raise UnusableImage(
            f"The VHD's footer says {footer.size_bytes} bytes but {footer_offset} bytes come before it: the "
            "file is cut short, or was changed. Upload it again."
        )
    if footer_offset == 0:
        raise UnusableImage("The VHD holds no disk: its size is 0. Upload it again.")
    return footer_offset


def _refuse_buried_footer(file: int, file_bytes: int) -> None:
    """A fixed VHD with something appended is not raw: its sizes would be wrong for ever."""
    start = max(0, file_bytes - VHD_SEARCH_BYTES)
    tail = os.pread(file, file_bytes - start, start)
    position = tail.find(VHD_COOKIE)
    while position >= 0:
        footer = read_vhd_footer(tail[position : position + SECTOR_BYTES])
        if footer is not None and footer.size_bytes == start + position:
            vhd_bytes = footer.size_bytes + SECTOR_BYTES
            raise UnusableImage(
                f"The file is a VHD with {file_bytes - vhd_bytes} bytes after its footer. "
                f"Cut them off: truncate -s {vhd_bytes} FILE."
            )
        position = tail.find(VHD_COOKIE, position + 1)


def read_vhd_footer(content: bytes) -> VhdFooter | None:
    """Read a VHD footer of 512 bytes; None when it is none, or does not match its checksum."""
    if len(content) != SECTOR_BYTES or not content.startswith(VHD_COOKIE):
        return None
    fields = VHD_FOOTER.unpack(content)
    checksum = ~(sum(content) - sum(content[64:68])) & 0xFFFFFFFF
    if fields[12] != checksum:
        return None
    return VhdFooter(kind=fields[11], size_bytes=fields[9])
