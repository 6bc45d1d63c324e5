"""Page blobs: what answers the SAS URL of a disk that waits for its bytes.

The part of the Blob service that azure-storage-blob's `PageBlobClient` uses: Put Page (update and clear),
Get Blob by range, Get Blob Properties, Get Page Ranges. The URL is signed (signed_urls.py), and ends with the
key that `endGetAccess` takes away. What is answered is on disk (fdatasync).
Source: Blob service REST API, version 2021-12-02.
"""

import ctypes
import errno
import fcntl
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from anyio import to_thread
from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opengallery.arm.resources import resources
from opengallery.arm.services import Services
from opengallery.identity.directory import as_id
from opengallery.providers.compute.signed_urls import allows

RIGHTS = "rw"
PAGE_BYTES = 512
PUT_LIMIT_BYTES = 4 * 1024 * 1024
_READ_LIMIT_BYTES = 32 * 1024 * 1024
_PUNCH_HOLE_KEEP_SIZE = 3
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class BlobError(Exception):
    """A refused request, in the Blob service's form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def answer(self) -> Response:
        """The XML that tells it."""
        content = (
            f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{self.code}</Code><Message>{self.message}'
        )
        headers = {"x-ms-error-code": self.code}
        return Response(f"{content}</Message></Error>", self.status, headers, "application/xml")


def settled(path: Path) -> None:
    """Return when no write is under way any more: call it after the key was taken away."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)


class PageBlobEndpoint:
    """Answers the paths under `/uploads`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The routes to mount."""
        return [Route("/uploads/{upload_id}/{blob}", self.answer, methods=["GET", "HEAD", "PUT"])]

    async def answer(self, request: Request) -> Response:
        """Answer one request; a refusal becomes the Blob service's XML error."""
        try:
            # First: only who may write has the server hold his bytes.
            await to_thread.run_sync(self._authorized, request)
            body = await _read_body(request)
            return await to_thread.run_sync(self._answer, request, body)
        except BlobError as error:
            return error.answer()

    def _answer(self, request: Request, body: bytes) -> Response:
        path = self._authorized(request)
        operation = request.query_params.get("comp")
        headers = {"x-ms-version": "2021-12-02"}
        try:
            with path.open("r+b") as file:
                # Who ends the upload waits for this lock after it has revoked the URL (`settled`).
                fcntl.flock(file, fcntl.LOCK_SH)
                self._authorized(request)
                if request.method == "PUT":
                    return _put_page(request, file.fileno(), body, headers)
                headers |= _properties(file.fileno())
                if request.method == "HEAD":
                    return Response(
                        None, 200, {**headers, "Content-Length": headers["x-ms-blob-content-length"]}
                    )
                if operation == "pagelist":
                    return _page_list(request, file.fileno(), headers)
                return _get(request, file.fileno(), headers)
        except FileNotFoundError as error:
            raise BlobError(404, "BlobNotFound", "The upload is no more. Create the disk again.") from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise BlobError(
                507, "InsufficientStorage", "The server's disk is full. Free some space."
            ) from error

    def _authorized(self, request: Request) -> Path:
        """The upload's file, if the signature allows it. Raises 403 for every other case alike."""
        upload_id = request.path_params["upload_id"]
        right = "w" if request.method == "PUT" else "r"
        if not allows(request, upload_id, self._key(upload_id), right):
            raise BlobError(
                403,
                "AuthenticationFailed",
                "The signature is wrong, expired or revoked. Get a new URL by 'az disk grant-access'.",
            )
        return self._services.settings.data / "uploads" / f"{upload_id}.vhd"

    def _key(self, upload_id: str) -> str | None:
        query = select(resources.c.private).where(
            resources.c.type == "microsoft.compute/disks",
            resources.c.private["uploadId"].as_string() == as_id(upload_id),
        )
        with self._services.database.read() as connection:
            private = connection.execute(query).scalar()
        return private.get("uploadKey") if private else None


