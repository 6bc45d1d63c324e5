"""A disk image in a file, raw or fixed VHD: its size as a disk, and the pages of it that hold data."""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy

from opengallery.cli.failure import CommandFailed
from opengallery.cli.vhd import FIXED, FOOTER_BYTES, read_footer

MIB = 1024**2
PAGE_BYTES = 512
BLOCK_BYTES = 4096
# What one Put Page request may carry.
PUT_MAX_BYTES = 4 * MIB
# A run of zeros shorter than this is sent: a request of its own for what follows costs more.
GAP_BYTES = 64 * 1024

OTHER_FORMATS = {
    b"QFI\xfb": "qcow2",
    b"vhdxfile": "VHDX",
    b"KDMV": "VMDK",
    b"# Disk DescriptorFile": "VMDK",
    b"conectix": "dynamic VHD",
}


@dataclass(frozen=True)
class Piece:
    """Data at a place of a disk. `data` is a multiple of 512 bytes, `offset` too."""

    offset: int
    data: bytes


class DiskFile:
    """A file that holds a disk. `size_bytes` is the disk's, a whole number of MiB as Azure wants it."""

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises `CommandFailed` when it can't be read, or is of another format."""
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise CommandFailed(f"Can't read {path}: {error.strerror}.") from error
        try:
            self.status = os.fstat(self._descriptor)
            self.path = path
            self.held_bytes = self._held_bytes()
        except BaseException:
            os.close(self._descriptor)
            raise
        self.size_bytes = -(-self.held_bytes // MIB) * MIB

    def __enter__(self) -> "DiskFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    @property
    def fingerprint(self) -> str:
        """Changes when the file does: its size and the time of its last change."""
        return f"{self.status.st_size}-{self.status.st_mtime_ns}"

    def extents(self) -> list[tuple[int, int]]:
        """Offset and length of what may hold data; the rest are holes."""
        extents = []
        start = 0
        while start < self.held_bytes:
            try:
                start = os.lseek(self._descriptor, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            start -= start % BLOCK_BYTES
            end = min(os.lseek(self._descriptor, start, os.SEEK_HOLE), self.held_bytes)
            if end <= start:
                break
            extents.append((start, end - start))
            start = end
        return extents

    def pieces(self, extent: tuple[int, int]) -> Iterator[tuple[int, list[Piece]]]:
        """Read an extent in windows of 4 MiB: how many bytes were read, and what of them is not zero."""
        offset, length = extent
        end = offset + length
        while offset < end:
            data = os.pread(self._descriptor, min(PUT_MAX_BYTES, end - offset), offset)
            if not data:
                raise CommandFailed(f"{self.path} became shorter while it was read.")
            yield len(data), [Piece(offset + at, part) for at, part in nonzero_parts(data)]
            offset += len(data)

    def _held_bytes(self) -> int:
        """How many bytes of the file are the disk's: all of a raw image, all but the footer of a VHD."""
        size_bytes = self.status.st_size
        head = os.pread(self._descriptor, 32, 0)
        for magic, name in OTHER_FORMATS.items():
            if head.startswith(magic):
                raise CommandFailed(
                    f"{self.path} is a {name} image; raw and fixed VHD can be imported. "
                    f"Convert it: qemu-img convert -O raw {self.path} disk.raw"
                )
        if size_bytes == 0:
            raise CommandFailed(f"{self.path} is empty.")
        if size_bytes > FOOTER_BYTES:
            footer = read_footer(os.pread(self._descriptor, FOOTER_BYTES, size_bytes - FOOTER_BYTES))
            if footer and footer.disk_type != FIXED:
                raise CommandFailed(f"{self.path} is a VHD, but not a fixed one. Convert it with qemu-img.")
            if footer and footer.size_bytes > size_bytes - FOOTER_BYTES:
                raise CommandFailed(
                    f"{self.path} is cut off: its footer speaks of {footer.size_bytes} bytes."
                )
            if footer:
                return footer.size_bytes
        return size_bytes


def nonzero_parts(data: bytes) -> list[tuple[int, bytes]]:
    """The parts of a window that hold data, at 4 KiB boundaries, filled up to whole pages of 512 bytes."""
    filled = data + bytes(-len(data) % BLOCK_BYTES)
    blocks = numpy.frombuffer(filled, dtype=numpy.uint64).reshape(-1, BLOCK_BYTES // 8)
    held = numpy.flatnonzero(blocks.any(axis=1))
    if not len(held):
        return []
    breaks = numpy.flatnonzero(numpy.diff(held) > GAP_BYTES // BLOCK_BYTES) + 1
    length = len(data) + -len(data) % PAGE_BYTES
    parts = []
    for run in numpy.split(held, breaks):
        start, end = int(run[0]) * BLOCK_BYTES, min((int(run[-1]) + 1) * BLOCK_BYTES, length)
        parts.append((start, filled[start:end]))
    return parts
