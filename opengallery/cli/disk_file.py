"""A disk image in a file, as an upload needs it: its size as a disk, and the pages that hold data."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy

from opengallery.cli.failure import CommandFailed
from opengallery.imagestore.errors import UnusableImage
from opengallery.imagestore.formats import open_image

MIB = 1024**2
PAGE_BYTES = 512
BLOCK_BYTES = 4096
# Azure takes no smaller uploads.
DISK_MIN_BYTES = 20 * MIB
# What one Put Page request may carry.
PUT_MAX_BYTES = 4 * MIB
# A run of zeros shorter than this is sent: a request of its own for what follows costs more.
GAP_BYTES = 64 * 1024
# What the store tells one who uploaded a file: nothing was uploaded here yet.
UPLOAD_AGAIN = " Upload it again."


@dataclass(frozen=True)
class Piece:
    """Data at a place of a disk. `offset` and the length of `data` are multiples of 512 bytes."""

    offset: int
    data: bytes


class DiskFile:
    """A file that holds a disk. `size_bytes` is the disk's: whole MiB, and 20 at least, as Azure wants it."""

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises `CommandFailed` when it can't be read or used; the message says why."""
        try:
            self._source = open_image(path)
            status = path.stat()
        except UnusableImage as error:
            raise CommandFailed(_no_image(path, str(error))) from error
        except OSError as error:
            raise CommandFailed(f"Can't read {path}: {error.strerror}.") from error
        self.path = path
        self.size_bytes = max(-(-self._source.size_bytes // MIB) * MIB, DISK_MIN_BYTES)
        # Changes when the file does.
        self.fingerprint = _fingerprint(status)

    def __enter__(self) -> "DiskFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    def check_sha256(self, wanted: str) -> None:
        """Raise `CommandFailed` unless the file, as it lies there, has this SHA-256 (hexadecimal)."""
        digest = hashlib.sha256()
        try:
            with self.path.open("rb") as file:
                while piece := file.read(PUT_MAX_BYTES):
                    digest.update(piece)
        except OSError as error:
            raise CommandFailed(f"Can't read {self.path}: {error.strerror}.") from error
        if digest.hexdigest() != wanted.lower():
            raise CommandFailed(
                f"The SHA-256 of {self.path} is {digest.hexdigest()}, not {wanted.lower()}. Download it again; "
                "nothing was uploaded."
            )

    def check_unchanged(self) -> None:
        """Raise `CommandFailed` when the file is not any more what it was when it was opened."""
        try:
            is_same = self.fingerprint == _fingerprint(self.path.stat())
        except OSError:
            is_same = False
        if not is_same:
            raise CommandFailed(f"{self.path} was changed while it was read. Import it again.")

    def extents(self) -> list[tuple[int, int]]:
        """Offset and length of what may hold data, offsets at multiples of 4 KiB; the rest are holes."""
        extents = []
        try:
            for start, length in self._source.extents():
                begin = start - start % BLOCK_BYTES
                extents.append((begin, start + length - begin))
        except UnusableImage as error:
            raise CommandFailed(f"{self.path}: {error}") from error
        return extents

    def pieces(self, extent: tuple[int, int]) -> Iterator[tuple[int, list[Piece]]]:
        """Read an extent in windows of 4 MiB: how many bytes were read, and what of them is not zero."""
        offset, length = extent
        end = offset + length
        while offset < end:
            try:
                data = self._source.read(offset, min(PUT_MAX_BYTES, end - offset))
            except UnusableImage as error:
                reason = str(error).replace(UPLOAD_AGAIN, "")
                raise CommandFailed(f"{self.path}: {reason}") from error
            except OSError as error:
                raise CommandFailed(f"Can't read {self.path}: {error.strerror}.") from error
            yield len(data), [Piece(offset + at, part) for at, part in nonzero_parts(data)]
            offset += len(data)


def _no_image(path: Path, reason: str) -> str:
    """Why a file here is of no use: the store's reason, without its advice to upload the file again."""
    if UPLOAD_AGAIN not in reason:
        return f"{path}: {reason}"
    return (
        f"{path} is no disk image (raw images are whole sectors of 512 bytes, other images "
        f"VHD, VHDX, qcow2 or VMDK): {reason.replace(UPLOAD_AGAIN, '')}"
    )


def _fingerprint(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


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
