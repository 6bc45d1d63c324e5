"""Around every answer: headers that protect it, and clients that have to be quick."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from opengallery.listener.guarded import Guarded


async def _plain(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


async def _own(_request: Request) -> PlainTextResponse:
    own = {"cache-control": "public, max-age=300", "content-security-policy": "default-src 'self'"}
    return PlainTextResponse("hello", headers=own)


async def _stream(_request: Request) -> StreamingResponse:
    return StreamingResponse(iter([b"a", b"b"]))


async def _echo(request: Request) -> PlainTextResponse:
    try:
        return PlainTextResponse((await request.body()).decode())
    except Exception:  # as an application that answers each failure by itself
        return PlainTextResponse("failed", 500)


ROUTES = [
    Route("/plain", _plain),
    Route("/own", _own),
    Route("/stream", _stream),
    Route("/echo", _echo, methods=["POST"]),
]


def get(path: str, endpoint: str = "https://localhost:8443") -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Guarded(Starlette(routes=ROUTES), endpoint))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=endpoint) as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/plain", "/own", "/stream", "/nowhere"])
def test_every_answer_has_the_headers_once(path: str) -> None:
    headers = get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["server"] == ""
    for name in ("cache-control", "content-security-policy", "server", "content-type"):
        assert len(headers.get_list(name)) <= 1


def test_nothing_is_kept_by_caches_unless_the_answer_says_so() -> None:
    assert get("/plain").headers["cache-control"] == "no-store"
    assert get("/own").headers["cache-control"] == "public, max-age=300"
    assert get("/own").headers["content-security-policy"] == "default-src 'self'"


def test_only_a_host_with_a_name_of_its_own_binds_browsers_to_tls() -> None:
    assert "max-age" in get("/plain", "https://gallery.example").headers["strict-transport-security"]
    for endpoint in ("https://localhost:8443", "https://a.localhost", "https://127.0.0.1", "https://[::1]:1"):
        assert "strict-transport-security" not in get("/plain", endpoint).headers


def post(pieces: list[tuple[float, bytes]], **bounds: float) -> list[dict[str, Any]]:
    """What is sent back to a client that sends the pieces of a body, each after a pause in seconds."""
    sent: list[dict[str, Any]] = []
    left = list(pieces)

    async def receive() -> dict[str, Any]:
        pause_s, piece = left.pop(0)
        await asyncio.sleep(pause_s)
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    guarded = Guarded(Starlette(routes=ROUTES), "https://localhost", **bounds)  # type: ignore[arg-type]
    scope = {"type": "http", "method": "POST", "path": "/echo", "headers": [], "query_string": b""}
    asyncio.run(guarded(scope, receive, send))
    return sent


def test_a_body_that_comes_in_time_is_read() -> None:
    start, body = post([(0.0, b"a"), (0.01, b"b")])
    assert (start["status"], body["body"]) == (200, b"ab")


def test_a_client_that_falls_silent_in_the_body_is_told_408() -> None:
    start, body = post([(0.0, b"a"), (60.0, b"b")], silence_max_s=0.05)
    assert start["status"] == 408
    assert b"RequestTimeout" in body["body"]
    assert dict(start["headers"])[b"x-content-type-options"] == b"nosniff"


def test_a_client_that_drips_is_told_408() -> None:
    start, _ = post([(0.02, b"a")] * 100, silence_max_s=0.1, body_time_max_s=0.3)
    assert start["status"] == 408
