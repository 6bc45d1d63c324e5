"""`gallery image import FILE`: a managed image from a file on this machine.

A disk of the image's name takes the file's pages in, becomes the image's source and is deleted. When
the import breaks off, the disk stays, and the same command goes on where it stopped: the disk's tag
tells which file its pages are of.
"""

import threading
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.disk_file import DiskFile, Piece
from opengallery.cli.failure import CommandFailed
from opengallery.cli.page_blob import PageBlob, holds
from opengallery.cli.progress import Board, Row, format_bytes, format_left, note
from opengallery.imagestore.vhd import FOOTER_BYTES, fixed_footer

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

TAG = "opengallery-import"
URL_GOOD_FOR_S = 24 * 3600
WRITERS = 4
# Rates are of the last few seconds, so that they follow the network.
RATE_OVER_S = 5.0


def import_image(
    arm: "ArmClient",
    path: Path,
    image: ResourceId,
    disk: ResourceId,
    location: str,
    body: dict[str, Any],
    sha256: str | None = None,
) -> Any:
    """Upload `path` to `disk`, make `image` of it (`body` is the image's, without source), delete `disk`.

    With `sha256`, nothing is sent unless that is the file's. Raises `CommandFailed` that says how to go on.
    """
    with DiskFile(path) as file:
        name = file.path.name
        if sha256 is not None:
            with arm.waiting.on(f"{name}: comparing its SHA-256", insistent=True):
                file.check_sha256(sha256)
        with arm.waiting.on(f"{name}: starting", insistent=True):
            found = arm.find(disk)
        tag = (found.get("tags") or {}).get(TAG) if found else None
        if found and tag is None:
            raise CommandFailed(
                f"There is a disk '{disk.name}' already, and the import needs one of this name for a while. "
                "Choose another image name, or delete the disk."
            )
        if found and tag != file.fingerprint:
            note(f"{path} is not the file of the import that broke off: beginning anew.", quiet=arm.quiet)
            with arm.waiting.on(f"{name}: waiting for the old disk to be deleted", insistent=True):
                arm.delete(disk)
            found = None
        if arm.find(image) is not None:
            if found is None:
                raise CommandFailed(
                    f"There is an image '{image.name}' already. Delete it, or choose another name."
                )
            arm.delete(disk)
            return arm.get(image)
        try:
            blob = None
            with arm.waiting.on(f"{name}: waiting for the disk", insistent=True):
                if found is None:
                    _create_disk(arm, disk, location, body, file)
            if found is None or not _is_uploaded(found):
                blob = _upload(arm, disk, file, resumes=found is not None)
            with arm.waiting.on(f"{name}: taking in", insistent=True):
                if blob is not None:
                    _take_in(arm, disk, blob, file)
                body["properties"]["storageProfile"]["osDisk"]["managedDisk"] = {"id": str(disk)}
                result = arm.put(image, body)
        except (CommandFailed, KeyboardInterrupt) as error:
            _say_how_to_go_on(arm, disk, error)
            raise
        arm.delete(disk)
        return result


def _create_disk(
    arm: "ArmClient", disk: ResourceId, location: str, image: dict[str, Any], file: DiskFile
) -> None:
    properties = image["properties"]
    arm.put(
        disk,
        {
            "location": location,
            "tags": {TAG: file.fingerprint},
            "sku": {
                "name": properties["storageProfile"]["osDisk"].get("storageAccountType") or "Standard_LRS"
            },
            "properties": {
                "osType": properties["storageProfile"]["osDisk"]["osType"],
                "hyperVGeneration": properties["hyperVGeneration"],
                "creationData": {
                    "createOption": "Upload",
                    "uploadSizeBytes": file.size_bytes + FOOTER_BYTES,
                },
            },
        },
    )


def _is_uploaded(disk: dict[str, Any]) -> bool:
    state = (disk.get("properties") or {}).get("diskState")
    return state not in (None, "ReadyToUpload", "ActiveUpload")


def _say_how_to_go_on(arm: "ArmClient", disk: ResourceId, error: BaseException) -> None:
    """Tell what is left; a disk that no further attempt can use is deleted."""
    try:
        found = arm.find(disk)
        if found and isinstance(error, _Unusable):
            arm.delete(disk)
            found = None
    except CommandFailed:
        found = {}
    if found is not None:
        note(
            "The import broke off. The same command goes on where it stopped; "
            f"`gallery disk delete --yes --ids {disk}` gives it up."
        )