def _put_page(request: Request, descriptor: int, body: bytes, headers: dict[str, str]) -> Response:
    if request.query_params.get("comp") != "page":
        raise BlobError(
            409, "BlobAlreadyExists", "The blob is there already. Write pages into it (comp=page)."
        )
    size = os.fstat(descriptor).st_size
    first, last = requested_range(request, size)
    if first % PAGE_BYTES or (last + 1) % PAGE_BYTES or not first <= last < size:
        raise BlobError(
            416, "InvalidPageRange", f"Pages are {PAGE_BYTES} bytes, and the blob has {size}. Mend the range."
        )
    length = last - first + 1
    action = request.headers.get("x-ms-page-write", "").lower()
    if action == "update":
        if len(body) != length:
            raise BlobError(400, "InvalidHeaderValue", f"The body has {len(body)} bytes, the range {length}.")
        _write(descriptor, body, first)
    elif action == "clear":
        _clear(descriptor, first, length)
    else:
        raise BlobError(400, "InvalidHeaderValue", "x-ms-page-write has to be update or clear.")
    os.fdatasync(descriptor)
    headers |= _properties(descriptor)
    headers["x-ms-request-server-encrypted"] = "false"
    return Response(None, 201, headers)


def _write(descriptor: int, body: bytes, offset: int) -> None:
    left = memoryview(body)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written


def _clear(descriptor: int, first: int, length: int) -> None:
    """Punch a hole; where the file system can't, write zeros, a bounded piece at a time."""
    if _libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, first, length) == 0:
        return
    while length > 0:
        zeros = bytes(min(length, PUT_LIMIT_BYTES))
        _write(descriptor, zeros, first)
        first, length = first + len(zeros), length - len(zeros)


def _get(request: Request, descriptor: int, headers: dict[str, str]) -> Response:
    size = os.fstat(descriptor).st_size
    wanted = request.headers.get("x-ms-range") or request.headers.get("range")
    first, last = requested_range(request, size) if wanted else (0, size - 1)
    last = min(last, size - 1)
    if first > last:
        raise BlobError(416, "InvalidRange", f"The blob has {size} bytes. Mend the range.")
    if last - first + 1 > _READ_LIMIT_BYTES:
        raise BlobError(
            416, "InvalidRange", f"Read at most {_READ_LIMIT_BYTES} bytes at a time: give a range."
        )
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    content = os.pread(descriptor, last - first + 1, first)
    return Response(content, 206 if wanted else 200, headers, "application/octet-stream")


def _page_list(request: Request, descriptor: int, headers: dict[str, str]) -> Response:
    size = os.fstat(descriptor).st_size
    first, last = (0, size - 1)
    if request.headers.get("x-ms-range") or request.headers.get("range"):
        first, last = requested_range(request, size)
    ranges = "".join(
        f"<PageRange><Start>{start}</Start><End>{end - 1}</End></PageRange>"
        for start, end in _data_ranges(descriptor, first, min(last + 1, size))
    )
    content = f'<?xml version="1.0" encoding="utf-8"?><PageList>{ranges}</PageList>'
    return Response(content, 200, headers, "application/xml")


def _data_ranges(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        try:
            data = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:
            return
        if data >= end:
            return
        start = min(os.lseek(descriptor, data, os.SEEK_HOLE), end)
        yield data, start


def requested_range(request: Request, size: int) -> tuple[int, int]:
    """First and last byte of the request's range. Raises 416 when it can't be read."""
    text = request.headers.get("x-ms-range") or request.headers.get("range") or ""
    found = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{1,18})?", text)
    if found is None:
        raise BlobError(416, "InvalidRange", "Give a range in the form bytes=FIRST-LAST.")
    first, last = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and last < first:
        raise BlobError(416, "InvalidRange", "The range ends before it begins.")
    return first, last


def _properties(descriptor: int) -> dict[str, str]:
    state = os.fstat(descriptor)
    changed = datetime.fromtimestamp(state.st_mtime, UTC)
    return {
        "ETag": f'"0x{state.st_mtime_ns:X}"',
        "Last-Modified": format_datetime(changed, usegmt=True),
        "x-ms-blob-type": "PageBlob",
        "x-ms-blob-content-length": str(state.st_size),
        "x-ms-blob-sequence-number": "0",
        "Accept-Ranges": "bytes",
    }


async def _read_body(request: Request) -> bytes:
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > PUT_LIMIT_BYTES:
            raise BlobError(413, "RequestBodyTooLarge", f"Put at most {PUT_LIMIT_BYTES} bytes at a time.")
    return bytes(content)
