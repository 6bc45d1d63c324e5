"""Formats of disk image files: tell them apart safely, and open those that can become an image.

Raw and fixed VHD (the format of Azure's page blobs) are read as they are. qcow2, VMDK, VHDX and dynamic
VHD are judged first (`containers.py`), then read through a confined tool (`conversion.py`). Everything
else is refused with what to do. Source: Virtual Hard Disk Image Format Specification 1.0.
"""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from opengallery.imagestore.blocks import MAX_IMAGE_BYTES, BlockSource
from opengallery.imagestore.containers import VHD_KINDS, container_name, inspect
from opengallery.imagestore.conversion import ConvertedSource, find_tool
from opengallery.imagestore.errors import UnusableImage
from opengallery.imagestore.vhd import FIXED, VhdFooter, read_vhd_footer

__all__ = ["VHD_FIXED", "VhdFooter", "open_fixed_vhd", "open_image", "read_vhd_footer"]

SECTOR_BYTES = 512
VHD_COOKIE = b"conectix"
VHD_FIXED = FIXED
VHD_SEARCH_BYTES = 64 << 10

TO_RAW = "Convert it first: qemu-img convert -O raw SOURCE TARGET (or -O vpc -o subformat=fixed,force_size)."
REFUSED: tuple[tuple[int, bytes, str], ...] = (
    (0, b"COWD", "VMDK of an old kind"),
    (0, b"# Disk DescriptorFile", "VMDK that names other files"),
    (0, b"QED\x00", "QED image"),
    (64, b"\x7f\x10\xda\xbe", "VDI image"),
)
COMPRESSED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PK\x03\x04", "zip"),
)
# What a file's name claims, and what its content may be then. Other names claim nothing.
CLAIMS = {
    ".raw": {"raw"},
    ".qcow2": {"qcow2"},
    ".vmdk": {"VMDK"},
    ".vhdx": {"VHDX"},
    ".vhd": {"fixed VHD", "dynamic VHD"},
}


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

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` from byte `offset`, as `read` does, without a copy."""
        done = 0
        while done < len(memory):
            read = os.preadv(self._file, [memory[done:]], offset + done)
            if not read:
                raise UnusableImage("The file became shorter while it was read. Upload it again.")
            done += read


def open_image(path: Path, max_size_bytes: int = MAX_IMAGE_BYTES) -> BlockSource:
    """Open an image file of any format that is read. Raises `UnusableImage`, which says what to do."""
    return _open(path, max_size_bytes, may_convert=True)


def open_fixed_vhd(path: Path, max_size_bytes: int = MAX_IMAGE_BYTES) -> BlockSource:
    """Open a file that has to be a fixed VHD, as page blobs are. Raises `UnusableImage`."""
    return _open(path, max_size_bytes, may_convert=False)


def _open(path: Path, max_size_bytes: int, *, may_convert: bool) -> BlockSource:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnusableImage(f"Cannot open the file: {error.strerror}.") from error
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage("This is not a regular file. Give an image file.")
        file_bytes = status.st_size
        if file_bytes == 0:
            raise UnusableImage("The file is empty. Upload it again.")
        format_name = _detect(file, file_bytes)
        _check_claim(path, format_name)
        if not may_convert and format_name != "fixed VHD":
            raise UnusableImage(f"This is {format_name}, not a fixed VHD.")
        if format_name in ("raw", "fixed VHD"):
            size_bytes = _flat_size(file, file_bytes)
            _check_size(size_bytes, max_size_bytes)
            return FileSource(file, size_bytes)
        container = inspect(file, file_bytes)
        _check_size(container.size_bytes, max_size_bytes)
        find_tool()
        return ConvertedSource(file, container.driver, container.size_bytes, container.name)
    except BaseException:
        os.close(file)
        raise


def _detect(file: int, file_bytes: int) -> str:
    """The name of the format that the content has. Raises `UnusableImage` for those that are not read."""
    head = os.pread(file, SECTOR_BYTES, 0)
    footer = os.pread(file, SECTOR_BYTES, max(0, file_bytes - SECTOR_BYTES))
    for offset, magic, name in REFUSED:
        if head.startswith(magic, offset):
            raise UnusableImage(f"The file is a {name}, which is not read. {TO_RAW}")
    for magic, name in COMPRESSED:
        if head.startswith(magic):
            raise UnusableImage(f"The file is compressed with {name}. Decompress it first.")
    container = container_name(head)
    found = read_vhd_footer(footer)
    is_fixed = found is not None and found.kind == VHD_FIXED
    if container == "dynamic VHD":
        return "fixed VHD" if is_fixed or file_bytes == SECTOR_BYTES else container
    if container is not None and is_fixed:
        raise UnusableImage(
            f"The file begins as {container} and ends as a fixed VHD: it is one of them at most. {TO_RAW}"
        )
    if container is not None:
        return container
    return "fixed VHD" if footer.startswith(VHD_COOKIE) else "raw"


def _check_claim(path: Path, format_name: str) -> None:
    claimed = CLAIMS.get(path.suffix.lower())
    if claimed is None or format_name in claimed:
        return
    if path.suffix.lower() == ".vhd" and format_name == "raw":
        raise UnusableImage(
            "The file is named .vhd but has no VHD footer at its end: it is cut short or something was "
            f"added. Upload it again. {TO_RAW}"
        )
    raise UnusableImage(
        f"The file is named {path.suffix} but its content is {format_name}. Give it the name of what it is."
    )


def _check_size(size_bytes: int, max_size_bytes: int) -> None:
    if size_bytes > max_size_bytes:
        raise UnusableImage(
            f"The image has {size_bytes} bytes, more than the {max_size_bytes} allowed. "
            "Shrink it, or raise the limit (images.max_size_bytes of the server's settings)."
        )


def _flat_size(file: int, file_bytes: int) -> int:
    """How many bytes from the start of a raw file or a fixed VHD are the image. Raises `UnusableImage`."""
    if file_bytes % SECTOR_BYTES:
        raise UnusableImage(
            f"The file has {file_bytes} bytes, which is not a whole number of {SECTOR_BYTES}-byte sectors: "
            "it is probably cut short. Upload it again."
        )
    footer_offset = file_bytes - SECTOR_BYTES
    footer = os.pread(file, SECTOR_BYTES, footer_offset)
    if footer.startswith(VHD_COOKIE):
        return _vhd_size(footer, footer_offset)
    _refuse_buried_footer(file, file_bytes)
    return file_bytes


def _vhd_size(content: bytes, footer_offset: int) -> int:
    footer = read_vhd_footer(content)
    if footer is None:
        raise UnusableImage("The file's VHD footer does not match its checksum. Upload it again.")
    if footer.kind != VHD_FIXED:
        kind = VHD_KINDS.get(footer.kind, "unknown")
        raise UnusableImage(
            f"The file ends as a VHD of {kind} type, and does not begin as one: it is damaged. Make it again."
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
