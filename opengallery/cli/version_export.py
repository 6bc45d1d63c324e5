"""`gallery sig image-version export`: a version as a file on this machine, raw, VHD or qcow2.

A disk made from the version (no byte is copied for it) gives a download URL; only what is no hole is
fetched, a few pieces at a time, and the disk is deleted again. The file appears under its name when it was
brought to the disk and read back as it came.
"""

import contextlib
import os
import secrets
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from blake3 import blake3

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.disk_file import nonzero_parts
from opengallery.cli.failure import CommandFailed
from opengallery.cli.page_blob import PageBlob
from opengallery.cli.progress import Board, Row, format_bytes
from opengallery.imagestore.qcow2 import CLUSTER_BYTES, Qcow2Writer
from opengallery.imagestore.vhd import FOOTER_BYTES

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

Format = Literal["raw", "vhd", "qcow2"]
URL_GOOD_FOR_S = 24 * 3600
READERS = 4
PIECE_BYTES = 4 << 20


class Target(Protocol):
    """A file that is being written."""

    def write(self, offset: int, content: bytes) -> None:
        """Write a piece of the disk."""

    def read(self, offset: int, length: int) -> bytes:
        """Read it back from the file."""

    def finish(self) -> None:
        """Bring everything to the disk."""


class SparseFile:
    """A raw or VHD file: what is zero becomes a hole."""

    def __init__(self, file: int, size_bytes: int) -> None:
        self._file = file
        os.ftruncate(file, size_bytes)

    def write(self, offset: int, content: bytes) -> None:
        """Write the parts that are not zero."""
        for start, part in nonzero_parts(content):
            left = memoryview(part)[: len(content) - start]
            while left:
                count = os.pwrite(self._file, left, offset + start)
                left, start = left[count:], start + count

    def read(self, offset: int, length: int) -> bytes:
        """Read from the file."""
        return os.pread(self._file, length, offset)

    def finish(self) -> None:
        """Bring everything to the disk."""
        os.fsync(self._file)


def export_version(
    arm: "ArmClient", version: ResourceId, disk: ResourceId, path: Path, file_format: Format
) -> dict[str, Any]:
    """Write `version` to `path` by way of `disk`, which is made and deleted. Raises `CommandFailed`."""
    try:
        path.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CommandFailed(f"Can't write {path}: {error.strerror}. Choose another name.") from error
    else:
        raise CommandFailed(f"There is a file {path} already. Delete it, or choose another name.")
    found = arm.get(version)
    region = _region(found)
    source = {"createOption": "FromImage", "galleryImageReference": {"id": str(version)}}
    arm.put(disk, {"location": region, "properties": {"creationData": source}})
    try:
        access = (
            arm.act(disk, "beginGetAccess", {"access": "Read", "durationInSeconds": URL_GOOD_FOR_S}) or {}
        )
        url = access.get("accessSAS") or access.get("accessSas")
        if not url:
            raise CommandFailed("The server gave no download URL.")
        return _download(arm, PageBlob(arm, url), path, file_format)
    finally:
        with contextlib.suppress(CommandFailed):
            arm.delete(disk)


def disk_name() -> str:
    """A name that no other disk has."""
    return f"export-{secrets.token_hex(6)}"


def _region(version: dict[str, Any]) -> str:
    """Where the version has a replica: its own region if it can be."""
    profile = (version.get("properties") or {}).get("publishingProfile") or {}
    names = ["".join(str(each["name"]).split()).lower() for each in profile.get("targetRegions") or ()]
    location = str(version.get("location"))
    return location if location in names or not names else names[0]


def _download(arm: "ArmClient", blob: PageBlob, path: Path, file_format: Format) -> dict[str, Any]:
    disk_bytes = blob.size_bytes() - FOOTER_BYTES
    size_bytes = disk_bytes + FOOTER_BYTES if file_format == "vhd" else disk_bytes
    pieces = _pieces(blob.ranges(), size_bytes)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        file = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise CommandFailed(f"Can't write {draft}: {error.strerror}.") from error
    try:
        target: Target = (
            Qcow2Writer(file, size_bytes) if file_format == "qcow2" else SparseFile(file, size_bytes)
        )
        with Board(quiet=arm.quiet) as board:
            digests = _fetch(blob, target, pieces, board, path.name)
            target.finish()
            _verify(file, target, pieces, digests, board, path.name)
        os.link(draft, path)
        _sync_folder(path.parent)
        return {
            "file": str(path),
            "format": file_format,
            "diskBytes": disk_bytes,
            "dataBytes": sum(length for _, length in pieces),
            "fileBytes": os.fstat(file).st_size,
        }
    except FileExistsError as error:
        raise CommandFailed(f"There is a file {path} by now. Choose another name.") from error
    except OSError as error:
        raise CommandFailed(f"Can't write {path}: {error.strerror}.") from error
    finally:
        os.close(file)
        draft.unlink(missing_ok=True)


def _pieces(ranges: list[tuple[int, int]], size_bytes: int) -> list[tuple[int, int]]:
    """Offset and length of what to fetch: pieces of 4 MiB, cut at their multiples and at clusters."""
    found: dict[int, int] = {}
    for start, end in ranges:
        start -= start % CLUSTER_BYTES
        end = min(-(-end // CLUSTER_BYTES) * CLUSTER_BYTES, size_bytes)
        while start < end:
            stop = min(end, (start // PIECE_BYTES + 1) * PIECE_BYTES)
            found[start] = max(found.get(start, 0), stop - start)
            start = stop
    # Ranges that share a cluster would fetch it twice.
    pieces: list[tuple[int, int]] = []
    for start, length in sorted(found.items()):
        end = start + length
        if pieces and start < pieces[-1][0] + pieces[-1][1]:
            start = pieces[-1][0] + pieces[-1][1]
        if start < end:
            pieces.append((start, end - start))
    return pieces


def _fetch(
    blob: PageBlob, target: Target, pieces: list[tuple[int, int]], board: Board, label: str
) -> dict[int, bytes]:
    """Fetch and write every piece, a few at a time; their digests, by offset."""
    digests: dict[int, bytes] = {}
    lock = threading.Lock()
    all_bytes, done_bytes = max(sum(length for _, length in pieces), 1), 0

    def bring(offset: int, length: int) -> int:
        content = blob.get(offset, length)
        target.write(offset, content)
        with lock:
            digests[offset] = blake3(content).digest()
        return length

    with ThreadPoolExecutor(READERS) as pool:
        running: set[Future[int]] = set()
        try:
            for offset, length in pieces:
                while len(running) >= READERS * 2:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    done_bytes += sum(each.result() for each in done)
                    board.show([Row(label, done_bytes / all_bytes, f"{format_bytes(done_bytes)} received")])
                running.add(pool.submit(bring, offset, length))
            for each in running:
                done_bytes += each.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    board.show([Row(label, 1.0, f"{format_bytes(done_bytes)} received")])
    return digests


def _verify(
    file: int,
    target: Target,
    pieces: list[tuple[int, int]],
    digests: dict[int, bytes],
    board: Board,
    label: str,
) -> None:
    """Read the file back, from the disk rather than from memory. Raises `CommandFailed`."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    all_bytes, done_bytes = max(sum(length for _, length in pieces), 1), 0
    for offset, length in pieces:
        if blake3(target.read(offset, length)).digest() != digests[offset]:
            raise CommandFailed(
                f"What was written from byte {offset} reads back differently: check the disk."
            )
        done_bytes += length
        board.show([Row(f"{label} (verify)", done_bytes / all_bytes, f"{format_bytes(done_bytes)} verified")])


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
