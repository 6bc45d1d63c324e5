"""The HTTP of a replica server: what it answers to which request.

`GET` and `HEAD /images/<store>/<tenant id>/<image id>`, one Range at a time, behind a signed cookie;
`GET /counters` behind a bearer secret. Bytes are sent only after they were checked: a block that
fails answers 503, or ends the connection when the answer has begun, and the machine reads on from
the next replica. What was checked once is sent from memory as long as it stays there.
"""

import hmac
import re
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import formatdate
from functools import lru_cache
from http.client import responses
from typing import Any

import msgspec
import structlog

from opengallery.replica_server.checked_bytes import PIECE_BYTES, CheckedBytes, CheckedImage
from opengallery.replica_server.connections import AnswerBroken, Part, Steps, Words
from opengallery.replica_server.cookies import is_valid
from opengallery.replica_server.images import Images, UnknownReplica, UnreadableReplica
from opengallery.replica_server.protocol import Counters
from opengallery.replica_server.requests import BadRequest, Request

CHUNK_BYTES = 1 << 20
READING_THREADS = 8
SIZES = 1024
IMAGE_PATH = re.compile(r"/images/(?P<store>[^/]+)/(?P<tenant>[^/]+)/(?P<image>[0-9a-f]{64})")
RANGE = re.compile(rb"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})")

Replica = tuple[str, str, str]
Headers = dict[str, str]

log = structlog.get_logger()


class Refused(Exception):
    """An answer that is not an image."""

    def __init__(self, status: int, message: str, headers: Headers | None = None) -> None:
        """`message` is the body, for people."""
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers or {}


class ReplicaApplication:
    """Serves `images` to whoever shows a cookie signed with `cookie_key`."""

    def __init__(
        self, images: Images, checked: CheckedBytes, cookie_key: bytes, counters_secret: str
    ) -> None:
        """`checked` keeps what was read; `counters_secret` is the bearer token of `/counters`."""
        self._images = images
        self._checked = checked
        self._cookie_key = cookie_key
        self._bearer = f"Bearer {counters_secret}".encode()
        self._threads = ThreadPoolExecutor(READING_THREADS, "read")
        self._under_way: dict[tuple[Replica, int], Future[bytes]] = {}
        self._sizes: dict[Replica, int] = {}
        self._served: Counter[tuple[str, str]] = Counter()

    def answer(self, request: Request) -> Steps:
        """Answer one request."""
        try:
            if request.method not in ("GET", "HEAD"):
                raise Refused(405, "Only GET and HEAD.", {"allow": "GET, HEAD"})
            if request.path == "/counters":
                yield self._counters(request)
            else:
                yield from self._image(request)
        except Refused as refused:
            yield _words(request, refused.status, refused.message.encode(), refused.headers)

    def refuse(self, bad: BadRequest) -> Steps:
        """Answer what is no request."""
        yield _words(None, bad.status, bad.message.encode(), {})

    def _counters(self, request: Request) -> Words:
        if not hmac.compare_digest(request.headers.get(b"authorization", b""), self._bearer):
            raise Refused(403, "The counters are for the control plane only.")
        counters = Counters(
            served=[(*replica, count) for replica, count in self._served.items()],
            corrupt=[(*replica, count) for replica, count in list(self._images.corrupt.items())],
        )
        return _words(request, 200, msgspec.json.encode(counters), {"content-type": "application/json"})

    def _image(self, request: Request) -> Steps:
        replica = store, tenant_id, image_id = _replica(request.path)
        cookie = request.headers.get(b"cookie", b"").decode("latin-1")
        if not is_valid(self._cookie_key, cookie, *replica, time.time()):
            raise Refused(403, "The cookie is missing, has expired, or is for another replica.")

        size_bytes = yield from self._size_bytes(replica)
        asked = request.asked
        first, end = (0, size_bytes) if asked is None else _range(asked, size_bytes)
        head = _image_head(request.is_kept, image_id, first, end, size_bytes, asked is not None)
        if request.method == "HEAD" or first == end:
            yield Words(head)
            return
        image = self._checked.image(tenant_id, image_id)
        # The answer begins when its first bytes were checked.
        while (place := image.find(first, end)) is None:
            yield from self._fill(replica, image, first, end)
        while True:
            sent = yield Part(head, *place)
            head = b""
            self._served[store, image_id] += sent
            first += sent
            if first == end:
                return
            while (place := image.find(first, end)) is None:
                try:
                    yield from self._fill(replica, image, first, end)
                except Refused as refused:
                    raise AnswerBroken(refused.message) from refused

    def _size_bytes(self, replica: Replica) -> Generator[Future[Any], Any, int]:
        size_bytes = self._sizes.get(replica)
        if size_bytes is None:
            size_bytes = yield from self._result(self._threads.submit(self._images.size_bytes, *replica))
            if len(self._sizes) >= SIZES:
                self._sizes.clear()
            self._sizes[replica] = size_bytes
        return size_bytes

    def _fill(
        self, replica: Replica, image: CheckedImage, offset: int, end: int
    ) -> Generator[Future[Any], Any, None]:
        """Have the pieces around bytes `offset` to `end` read, a chunk at most; one read for all who wait."""
        first = offset - offset % PIECE_BYTES
        reading = self._under_way.get((replica, first))
        if reading is None:
            stop = min(first + CHUNK_BYTES, end + -end % PIECE_BYTES, self._sizes[replica])
            reading = self._threads.submit(self._images.read, *replica, first, stop - first)
            self._under_way[replica, first] = reading
            reading.add_done_callback(lambda _: self._under_way.pop((replica, first), None))
        try:
            image.put(first, (yield from self._result(reading)))
        except Refused:
            self._sizes.pop(replica, None)
            raise

    def _result(self, work: Future[Any]) -> Generator[Future[Any], Any, Any]:
        try:
            return (yield work)
        except UnknownReplica as error:
            raise Refused(404, str(error)) from error
        except UnreadableReplica as error:
            log.warning("replica can't be read", reason=str(error))
            raise Refused(503, "This replica can't be read here. Read from another one.") from error


