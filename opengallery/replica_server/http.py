"""The HTTP of a replica server: what it answers to which request.

`GET` and `HEAD /images/<store>/<tenant id>/<image id>`, one Range at a time, behind a signed cookie;
behind a bearer secret `POST` of the same, which has what boots read made ready, and `GET /counters`.
Bytes are sent only after they were checked: a block that fails answers 503, or ends the connection
when the answer has begun, and the machine reads on from the next replica. What was checked once is
sent from memory as long as it stays there.
"""

import hmac
import re
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from email.utils import formatdate
from functools import lru_cache, partial
from http.client import responses
from typing import Any

import msgspec
import structlog

from opengallery.replica_server.boots import Boots
from opengallery.replica_server.checked_bytes import CheckedBytes, CheckedImage
from opengallery.replica_server.cookies import expires_at_s
from opengallery.replica_server.grants import Grant, Grants
from opengallery.replica_server.images import Images, UnknownReplica, UnreadableReplica
from opengallery.replica_server.protocol import Counters
from opengallery.replica_server.requests import BadRequest, Request
from opengallery.replica_server.steps import AnswerBroken, Hot, Part, Steps, Words
from opengallery.replica_server.warming import Replica, Warming
from opengallery.replication.boot_pieces import PIECE_BYTES

CHUNK_BYTES = 1 << 20
READING_THREADS = 8
SIZES = 1024
IMAGE_PATH = re.compile(r"/images/(?P<store>[^/]+)/(?P<tenant>[^/]+)/(?P<image>[0-9a-f]{64})")
RANGE = re.compile(rb"bytes=(?P<first>\d{0,19})-(?P<last>\d{0,19})")

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
        self,
        images: Images,
        checked: CheckedBytes,
        cookie_key: bytes,
        counters_secret: str,
        boots: Boots | None = None,
    ) -> None:
        """`checked` keeps what was read; `counters_secret` is the control plane's bearer token.

        What boots read is learned by `boots`, and warmed, if there is one.
        """
        self._images = images
        self._checked = checked
        self._cookie_key = cookie_key
        self._bearer = f"Bearer {counters_secret}".encode()
        self._threads = ThreadPoolExecutor(READING_THREADS, "read")
        self._under_way: dict[tuple[Replica, int], Future[bytes]] = {}
        self._sizes: dict[Replica, int] = {}
        self._served: Counter[Replica] = Counter()
        self._grants = Grants()
        self._boots = boots
        self.warming = Warming(images, checked, boots, lambda: bool(self._under_way)) if boots else None

    def answer(self, request: Request) -> Steps:
        """Answer one request."""
        try:
            if request.method == "POST":
                yield self._warm(request)
            elif request.method not in ("GET", "HEAD"):
                raise Refused(405, "Only GET, HEAD and POST.", {"allow": "GET, HEAD, POST"})
            elif request.path == "/counters":
                yield self._counters(request)
            else:
                yield from self._image(request)
        except Refused as refused:
            yield _words(request, refused.status, refused.message.encode(), refused.headers)

    def refuse(self, bad: BadRequest) -> Steps:
        """Answer what is no request."""
        yield _words(None, bad.status, bad.message.encode(), {})

    def counters(self) -> Counters:
        """What was sent since the start, and which reads found bad blocks."""
        return Counters(
            served=[(store, image, count) for (store, _, image), count in list(self._served.items())],
            corrupt=[(*replica, count) for replica, count in list(self._images.corrupt.items())],
        )

    def _counters(self, request: Request) -> Words:
        self._check_bearer(request)
        counters = msgspec.json.encode(self.counters())
        return _words(request, 200, counters, {"content-type": "application/json"})

    def _warm(self, request: Request) -> Words:
        self._check_bearer(request)
        replica = _replica(request.path)
        is_warm = self.warming is not None and self.warming.wish(replica)
        return _words(request, 200 if is_warm else 202, b"", {})

    def _check_bearer(self, request: Request) -> None:
        if not hmac.compare_digest(request.headers.get(b"authorization", b""), self._bearer):
            raise Refused(403, "This is for the control plane only.")

    def _image(self, request: Request) -> Steps:
        replica = _replica(request.path)
        cookie = request.headers.get(b"cookie", b"").decode("latin-1")
        expiry_s = expires_at_s(self._cookie_key, cookie, *replica)
        if time.time() >= expiry_s:
            raise Refused(403, "The cookie is missing, has expired, or is for another replica.")

        size_bytes = yield from self._size_bytes(replica)
        asked = request.headers.get(b"range")
        first, end = (0, size_bytes) if asked is None else _range(asked, size_bytes)
        grant = Grant(replica, replica[1:], size_bytes, expiry_s, cookie, request.is_kept)
        head = _image_head(grant, first, end, time.time(), is_partial=asked is not None)
        if request.method == "HEAD" or first == end:
            yield Words(head)
            return
        self._grants.add(request.head, grant)
        self._learn(grant, first, end)
        yield from self._send(grant, head, first, end)

    def hot(self, received: bytes) -> Hot | None:
        """The answer to a request like one that was answered before, when it begins with what is in memory."""
        now_s = time.time()
        found = self._grants.find(received, now_s)
        if found is None:
            return None
        grant, first, end = found
        place = self._checked.find(grant.image, first, end)
        if place is None:
            return None
        if self._boots is not None and (not first or self._boots.under_way):
            self._learn(grant, first, end)
        head = _image_head(grant, first, end, now_s)
        return head, *place, grant.is_kept, partial(self._rest, grant, first, end)

    def _rest(self, grant: Grant, first: int, end: int, sent: int) -> Steps | None:
        """What is left of a hot answer."""
        self._served[grant.replica] += sent
        return self._send(grant, b"", first + sent, end) if first + sent < end else None

    def _send(self, grant: Grant, head: bytes, first: int, end: int) -> Steps:
        _, tenant_id, image_id = grant.replica
        image = self._checked.image(tenant_id, image_id)
        has_begun = not head
        while first < end:
            # The answer begins when its first bytes were checked.
            while (place := image.find(first, end)) is None:
                try:
                    yield from self._fill(grant, image, first, end)
                except Refused as refused:
                    if not has_begun:
                        raise
                    raise AnswerBroken(refused.message) from refused
            sent = yield Part(head, *place)
            head, has_begun = b"", True
            self._served[grant.replica] += sent
            first += sent

    def _learn(self, grant: Grant, first: int, end: int) -> None:
        if self._boots is None or self.warming is None:
            return
        if self._boots.note(grant.image, grant.cookie, first, end):
            self.warming.wish(grant.replica)

    def _size_bytes(self, replica: Replica) -> Generator[Future[Any], Any, int]:
        size_bytes = self._sizes.get(replica)
        if size_bytes is None:
            size_bytes = yield from self._result(self._threads.submit(self._images.size_bytes, *replica))
            if len(self._sizes) >= SIZES:
                self._sizes.clear()
            self._sizes[replica] = size_bytes
        return size_bytes

    def _fill(
        self, grant: Grant, image: CheckedImage, offset: int, end: int
    ) -> Generator[Future[Any], Any, None]:
        """Have the pieces around bytes `offset` to `end` read, a chunk at most; one read for all who wait."""
        replica, first = grant.replica, offset - offset % PIECE_BYTES
        reading = self._under_way.get((replica, first))
        if reading is None:
            stop = min(first + CHUNK_BYTES, end + -end % PIECE_BYTES, grant.size_bytes)
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
    return Words(f"{_begin(status, is_kept, int(time.time()))}{more}\r\n".encode("latin-1") + body)


def _image_head(grant: Grant, first: int, end: int, now_s: float, is_partial: bool = True) -> bytes:
    begin = _image_begin(206 if is_partial else 200, grant.is_kept, int(now_s), grant.image[1])
    if is_partial:
        return b"%scontent-length: %d\r\ncontent-range: bytes %d-%d/%d\r\n\r\n" % (
            begin, end - first, first, end - 1, grant.size_bytes
        )  # fmt: skip
    return b"%scontent-length: %d\r\n\r\n" % (begin, end - first)


# These lines change once a second.
@lru_cache(1024)
def _image_begin(status: int, is_kept: bool, now_s: int, image_id: str) -> bytes:
    return (
        f"{_begin(status, is_kept, now_s)}content-type: application/octet-stream\r\n"
        f'accept-ranges: bytes\r\netag: "{image_id}"\r\n'
    ).encode()


def _begin(status: int, is_kept: bool, now_s: int) -> str:
    # QEMU loses requests on connections that it uses again, and never asks for that: docs/decisions/0006.
    connection = "keep-alive" if is_kept else "close"
    date = formatdate(now_s, usegmt=True)
    return f"HTTP/1.1 {status} {responses[status]}\r\ndate: {date}\r\nconnection: {connection}\r\n"
