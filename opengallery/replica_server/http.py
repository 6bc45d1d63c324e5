"""The HTTP of a replica server, an ASGI application.

`GET` and `HEAD /images/<store>/<tenant id>/<image id>`, one Range at a time, behind a signed cookie;
`GET /counters` behind a bearer secret. Bytes are sent only after they were checked: a block that
fails answers 503, or ends the connection when the answer has begun, and the machine reads on from
the next replica.
"""

import asyncio
import contextlib
import hmac
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import structlog

from opengallery.replica_server.cookies import is_valid
from opengallery.replica_server.images import Images, UnknownReplica, UnreadableReplica
from opengallery.replica_server.protocol import Counters

CHUNK_BYTES = 1 << 20
READING_THREADS = 8
IMAGE_PATH = re.compile(r"/images/(?P<store>[^/]+)/(?P<tenant>[^/]+)/(?P<image>[0-9a-f]{64})")
RANGE = re.compile(r"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})")

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]

log = structlog.get_logger()


class Refused(Exception):
    """An answer that is not an image."""

    def __init__(self, status: int, message: str, headers: Headers | None = None) -> None:
        """`message` is the body, for people."""
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class ReplicaApplication:
    """Serves `images` to whoever shows a cookie signed with `cookie_key`."""

    def __init__(self, images: Images, cookie_key: bytes, counters_secret: str) -> None:
        """`counters_secret` is the bearer token of `/counters`."""
        self._images = images
        self._cookie_key = cookie_key
        self._bearer = f"Bearer {counters_secret}".encode()
        self._threads = ThreadPoolExecutor(READING_THREADS, "read")
        self._served: Counter[tuple[str, str]] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Refused(405, "Only GET and HEAD.", {b"allow": b"GET, HEAD"})
            headers = _headers(scope)
            if scope["path"] == "/counters":
                await self._send_counters(headers, send)
            else:
                await self._send_image(scope, headers, receive, send)
        except Refused as refused:
            await _answer(send, scope, refused.status, refused.message.encode(), refused.headers)

    async def _send_counters(self, headers: Headers, send: Send) -> None:
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._bearer):
            raise Refused(403, "The counters are for the control plane only.")
        counters = Counters(
            served=[(*replica, count) for replica, count in self._served.items()],
            corrupt=[(*replica, count) for replica, count in list(self._images.corrupt.items())],
        )
        await _answer(send, None, 200, msgspec.json.encode(counters), {b"content-type": b"application/json"})

    async def _send_image(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        found = IMAGE_PATH.fullmatch(scope["path"])
        if found is None:
            raise Refused(404, "No such image.")
        replica = found["store"], found["tenant"], found["image"]
        cookie = headers.get(b"cookie", b"").decode("latin-1")
        if not is_valid(self._cookie_key, cookie, *replica, time.time()):
            raise Refused(403, "The cookie is missing, has expired, or is for another replica.")

        size_bytes = await self._run(partial(self._images.size_bytes, *replica))
        asked = headers.get(b"range")
        first, end = (0, size_bytes) if asked is None else _range(asked, size_bytes)
        head = {
            b"content-length": str(end - first).encode(),
            b"content-type": b"application/octet-stream",
            b"accept-ranges": b"bytes",
            b"etag": f'"{found["image"]}"'.encode(),
            # QEMU loses requests on connections that it uses again: docs/decisions/0006.
            b"connection": b"close",
        }
        if asked is not None:
            head[b"content-range"] = f"bytes {first}-{end - 1}/{size_bytes}".encode()
        start = {
            "type": "http.response.start",
            "status": 200 if asked is None else 206,
            "headers": list(head.items()),
        }
        if scope["method"] == "HEAD" or first == end:
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        await self._stream(replica, first, end, start, receive, send)

    async def _stream(
        self,
        replica: tuple[str, str, str],
        first: int,
        end: int,
        start: dict[str, Any],
        receive: Receive,
        send: Send,
    ) -> None:
        """Send bytes `first` to `end` of a replica; the answer begins when its first chunk was checked."""

        def read(offset: int) -> Awaitable[bytes]:
            return self._run(partial(self._images.read, *replica, offset, min(CHUNK_BYTES, end - offset)))

        chunk = await read(first)
        await send(start)
        is_long = end - first > CHUNK_BYTES
        gone = asyncio.create_task(_disconnected(receive)) if is_long else None
        try:
            offset = first
            while True:
                offset += len(chunk)
                await send({"type": "http.response.body", "body": chunk, "more_body": offset < end})
                self._served[replica[0], replica[2]] += len(chunk)
                if offset == end or (gone is not None and gone.done()):
                    return
                try:
                    chunk = await read(offset)
                except Refused as refused:
                    # The head is out: only a broken connection tells the client that bytes are missing.
                    raise ConnectionAbortedError(refused.message) from refused
        finally:
            if gone is not None:
                gone.cancel()

    async def _run(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except UnknownReplica as error:
            raise Refused(404, str(error)) from error
        except UnreadableReplica as error:
            log.warning("replica can't be read", reason=str(error))
            raise Refused(503, "This replica can't be read here. Read from another one.") from error


async def _disconnected(receive: Receive) -> None:
    """Return when the client went away: sending to it would not say so."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(scope: Scope) -> Headers:
    headers: Headers = {}
    for name, value in scope["headers"]:
        # Cookies may come in several headers (RFC 9113, 8.2.3); of any other the last one counts.
        is_second = name == b"cookie" and name in headers
        headers[name] = headers[name] + b"; " + value if is_second else value
    return headers


def _range(header: bytes, size_bytes: int) -> tuple[int, int]:
    """First byte and end of a Range header. Raises `Refused` for what is not one satisfiable range."""
    found = RANGE.fullmatch(header.decode("latin-1").strip())
    refused = Refused(
        416, "One range, within the image.", {b"content-range": f"bytes */{size_bytes}".encode()}
    )
    if found is None or not (found["first"] or found["last"]):
        raise refused
    if not found["first"]:
        first, end = max(0, size_bytes - int(found["last"])), size_bytes
    else:
        first = int(found["first"])
        end = min(size_bytes, int(found["last"]) + 1) if found["last"] else size_bytes
    if first >= end:
        raise refused
    return first, end


async def _answer(send: Send, scope: Scope | None, status: int, body: bytes, headers: Headers) -> None:
    head = {b"content-type": b"text/plain; charset=utf-8", b"content-length": str(len(body)).encode()}
    with contextlib.suppress(ConnectionError):
        await send(
            {"type": "http.response.start", "status": status, "headers": list((head | headers).items())}
        )
        is_head = scope is not None and scope["method"] == "HEAD"
        await send({"type": "http.response.body", "body": b"" if is_head else body})
