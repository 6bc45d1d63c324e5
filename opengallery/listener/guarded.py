"""Around every answer: security headers, and a bound on how long a client takes to send its request.

Written for ASGI itself, as it wraps streams. An answer that says nothing about caching is `no-store`, since
most hold what only their caller may see. What hides what the server is stands here, too.
Source: OWASP HTTP headers; RFC 6797 (HSTS); RFC 9110, 15.5.9 (408).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

SILENCE_MAX_S = 30.0
BODY_TIME_MAX_S = 600.0
YEAR_S = 365 * 24 * 3600

ALWAYS = {
    b"server": b"",  # without one Granian would name itself
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}
UNLESS_SET = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
TIMED_OUT = (
    b'{"error":{"code":"RequestTimeout",'
    b'"message":"The body of the request came too slowly. Send it again, faster."}}'
)


class SlowRequest(BaseException):
    """The client takes too long to send the body of its request.

    For `Guarded` alone, past all who answer any `Exception` as a failure of theirs.
    """


class Guarded:
    """An application whose answers have the headers, and whose clients have to be quick."""

    def __init__(
        self,
        application: Application,
        endpoint: str,
        silence_max_s: float = SILENCE_MAX_S,
        body_time_max_s: float = BODY_TIME_MAX_S,
    ) -> None:
        """Wrap `application`, which clients reach as `endpoint`."""
        self._application = application
        self._silence_max_s = silence_max_s
        self._body_time_max_s = body_time_max_s
        self._always = dict(ALWAYS)
        if _is_public(endpoint):
            self._always[b"strict-transport-security"] = b"max-age=%d" % YEAR_S

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request; other things than requests pass through."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        is_answered = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start":
                is_answered = True
                message["headers"] = self._headers(message.get("headers", ()))
            await send(message)

        try:
            await self._application(scope, self._bounded(receive), send_with_headers)
        except SlowRequest:
            if not is_answered:
                headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
                await send_with_headers({"type": "http.response.start", "status": 408, "headers": headers})
                await send({"type": "http.response.body", "body": TIMED_OUT})

    def _headers(self, headers: Any) -> list[tuple[bytes, bytes]]:
        given = [(name.lower(), value) for name, value in headers]
        names = {name for name, _ in given}
        given += [(name, value) for name, value in self._always.items() if name not in names]
        given += [(name, value) for name, value in UNLESS_SET.items() if name not in names]
        return given

    def _bounded(self, receive: Receive) -> Receive:
        """`receive`, which waits no longer than the bounds for the rest of the body."""
        ends_at = time.monotonic() + self._body_time_max_s
        is_whole = False

        async def bounded() -> Message:
            nonlocal is_whole
            if is_whole:  # now it waits for the client to go away
                return await receive()
            try:
                left_s = min(self._silence_max_s, ends_at - time.monotonic())
                message = await asyncio.wait_for(receive(), max(left_s, 0.001))
            except TimeoutError:
                raise SlowRequest from None
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return bounded


def _is_public(endpoint: str) -> bool:
    """Whether the host has a name of its own: HSTS for `localhost` would bind all that runs there."""
    host = urlsplit(endpoint).hostname or "localhost"
    try:
        ip_address(host)
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")
    return False