@lru_cache(1024)
def _replica(path: str) -> Replica:
    """Store, tenant id and image id of a path. Raises `Refused`."""
    found = IMAGE_PATH.fullmatch(path)
    if found is None:
        raise Refused(404, "No such image.")
    return found["store"], found["tenant"], found["image"]


def _range(header: bytes, size_bytes: int) -> tuple[int, int]:
    """First byte and end of a Range header. Raises `Refused` for what is not one satisfiable range."""
    found = RANGE.fullmatch(header)
    if found is None or not (found["first"] or found["last"]):
        raise _outside(size_bytes)
    if not found["first"]:
        first, end = max(0, size_bytes - int(found["last"])), size_bytes
    else:
        first = int(found["first"])
        end = min(size_bytes, int(found["last"]) + 1) if found["last"] else size_bytes
    if first >= end:
        raise _outside(size_bytes)
    return first, end


def _outside(size_bytes: int) -> Refused:
    return Refused(416, "One range, within the image.", {"content-range": f"bytes */{size_bytes}"})


def _words(request: Request | None, status: int, body: bytes, headers: Headers) -> Words:
    """A whole answer of words; `request` is None when there was none that could be read."""
    fields = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body))} | headers
    more = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    is_kept = request is not None and request.is_kept
    return Words(_begin(status, is_kept, int(time.time())) + f"{more}\r\n".encode("latin-1") + body)


def _image_head(
    is_kept: bool, image_id: str, first: int, end: int, size_bytes: int, is_partial: bool
) -> bytes:
    begin = _begin(206 if is_partial else 200, is_kept, int(time.time()))
    partial = f"content-range: bytes {first}-{end - 1}/{size_bytes}\r\n" if is_partial else ""
    return begin + (
        f'content-type: application/octet-stream\r\naccept-ranges: bytes\r\netag: "{image_id}"\r\n'
        f"content-length: {end - first}\r\n{partial}\r\n"
    ).encode("latin-1")


@lru_cache(64)
def _begin(status: int, is_kept: bool, now_s: int) -> bytes:
    """The first lines of an answer: they change once a second."""
    # QEMU loses requests on connections that it uses again, and never asks for that: docs/decisions/0006.
    connection = "keep-alive" if is_kept else "close"
    return (
        f"HTTP/1.1 {status} {responses[status]}\r\ndate: {formatdate(now_s, usegmt=True)}\r\n"
        f"connection: {connection}\r\n"
    ).encode("latin-1")
