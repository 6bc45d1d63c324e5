"""Requests as a replica server takes them: HTTP/1.0 and 1.1, a head of at most 16 KiB, and no body.

What is not written as RFC 9112 says is refused and ends its connection: a server that guesses can be
led to take one request for two.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_HEAD_BYTES = 16 << 10
END_OF_HEAD = b"\r\n\r\n"
REQUEST_LINE = re.compile(rb"([!#-'*+\-.^-z|~0-9A-Z]{1,32}) (/[!-~]*) HTTP/1\.([01])")
FIELD = re.compile(
    rb"([!#-'*+\-.^-z|~0-9A-Z]+):[ \t]*((?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?)[ \t]*"
)
REPEATABLE = (b"cookie", b"connection")


class BadRequest(Exception):
    """A request that can't be answered as it is; the connection ends. `status` is its HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        """`message` is the answer's body, for people."""
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(slots=True)
class Request:
    """One request. Names of `headers` are in small letters; a Cookie sent in parts is put together.

    `is_kept`: the client asked in so many words to go on using the connection. `head` is as it came.
    """

    method: str
    path: str
    headers: dict[bytes, bytes]
    is_kept: bool
    head: bytes


def take_request(received: bytearray) -> Request | None:
    """Take the first request out of `received`; None while its head has not come whole.

    Raises `BadRequest`.
    """
    while received.startswith(b"\r\n"):
        # RFC 9112, 2.2: an empty line before a request is passed over.
        del received[:2]
    end = received.find(END_OF_HEAD, 0, MAX_HEAD_BYTES)
    if end < 0:
        if len(received) >= MAX_HEAD_BYTES:
            raise BadRequest(431, f"The head of a request has at most {MAX_HEAD_BYTES} bytes.")
        return None
    head = bytes(received[: end + len(END_OF_HEAD)])
    del received[: len(head)]
    first, *lines = head[:end].split(b"\r\n")
    found = REQUEST_LINE.fullmatch(first)
    if found is None:
        raise BadRequest(400, "This is no request of HTTP/1.0 or HTTP/1.1.")
    method, target, minor = found.groups()
    headers = _headers(lines)
    if minor == b"1" and b"host" not in headers:
        raise BadRequest(400, "The Host header is missing.")
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
        raise BadRequest(413, "Requests have no body here.")
    path, _, _ = target.partition(b"?")
    if b"%" in path:
        path = unquote_to_bytes(path)
    is_kept = minor == b"1" and b"keep-alive" in _options(headers.get(b"connection", b""))
    return Request(method.decode(), path.decode("latin-1"), headers, is_kept, head)


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines:
        found = FIELD.fullmatch(line)
        if found is None:
            raise BadRequest(400, "A header is not written as HTTP/1.1 says.")
        name, value = found[1].lower(), found[2]
        if name in headers:
            if name not in REPEATABLE:
                raise BadRequest(400, f"The header {name.decode()} comes twice.")
            value = headers[name] + (b"; " if name == b"cookie" else b", ") + value
        headers[name] = value
    return headers


def _options(header: bytes) -> set[bytes]:
    options = {option.strip().lower() for option in header.split(b",")}
    return set() if b"close" in options else options