class _Unusable(CommandFailed):
    """The server read the uploaded disk and can't use it: uploading the rest would not help."""


def _upload(arm: "ArmClient", disk: ResourceId, file: DiskFile, *, resumes: bool) -> PageBlob:
    with arm.waiting.on(f"{file.path.name}: waiting for the disk", insistent=True):
        asked = {"access": "Write", "durationInSeconds": URL_GOOD_FOR_S}
        access = arm.act(disk, "beginGetAccess", asked) or {}
        url = access.get("accessSAS") or access.get("accessSas")
        if not url:
            raise CommandFailed("The server gave no upload URL.")
        blob = PageBlob(arm, url)
        there = blob.ranges() if resumes else []
    if there:
        note(
            f"Going on: {format_bytes(sum(end - start for start, end in there))} are there.", quiet=arm.quiet
        )
    with Board(quiet=arm.quiet) as board:
        _send(blob, file, there, _Meter(file, board))
    file.check_unchanged()
    return blob


def _take_in(arm: "ArmClient", disk: ResourceId, blob: PageBlob, file: DiskFile) -> None:
    """End the upload: the server reads what came."""
    blob.put(file.size_bytes, fixed_footer(file.size_bytes))
    try:
        arm.act(disk, "endGetAccess")
    except CommandFailed as failure:
        # 400 is said of what was uploaded; without a status, the operation that reads it failed.
        if failure.status in (None, 400) and failure.code:
            raise _Unusable(
                failure.message, code=failure.code, target=failure.target, details=failure.details
            ) from failure
        raise


def _send(blob: PageBlob, file: DiskFile, there: list[tuple[int, int]], meter: "_Meter") -> None:
    """Write every piece that is not zero and not there already, a few at a time."""
    with ThreadPoolExecutor(WRITERS) as pool:
        writing: set[Future[None]] = set()
        try:
            for extent in file.extents():
                for read_bytes, pieces in file.pieces(extent):
                    meter.read(read_bytes)
                    for piece in pieces:
                        while len(writing) >= WRITERS * 2:
                            done, writing = wait(writing, return_when=FIRST_COMPLETED)
                            for write in done:
                                write.result()
                        is_there = holds(there, piece.offset, len(piece.data))
                        writing.add(pool.submit(_write, blob, piece, is_there, meter))
            for write in writing:
                write.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    meter.show()


def _write(blob: PageBlob, piece: Piece, is_there: bool, meter: "_Meter") -> None:
    # A file system may count more as written than was, so what is said to be there is compared.
    if is_there and blob.has(piece.offset, piece.data):
        return
    blob.put(piece.offset, piece.data)
    meter.sent(len(piece.data))


class _Meter:
    """Counts what was read and sent, and shows it."""

    def __init__(self, file: DiskFile, board: Board) -> None:
        self._label = file.path.name
        self._all_bytes = max(sum(length for _, length in file.extents()), 1)
        self._board = board
        self._read_bytes = 0
        self._sent_bytes = 0
        self._lock = threading.Lock()
        self._marks: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)])

    def read(self, count: int) -> None:
        """So many more bytes of the file were looked at."""
        self._read_bytes += count
        self.show()

    def sent(self, count: int) -> None:
        """So many more bytes were written to the server."""
        with self._lock:
            self._sent_bytes += count

    def show(self) -> None:
        """Show bytes, rate and time left. Only the thread that reads calls it."""
        now = time.monotonic()
        self._marks.append((now, self._read_bytes, self._sent_bytes))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_OVER_S:
            self._marks.popleft()
        then, read_then, sent_then = self._marks[0]
        elapsed_s = max(now - then, 1e-3)
        sent_rate = (self._sent_bytes - sent_then) / elapsed_s
        read_rate = (self._read_bytes - read_then) / elapsed_s
        left_bytes = self._all_bytes - self._read_bytes
        left = format_left(left_bytes / read_rate) if read_rate else ""
        text = f"{format_bytes(self._sent_bytes)} sent, {format_bytes(sent_rate)}/s"
        fraction = min(self._read_bytes / self._all_bytes, 1.0)
        self._board.show([Row(self._label, fraction, f"{text}, {left}" if left else text)])
