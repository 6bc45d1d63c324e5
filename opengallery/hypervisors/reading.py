"""One ranged read over HTTP/1.1 as QEMU makes it: a connection of its own, a deadline, a checksum.

Written for a thousand machines in one process: no object of asyncio's is made for a read but two
callbacks, and what comes goes through one buffer that all reads share into the checksum.
"""

import asyncio
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from blake3 import blake3

from opengallery.hypervisors.machine import ReplicaUrl

BUFFER_BYTES = 1 << 20
HEAD_MAX_BYTES = 1 << 12
LOW_WATER_MAX_BYTES = 512 << 10
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
HEADER = re.compile(rb"\r\n([^:\r]+):[ \t]*([^\r]*)")

_buffer = memoryview(bytearray(BUFFER_BYTES))

Done = Callable[[str | None, bytes], None]
"""Called once: with None and the checksum of the bytes, or with what went wrong."""


@dataclass(frozen=True)
class Target:
    """A replica, taken apart once for all reads of it."""

    url: str
    address: tuple[str, int]
    head: bytes

    @classmethod
    def of(cls, replica: ReplicaUrl) -> "Target":
        """Raises `ValueError` for what is no plain HTTP URL with an IPv4 address or a name."""
        parts = urlsplit(replica.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"A replayed machine reads plain HTTP only, not '{replica.url}'.")
        host = f"{parts.hostname}:{parts.port or 80}"
        head = f"{parts.path} HTTP/1.1\r\nHost: {host}\r\nCookie: {replica.cookie}\r\n"
        return cls(replica.url, (parts.hostname, parts.port or 80), head.encode())


class RangedRead:
    """A read under way; `cancel` ends it without a word."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        target: Target,
        offset: int,
        length: int,
        timeout_s: float,
        done: Done,
    ) -> None:
        """Begin to read `length` bytes (0: only the header) from byte `offset`."""
        self._loop, self._target, self._done = loop, target, done
        self._offset, self._left = offset, length
        self._length = length
        self._received: bytes | None = b""  # of the header; None when it is complete
        self._checksum = blake3()
        self._socket = socket.socket()
        self._socket.setblocking(False)
        # asyncio knows it by its number: at every change it would write out a socket, and throw that away.
        self._fd = self._socket.fileno()
        self._deadline = loop.call_later(timeout_s, self._end, f"took longer than {timeout_s:g} s")
        if length:
            last = offset + length - 1
            request = b"GET " + target.head + b"Range: bytes=%d-%d\r\n\r\n" % (offset, last)
            self._wake_at(length)
        else:
            request = b"HEAD " + target.head + b"\r\n"
        try:
            self._socket.connect_ex(target.address)
            self._send(request)
        except OSError as error:
            # Not from within the constructor: the caller does not know this read yet.
            loop.call_soon(self._end, f"does not answer ({error.strerror or error})")

    def cancel(self) -> None:
        """End it; `done` is not called."""
        self._done = _nothing
        self._end("cancelled")

    def _send(self, request: bytes) -> None:
        try:
            sent = self._socket.send(request)
        except BlockingIOError:
            sent = 0
        if sent == len(request):
            self._loop.add_reader(self._fd, self._receive)
        else:
            self._loop.add_writer(self._fd, self._connected, request[sent:])

    def _connected(self, request: bytes) -> None:
        self._loop.remove_writer(self._fd)
        try:
            self._send(request)
        except OSError as error:
            self._end(f"does not answer ({error.strerror or error})")

    def _receive(self) -> None:
        try:
            count = self._socket.recv_into(_buffer)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(f"broke off ({error.strerror or error})")
            return
        if not count:
            self._end(f"ended {self._left} bytes too early" if self._received is None else "gave no answer")
            return
        content = _buffer[:count]
        if self._received is not None:
            head = self._received + bytes(content[:HEAD_MAX_BYTES])
            end = head.find(b"\r\n\r\n")
            if end < 0:
                self._received = head
                if len(head) >= HEAD_MAX_BYTES:
                    self._end("answers with an endless header")
                return
            if problem := self._problem(head[:end]):
                self._end(problem)
                return
            content = content[end + 4 - len(self._received) :]
            self._received = None
        self._left -= len(content)
        self._checksum.update(content)
        if self._left < 0:
            self._end("sends more bytes than were asked for")
        elif not self._left:
            self._end(None)
        else:
            self._wake_at(self._left)

    def _wake_at(self, count: int) -> None:
        """Be woken when so many bytes have come: a core is better spent than on every packet.

        A server that sends less closes the connection, which wakes, too.
        """
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(count, LOW_WATER_MAX_BYTES))

    def _problem(self, head: bytes) -> str | None:
        """Why the answer is not what was asked for."""
        status = STATUS.match(head)
        if not status:
            return "does not speak HTTP"
        if status[1] != (b"206" if self._length else b"200"):
            return f"answers {status[1].decode()}"
        headers = {name.lower(): value.strip() for name, value in HEADER.findall(head)}
        if not self._length:
            return None if headers.get(b"accept-ranges") == b"bytes" else "serves no ranges"
        if headers.get(b"content-length") != b"%d" % self._length:
            return f"answers {headers.get(b'content-length', b'?').decode()} bytes for {self._length}"
        last = self._offset + self._length - 1
        if not headers.get(b"content-range", b"").startswith(b"bytes %d-%d/" % (self._offset, last)):
            return "answers another range than was asked for"
        return None

    def _end(self, problem: str | None) -> None:
        if self._socket.fileno() < 0:
            return
        self._deadline.cancel()
        if not self._loop.remove_reader(self._fd):
            self._loop.remove_writer(self._fd)
        self._socket.close()
        if problem is not None:
            problem = f"{self._target.url} {problem}"
        self._done(problem, self._checksum.digest())


def _nothing(_problem: str | None, _checksum: bytes) -> None:
    """What a cancelled read calls."""
