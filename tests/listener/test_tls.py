"""The listener: another certificate is shown while requests are under way, and none of them notices."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from opengallery.database import now
from opengallery.identity import keys
from opengallery.identity.certificate import CERTIFICATE_LIFETIME
from opengallery.identity.certificate_source import CertificateSource
from opengallery.identity.folder import IdentityFolder
from opengallery.listener import tls
from opengallery.listener.tls import Listener
from opengallery.settings import IdentitySettings, Settings

from ..server.serving import free_port, until


class Running:
    """A listener in a thread of its own, and the clock that its certificates follow."""

    def __init__(self, data: Path) -> None:
        self.now = now()
        self.go_on = threading.Event()
        self.settings = Settings(data=data, port=free_port(), identity=IdentitySettings(token_key_days=30))
        self.url = f"https://localhost:{self.settings.port}"
        self._ended = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self.has_ended_in_order = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def clock(self) -> datetime:
        return self.now

    async def _run(self) -> None:
        async def hello(_request: Request) -> PlainTextResponse:
            return PlainTextResponse("hello")

        async def slow(_request: Request) -> StreamingResponse:
            async def pieces() -> object:  # type: ignore[misc]
                yield b"begun "
                while not self.go_on.is_set():
                    await asyncio.sleep(0.01)
                yield b"ended"

            return StreamingResponse(pieces())  # type: ignore[arg-type]

        self._loop = asyncio.get_running_loop()
        application = Starlette(routes=[Route("/", hello), Route("/slow", slow)])
        source = CertificateSource(self.settings, self.clock)
        listener = Listener(application, self.settings, source, look_s=0.05)
        self.has_ended_in_order = await listener.run(self._ended, self._ready.set)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(20)
        assert self.has_ended_in_order

    def serial(self) -> int | None:
        try:
            shown = ssl.get_server_certificate(("localhost", self.settings.port))
        except OSError:  # in the moment of the change
            return None
        return x509.load_pem_x509_certificate(shown.encode()).serial_number

    def renew(self) -> None:
        """Put the clock forward to the certificate's end, and wait until another one is shown."""
        before = self.serial()
        self.now += CERTIFICATE_LIFETIME - timedelta(days=20)
        until(lambda: self.serial() not in (None, before), 20)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    listener = Running(tmp_path)
    listener.start()
    yield listener
    listener.stop()


def test_the_own_certificate_is_renewed_while_an_answer_is_under_way(running: Running) -> None:
    with httpx.Client(verify=False) as client, client.stream("GET", f"{running.url}/slow") as answer:
        pieces = answer.iter_raw()
        assert next(pieces) == b"begun "
        running.renew()
        running.renew()  # the first listener still answers: that holds up nothing
        assert httpx.get(running.url, verify=False).text == "hello"
        running.go_on.set()
        assert b"".join(pieces) == b"ended"


def test_clients_that_try_again_notice_no_renewal(running: Running) -> None:
    failures: list[str] = []
    stop = threading.Event()
    answered = 0

    def ask() -> None:
        nonlocal answered
        while not stop.is_set():
            for attempt in range(3):
                try:
                    assert httpx.get(running.url, verify=False).text == "hello"
                    answered += 1
                    break
                except httpx.TransportError as error:
                    if attempt == 2:
                        failures.append(repr(error))

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(3):
        running.renew()
    stop.set()
    asking.join()
    assert failures == []
    assert answered > 3


def test_a_running_listener_replaces_old_token_keys(running: Running) -> None:
    folder = IdentityFolder(running.settings.data)
    old = keys.SigningKeys.open(folder, lambda: time.time() - 31 * 24 * 3600).current[0]
    other = Running(running.settings.data)
    other.start()
    try:
        until(lambda: keys.SigningKeys.open(folder).current[0] != old, 20)
        assert keys.SigningKeys.open(folder).find(old) is not None
    finally:
        other.stop()
    assert tls.TEND_KEYS_S <= 3600


def test_a_client_that_stays_silent_holds_up_no_renewal(running: Running) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", running.settings.port)) as raw:
        with context.wrap_socket(raw, server_hostname="localhost"):
            running.renew()
            running.renew()
            running.renew()
