"""Downloads: what answers the read SAS URL of a disk that holds an image.

The disk is a page blob, a fixed VHD: the image's bytes, then a footer. Ranges are read straight from a
store of the disk's region, every block checked, and nothing is laid down on the way. A signature is bound
to one grant and one time, and ends with the key that `endGetAccess` takes away.
Source: Blob service REST API, version 2021-12-02.
"""

import base64
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TypeVar

import structlog
from anyio import to_thread
from dbos import DBOS
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from opengallery.arm.resources import resources
from opengallery.arm.services import Services
from opengallery.identity.directory import as_id
from opengallery.imagestore import CorruptBlock, ImageNotFound, ImageStoreError
from opengallery.imagestore.reader import ImageReader
from opengallery.imagestore.vhd import FOOTER_BYTES, fixed_footer
from opengallery.providers.compute.page_blobs import PAGE_BYTES, BlobError, requested_range
from opengallery.providers.compute.replicas import complete
from opengallery.providers.compute.signed_urls import allows
from opengallery.replication import workflows
from opengallery.replication.progress import Replica

RIGHTS = "r"
PIECE_BYTES = 4 << 20
MD5_LIMIT_BYTES = 4 << 20
READERS = 16
GAP_BYTES = 64 << 10

log = structlog.get_logger()
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Disk:
    """A disk as a page blob: the replicas to read, the nearest first, and the size of its image."""

    replicas: list[Replica]
    image_id: str
    image_bytes: int
    changed: datetime

    @property
    def disk_bytes(self) -> int:
        """Whole pages."""
        return -(-self.image_bytes // PAGE_BYTES) * PAGE_BYTES

    @property
    def size_bytes(self) -> int:
        """The blob's size: the disk, then the footer."""
        return self.disk_bytes + FOOTER_BYTES

    @property
    def footer(self) -> bytes:
        """The same at every read: its id is the image's."""
        return fixed_footer(self.disk_bytes, bytes.fromhex(self.image_id)[:16], self.changed.timestamp())


class DownloadEndpoint:
    """Answers the paths under `/downloads`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._readers: OrderedDict[tuple[str, str, str], ImageReader] = OrderedDict()
        self._lock = threading.Lock()

    def routes(self) -> list[Route]:
        """The routes to mount."""
        return [Route("/downloads/{download_id}/{blob}", self.answer, methods=["GET", "HEAD", "PUT"])]

    async def answer(self, request: Request) -> Response:
        """Answer one request; a refusal becomes the Blob service's XML error."""
        try:
            return await to_thread.run_sync(self._answer, request)
        except BlobError as error:
            return error.answer()

    def _answer(self, request: Request) -> Response:
        disk = self._authorized(request)
        if request.method == "PUT":
            raise BlobError(
                403, "AuthorizationPermissionMismatch", "This URL reads. Ask for --access-level Write."
            )
        headers = _properties(disk)
        if request.method == "HEAD":
            return Response(None, 200, {**headers, "Content-Length": str(disk.size_bytes)})
        if request.query_params.get("comp") == "pagelist":
            return self._page_list(request, disk, headers)
        return self._get(request, disk, headers)

    def _get(self, request: Request, disk: _Disk, headers: dict[str, str]) -> Response:
        first, last, status = 0, disk.size_bytes - 1, 200
        if request.headers.get("x-ms-range") or request.headers.get("range"):
            first, last = requested_range(request, disk.size_bytes)
            last, status = min(last, disk.size_bytes - 1), 206
            if first > last:
                raise BlobError(416, "InvalidRange", f"The blob has {disk.size_bytes} bytes. Mend the range.")
            headers["Content-Range"] = f"bytes {first}-{last}/{disk.size_bytes}"
        length = last - first + 1
        kind = "application/octet-stream"
        wants_md5 = request.headers.get("x-ms-range-get-content-md5", "").lower() == "true"
        if wants_md5 and length > MD5_LIMIT_BYTES:
            raise BlobError(400, "OutOfRangeQueryParameterValue", "An MD5 is given for 4 MiB at most.")
        if length > PIECE_BYTES:
            return StreamingResponse(
                self._pieces(disk, first, last + 1), status, {**headers, "Content-Length": str(length)}, kind
            )
        content = self._read(disk, first, length)
        if wants_md5:
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            headers["Content-MD5"] = base64.b64encode(digest).decode()
        return Response(content, status, headers, kind)

    def _pieces(self, disk: _Disk, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            length = min(PIECE_BYTES, end - start)
            yield self._read(disk, start, length)
            start += length

    def _read(self, disk: _Disk, offset: int, length: int) -> bytes:
        """Bytes of the blob, from the first replica that has them good."""
        end, pieces = offset + length, []
        if offset < disk.image_bytes:
            pieces.append(self._read_image(disk, offset, min(end, disk.image_bytes) - offset))
        padding = max(0, min(end, disk.disk_bytes) - max(offset, disk.image_bytes))
        pieces.append(bytes(padding))
        if end > disk.disk_bytes:
            pieces.append(disk.footer[max(0, offset - disk.disk_bytes) : end - disk.disk_bytes])
        return b"".join(pieces)

    def _read_image(self, disk: _Disk, offset: int, length: int) -> bytes:
        return self._ask(disk, lambda reader: reader.read(offset, length))

    def _extents(self, disk: _Disk) -> list[tuple[int, int]]:
        return self._ask(disk, lambda reader: list(reader.extents()))

    def _ask(self, disk: _Disk, question: Callable[[ImageReader], Answer]) -> Answer:
        """Ask the replicas, one after the other, until one can answer; have those repaired that are bad."""
        for replica in disk.replicas:
            try:
                return question(self._reader(replica))
            except (CorruptBlock, ImageNotFound) as error:
                log.warning("a download met a bad replica", store=replica.store, reason=str(error))
                DBOS.start_workflow(workflows.repair, replica.store, replica.tenant_id, replica.image_id)
            except ImageStoreError as error:
                log.warning("a download can't reach a store", store=replica.store, reason=str(error))
        raise BlobError(503, "ServerBusy", "No replica gives these bytes now. Try again soon.")

    def _reader(self, replica: Replica) -> ImageReader:
        """The reader of a replica's image; those read last are kept, with the layout they know."""
        key = (replica.store, replica.tenant_id, replica.image_id)
        with self._lock:
            if key in self._readers:
                self._readers.move_to_end(key)
                return self._readers[key]
        reader = self._services.stores.open(replica.store, replica.tenant_id).open(replica.image_id)
        with self._lock:
            self._readers[key] = reader
            while len(self._readers) > READERS:
                self._readers.popitem(last=False)
        return reader

    def _page_list(self, request: Request, disk: _Disk, headers: dict[str, str]) -> Response:
        first, last = 0, disk.size_bytes - 1
        if request.headers.get("x-ms-range") or request.headers.get("range"):
            first, last = requested_range(request, disk.size_bytes)
        ranges = "".join(
            f"<PageRange><Start>{max(start, first)}</Start><End>{min(end, last + 1) - 1}</End></PageRange>"
            for start, end in self._data(disk)
            if start <= last and end > first
        )
        content = f'<?xml version="1.0" encoding="utf-8"?><PageList>{ranges}</PageList>'
        return Response(content, 200, headers, "application/xml")

    def _data(self, disk: _Disk) -> Iterator[tuple[int, int]]:
        """Start and end of what may hold data, small gaps counted in; whole pages, the footer last."""
        start = end = 0
        for offset, length in [*self._extents(disk), (disk.disk_bytes, FOOTER_BYTES)]:
            stop = -(-(offset + length) // PAGE_BYTES) * PAGE_BYTES
            if end and offset - end > GAP_BYTES:
                yield start, end
                start = offset
            elif not end:
                start = offset
            end = stop
        yield start, end

    def _authorized(self, request: Request) -> _Disk:
        """The disk, if the signature allows it. Raises 403 for every other case alike."""
        download_id = request.path_params["download_id"]
        columns = resources.c
        wanted = select(columns.key, columns.location, columns.private).where(
            columns.type.in_(("microsoft.compute/disks", "microsoft.compute/snapshots")),
            columns.private["downloadId"].as_string() == as_id(download_id),
        )
        with self._services.database.read() as connection:
            row = connection.execute(wanted).first()
            key = row.private.get("downloadKey") if row else None
            if row is None or not allows(request, download_id, key, RIGHTS):
                raise BlobError(
                    403,
                    "AuthenticationFailed",
                    "The signature is wrong, expired or revoked. Get a new URL by 'az disk grant-access'.",
                )
            found = complete(connection, row.key, row.location)
        if not found:
            raise BlobError(404, "BlobNotFound", "The disk holds no image any more.")
        granted = datetime.fromisoformat(row.private["downloadGranted"])
        return _Disk(found, found[0].image_id, found[0].total_bytes, granted)


def _properties(disk: _Disk) -> dict[str, str]:
    return {
        "ETag": f'"0x{disk.image_id[:16].upper()}"',
        "Last-Modified": format_datetime(disk.changed.astimezone(UTC), usegmt=True),
        "x-ms-version": "2021-12-02",
        "x-ms-blob-type": "PageBlob",
        "x-ms-blob-content-length": str(disk.size_bytes),
        "x-ms-blob-sequence-number": "0",
        "Accept-Ranges": "bytes",
    }
