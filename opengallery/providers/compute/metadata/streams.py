"""Streams: requests that guests send over their metadata links, and what goes back.

QEMU hands a guest's connections over as one stream of bytes, and gives what comes back to the newest of them. So each
answer ends its connection, and of requests that overlap only the last is answered: the others' connections would
get nothing, or would get another's answer. A guest's bytes are bounded, and believed in nothing.
"""

import selectors
import socket
import time
from dataclasses import replace
from http import HTTPStatus

import h11
import structlog

from opengallery.arm import resources
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.providers.compute import machine_identity, machines
from opengallery.providers.compute.metadata.answer import Answer, MetadataError
from opengallery.providers.compute.metadata.service import MetadataService
from opengallery.providers.compute.metadata.tokens import Issue

LOOK_S = 2
TURN_S = 0.5
CHUNK_BYTES = 64 * 1024
HEADER_MAX_BYTES = 16 * 1024
# What is left of a request after this long belongs to a connection that has ended.
STALE_S = 3
ANSWERS_PER_S = 20

log = structlog.get_logger()


def watch(services: Services, issue: Issue | None) -> None:
    """Answer guests, until the server closes."""
    with selectors.DefaultSelector() as selector:
        streams = Streams(services, MetadataService(services, issue), selector)
        while not services.closing.is_set():
            try:
                streams.turn()
            except Exception:
                log.exception("machines' metadata could not be served")
                services.closing.wait(TURN_S)
        streams.close()


class Stream:
    """What one machine's guest sends. `answer` gets bytes and returns bytes."""

    def __init__(self, machine_key: str, service: MetadataService) -> None:
        """Begin with the first request."""
        self._key = machine_key
        self._service = service
        self._parser = _parser()
        self._request: h11.Request | None = None
        self._heard_s = 0.0
        self._second = 0
        self._answered = 0

    def answer(self, received: bytes) -> bytes:
        """What to send back; nothing while a request is unfinished."""
        if time.monotonic() - self._heard_s > STALE_S:
            self._parser, self._request = _parser(), None
        self._heard_s = time.monotonic()
        last: tuple[h11.Connection, h11.Request] | None = None
        try:
            self._parser.receive_data(received)
            while (event := self._parser.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Request):
                    self._request = event
                if isinstance(event, h11.EndOfMessage) and self._request is not None:
                    last, rest = (self._parser, self._request), self._parser.trailing_data[0]
                    self._parser, self._request = _parser(), None
                    if not rest:
                        break
                    self._parser.receive_data(rest)
        except h11.RemoteProtocolError:
            self._parser, self._request = _parser(), None
            broken = MetadataError("This is no HTTP request.").answer()
            return _written(_parser(), broken)
        return _written(last[0], self._answered_now(last[1])) if last else b""

    def _answered_now(self, request: h11.Request) -> Answer:
        second = int(time.monotonic())
        self._answered = self._answered + 1 if second == self._second else 1
        self._second = second
        if self._answered > ANSWERS_PER_S:
            return MetadataError(
                f"More than {ANSWERS_PER_S} requests a second. Wait, and keep your token.",
                "too_many_requests",
                429,
            ).answer()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
        answered = self._service.answer(self._key, method, target, headers)
        return replace(answered, body=b"") if method == "HEAD" else answered


class Streams:
    """The streams of all machines that run and have an identity. Used by one thread."""

    def __init__(
        self, services: Services, service: MetadataService, selector: selectors.BaseSelector
    ) -> None:
        """Know of no machine yet."""
        self._services = services
        self._service = service
        self._selector = selector
        self._open: dict[str, socket.socket] = {}
        self._looked_s = 0.0

    def turn(self) -> None:
        """Connect to machines that have come up; answer what has come in; return after a short while."""
        if time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            self._look()
        for ready, _ in self._selector.select(TURN_S):
            self._read(*ready.data)

    def close(self) -> None:
        """Let go of all streams."""
        for name in list(self._open):
            self._drop(name)

    def _look(self) -> None:
        for machine in self._with_identity():
            name = machines.machine_id(machine)
            if name in self._open:
                continue
            stream = self._services.hypervisor.metadata_stream(name)
            if stream is not None:
                self._open[name] = stream
                data = name, Stream(machine.key, self._service)
                self._selector.register(stream, selectors.EVENT_READ, data)

    def _with_identity(self) -> list[Resource]:
        """Those started; a scale set is read once for all its instances."""
        found, sets = [], dict[str, bool]()
        with self._services.database.read() as connection:
            for machine in machines.started(self._services):
                is_own = "identity" in machine.extra
                scale_set = machine_identity.scale_set_id(machine)
                if not is_own and scale_set is not None and scale_set not in sets:
                    row = resources.get(connection, scale_set)
                    sets[scale_set] = row is not None and "identity" in row.extra
                if is_own or sets.get(scale_set or "", False):
                    found.append(machine)
        return found

    def _read(self, name: str, stream: Stream) -> None:
        connection = self._open[name]
        try:
            received = connection.recv(CHUNK_BYTES)
            to_send = stream.answer(received) if received else b""
            # A guest that does not read what it asked for loses its stream, for a moment.
            if not received or (to_send and connection.send(to_send) < len(to_send)):
                self._drop(name)
        except OSError:
            self._drop(name)

    def _drop(self, name: str) -> None:
        connection = self._open.pop(name)
        self._selector.unregister(connection)
        connection.close()


def _parser() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_MAX_BYTES)


def _written(parser: h11.Connection, answered: Answer) -> bytes:
    headers = [
        ("Content-Type", answered.content_type),
        ("Content-Length", str(len(answered.body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    parts = (
        h11.Response(status_code=answered.status, headers=headers, reason=HTTPStatus(answered.status).phrase),
        h11.Data(data=answered.body),
        h11.EndOfMessage(),
    )
    return b"".join(parser.send(part) or b"" for part in parts)
