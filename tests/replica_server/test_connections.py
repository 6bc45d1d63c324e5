"""Connections of a real server: kept ones, and clients that are slow, rude or many."""

import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from opengallery.replica_server import connections
from opengallery.replica_server.connections import Connections
from opengallery.replica_server.requests import BadRequest, Request
from opengallery.replica_server.steps import Steps, Words

MIB = 1 << 20


def connect(region: Any) -> socket.socket:
    address = urlsplit(region.url())
    return socket.create_connection((address.hostname, address.port), timeout=20)


def request(region: Any, range_header: str, *lines: str) -> bytes:
    path = urlsplit(region.url()).path
    head = [f"GET {path} HTTP/1.1", "Host: x", f"Cookie: {region.cookie()}", f"Range: {range_header}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n"


def read_all(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(1 << 20):
        received += piece
    return received


def test_a_connection_is_kept_for_who_asks_for_it(region: Any) -> None:
    address = urlsplit(region.url())
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    numbers = random.Random(5)
    for _ in range(50):
        first = numbers.randrange(len(region.content) - 600_000)
        last = first + numbers.randrange(600_000)
        headers = {"Connection": "keep-alive", "Cookie": region.cookie(), "Range": f"bytes={first}-{last}"}
        connection.request("GET", address.path, headers=headers)
        opened = connection.sock
        answer = connection.getresponse()
        assert answer.read() == region.content[first : last + 1]
        assert not answer.will_close
        assert connection.sock is opened
    connection.close()


def test_requests_behind_each_other_are_answered_in_order(region: Any) -> None:
    with connect(region) as client:
        starts = [0, 9 * MIB, 70_000, 12 * MIB, 3, 22 * MIB]
        asked = [request(region, f"bytes={first}-{first + 99}", "Connection: keep-alive") for first in starts]
        client.sendall(b"".join(asked[:-1]) + request(region, f"bytes={starts[-1]}-{starts[-1] + 99}"))
        received = read_all(client)
    for first in starts:
        head, _, received = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 206 ")
        assert received[:100] == region.content[first : first + 100]
        received = received[100:]
    assert received == b""


def test_a_request_may_come_byte_by_byte(region: Any) -> None:
    with connect(region) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(region, "bytes=5-9"):
            client.sendall(bytes([byte]))
        assert read_all(client).endswith(b"\r\n\r\n" + region.content[5:10])


def test_a_client_that_sends_no_more_still_gets_its_answer(region: Any) -> None:
    with connect(region) as client:
        client.sendall(request(region, f"bytes=0-{5 * MIB - 1}"))
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).partition(b"\r\n\r\n")[2] == region.content[: 5 * MIB]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET /" + b"a" * 20_000, 431),
        (b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.0\r\n\r\n", 404),
        (b"\r\nGET /x?y HTTP/1.1\r\nHost: a\r\n\r\n", 404),
    ],
)
def test_what_is_no_request_is_refused_and_ends_its_connection(region: Any, sent: bytes, status: int) -> None:
    with connect(region) as client:
        client.sendall(sent)
        assert read_all(client).startswith(f"HTTP/1.1 {status} ".encode())
    assert region.get("bytes=0-9").content == region.content[:10]


def test_noise_hurts_nobody_else(region: Any) -> None:
    numbers = random.Random(11)
    good = request(region, "bytes=0-99")
    for _ in range(300):
        noise = bytearray(good)
        for _ in range(numbers.randrange(1, 8)):
            noise[numbers.randrange(len(noise))] = numbers.randrange(256)
        with connect(region) as client:
            client.sendall(bytes(noise[: numbers.randrange(1, len(noise) + 1)]))
    assert region.get("bytes=0-9").content == region.content[:10]


def test_clients_that_take_nothing_hold_up_no_other_and_cost_no_memory(region: Any) -> None:
    region.get()
    (pid,) = region.servers.pids().values()
    before = resident_bytes(pid)
    stuck = []
    for _ in range(60):
        client = connect(region)
        client.sendall(request(region, "bytes=0-"))
        stuck.append(client)
    begun = time.monotonic()
    assert region.get("bytes=0-65535").content == region.content[:65536]
    assert time.monotonic() - begun < 5
    assert resident_bytes(pid) - before < 60 * MIB
    for client in stuck:
        client.close()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def echo(request: Request) -> Steps:
    body = request.path.encode()
    yield Words(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def refuse(bad: BadRequest) -> Steps:
    yield Words(f"HTTP/1.1 {bad.status} Bad\r\ncontent-length: 0\r\n\r\n".encode())


@contextmanager
def serving(max_connections: int) -> Iterator[tuple[str, int]]:
    """The loop itself in a thread of this process, so that its limits can be small."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        served = Connections(listener, echo, refuse, max_connections)
        thread = threading.Thread(target=served.serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            served.stop()
            thread.join()


def ask(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        return read_all(client)


def test_slow_heads_and_idle_connections_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connections, "IDLE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connections, "SWEEP_INTERVAL_S", 0.1)
    with serving(100) as address:
        silent = socket.create_connection(address, timeout=10)
        idle = socket.create_connection(address, timeout=10)
        idle.sendall(b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        assert idle.recv(1000).endswith(b"/b")
        slow = socket.create_connection(address, timeout=10)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                slow.sendall(b"x")
                time.sleep(0.05)
        assert silent.recv(10) == b""
        assert idle.recv(10) == b""
        assert ask(address).endswith(b"/a")
        for client in (silent, idle, slow):
            client.close()


def test_who_asks_nothing_makes_room_for_who_does() -> None:
    with serving(20) as address:
        silent = [socket.create_connection(address, timeout=10) for _ in range(60)]
        for _ in range(5):
            assert ask(address).endswith(b"/a")
        for client in silent:
            client.close()
