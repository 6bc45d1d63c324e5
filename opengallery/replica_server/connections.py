"""Connections: one thread, one epoll, and an answer to each request as a generator of steps.

A step is words to send, a part of some memory to send, or work in another thread to wait for. The
generator goes on when its step is done, and says what follows; nothing is read ahead of a client that
does not take it. Requests that come one behind the other are answered in their order.
"""

import math
import mmap
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import structlog

from opengallery.replica_server.requests import BadRequest, Request, take_request
from opengallery.replica_server.steps import AnswerBroken, Chore, Hot, Part, Step, Steps, Words

# A head must have come whole after so long; a kept connection may rest, and a client may take nothing.
HEAD_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 60.0
SEND_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 2.0
SWEEP_INTERVAL_S = 1.0
RECEIVE_BYTES = 16 << 10
HOT_BYTES = 2 << 10
# One connection sends so much before others have their turn.
TURN_BYTES = 2 << 20
ACCEPT_AT_ONCE = 64
READABLE, ENDED = select.EPOLLIN, select.EPOLLRDHUP
EVENTS = READABLE | select.EPOLLOUT | ENDED | select.EPOLLET
GONE = select.EPOLLERR | select.EPOLLHUP

log = structlog.get_logger()


class Connection:
    """One client's connection. `value` is what its answer's last step gave; `unsent` are words left over."""

    __slots__ = (
        "answer", "deadline_s", "error", "file", "has_ended", "is_ending", "is_kept", "is_readable",
        "is_waiting", "received", "socket", "unsent", "value",
    )  # fmt: skip

    def __init__(self, accepted: socket.socket, deadline_s: float) -> None:
        """`accepted` does not block."""
        self.socket = accepted
        self.file = accepted.fileno()
        self.received = bytearray()
        self.unsent = memoryview(b"")
        self.answer: Steps | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_readable = self.has_ended = self.is_waiting = self.is_kept = self.is_ending = False
        self.deadline_s = deadline_s


class Connections:
    """Serves a listening socket until it is stopped."""

    def __init__(
        self,
        listener: socket.socket,
        answer: Callable[[Request], Steps],
        refuse: Callable[[BadRequest], Steps],
        max_connections: int,
        hot: Callable[[bytes], Hot | None] = lambda _: None,
        chore: Chore | None = None,
    ) -> None:
        """`answer` begins the answer to a request, `refuse` to what is none; `chore` is done beside.

        `hot` is asked first, with what was received: None lets the request be taken apart.
        """
        self._listener = listener
        self._answer, self._refuse, self._hot = answer, refuse, hot
        self._max_connections = max_connections
        self._connections: dict[int, Connection] = {}
        self._chore = chore
        self._ready: deque[Connection] = deque()
        self._done: deque[tuple[Connection | None, Future[Any]]] = deque()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_stopping = False
        self._now_s = time.monotonic()

    def stop(self) -> None:
        """Have `serve` return soon; for any thread, and for signal handlers."""
        self._is_stopping = True
        os.eventfd_write(self._wake, 1)

    def serve(self) -> None:
        """Answer requests until `stop`; then only finish what was begun, for a moment."""
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # for what it accepts
        self._epoll.register(self._wake, select.EPOLLIN)
        self._epoll.register(self._listener, select.EPOLLIN)
        sweep_s = time.monotonic() + SWEEP_INTERVAL_S
        self._go_on_with_chore(None)
        while not self._is_stopping:
            self._turn()
            if self._now_s >= sweep_s:
                self._sweep()
                sweep_s = self._now_s + SWEEP_INTERVAL_S
        self._epoll.unregister(self._listener)
        end_s = time.monotonic() + STOP_TIMEOUT_S
        while self._now_s < end_s and any(c.answer is not None for c in self._connections.values()):
            self._turn()
        for connection in list(self._connections.values()):
            self._close(connection)

    def _turn(self) -> None:
        events = self._epoll.poll(0 if self._ready else SWEEP_INTERVAL_S)
        self._now_s = time.monotonic()
        ready, self._ready = self._ready, deque()
        for file, event in events:
            connection = self._connections.get(file)
            if connection is not None:
                self._notice(connection, event)
            elif file == self._wake:
                os.eventfd_read(self._wake)
            else:
                self._accept()
        for connection in ready:
            if not connection.is_waiting:
                self._go_on(connection)
        while self._done:
            connection, future = self._done.popleft()
            if connection is None:
                self._go_on_with_chore(future)
                continue
            connection.is_waiting = False
            connection.error = future.exception()
            connection.value = None if connection.error else future.result()
            self._go_on(connection)

    def _notice(self, connection: Connection, event: int) -> None:
        if event & GONE:
            self._close(connection)
            return
        if event & READABLE:
            connection.is_readable = True
        if event & ENDED:
            connection.has_ended = connection.is_readable = True
        if not connection.is_waiting:
            self._go_on(connection)

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if len(self._connections) >= self._max_connections and not self._drop_one():
                self._rest()
                return
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                log.warning("no connection can be accepted", reason=error.strerror)
                self._rest()
                return
            accepted.setblocking(False)
            connection = Connection(accepted, self._now_s + HEAD_TIMEOUT_S)
            self._connections[connection.file] = connection
            # Mostly its request has come with it, and a hot answer to that may be all.
            connection.is_readable = True
            self._go_on(connection)
            if connection.file >= 0:
                self._epoll.register(connection.file, EVENTS)

    def _rest(self) -> None:
        """Accept nothing until the next sweep."""
        if not self._is_stopping:
            self._epoll.modify(self._listener, 0)

    def _drop_one(self) -> bool:
        """Close the oldest connection that has no answer under way, if there is one."""
        for connection in self._connections.values():
            if connection.answer is None:
                self._close(connection)
                return True
        return False

    def _sweep(self) -> None:
        """Close the connections whose clients are too slow."""
        for connection in list(self._connections.values()):
            if connection.deadline_s < self._now_s:
                self._close(connection)
        self._epoll.modify(self._listener, select.EPOLLIN)

    def _go_on(self, connection: Connection) -> None:
        """Take a connection as far as it goes now, unless it was closed meanwhile."""
        if connection.file < 0:
            return
        try:
            is_idle = connection.answer is None and not connection.received and not connection.unsent
            if not (is_idle and connection.is_readable and self._answer_at_once(connection)):
                self._take_steps(connection)
        except (ConnectionError, AnswerBroken):
            self._close(connection)
        except Exception as error:
            log.exception("an answer failed", reason=str(error))
            self._close(connection)

    def _answer_at_once(self, connection: Connection) -> bool:
        """Answer a hot request in one go; whether there is nothing more to do for now."""
        try:
            received = os.read(connection.file, HOT_BYTES)
        except BlockingIOError:
            connection.is_readable = False
            return True
        found = self._hot(received)
        if found is None:
            self._take_in(connection, received, HOT_BYTES)
            return False
        head, memory, start, end, is_kept, rest = found
        connection.is_readable = connection.has_ended
        connection.is_kept = is_kept
        sent = self._send_part(connection, head, memory, start, end)
        connection.value = None
        connection.answer = rest(sent)
        if sent < end - start:
            return True
        if connection.answer is None:
            connection.is_ending = not is_kept
            return is_kept and not connection.has_ended
        return False

    def _take_steps(self, connection: Connection) -> None:
        room = TURN_BYTES
        while connection.file >= 0:
            if connection.unsent and not self._send(connection, connection.unsent):
                return
            if connection.is_ending:
                self._close(connection)
                return
            if connection.answer is None and not self._begin(connection):
                return
            step = self._next_step(connection)
            if step is None:
                continue
            if isinstance(step, Part):
                sent = self._send_part(connection, *step)
                if sent < step.end - step.start:
                    if connection.unsent:
                        continue
                    # The socket is full, and tells when it has room again.
                    return
                room -= sent
                if room <= 0:
                    self._ready.append(connection)
                    return
            elif isinstance(step, Words):
                self._send(connection, memoryview(step.content))
            else:
                connection.is_waiting = True
                connection.deadline_s = math.inf
                step.add_done_callback(lambda future: self._wake_up(connection, future))
                return

    def _go_on_with_chore(self, done: Future[Any] | None) -> None:
        if self._chore is None or self._is_stopping:
            return
        error = done.exception() if done is not None else None
        try:
            if error is not None:
                future = self._chore.throw(error)
            else:
                future = self._chore.send(done.result() if done is not None else None)
        except Exception as failure:
            log.exception("a chore ended", reason=str(failure))
            self._chore = None
            return
        future.add_done_callback(lambda future: self._wake_up(None, future))

    def _wake_up(self, connection: Connection | None, future: Future[Any]) -> None:
        self._done.append((connection, future))
        os.eventfd_write(self._wake, 1)

    def _next_step(self, connection: Connection) -> Step | None:
        """Let the answer go on; None at its end."""
        assert connection.answer is not None
        value, error = connection.value, connection.error
        connection.value = connection.error = None
        try:
            return connection.answer.send(value) if error is None else connection.answer.throw(error)
        except StopIteration:
            connection.answer = None
        connection.deadline_s = self._now_s + IDLE_TIMEOUT_S
        connection.is_ending = not connection.is_kept
        return None

    def _send_part(self, connection: Connection, head: bytes, memory: mmap.mmap, start: int, end: int) -> int:
        """Send a part as far as it goes; what is left of its head stays in `unsent`. Bytes of memory sent."""
        try:
            # One call, and no view of the memory is left behind: it may have to go before the next step.
            if head:
                sent = os.writev(connection.file, (head, memoryview(memory)[start:end])) - len(head)
            else:
                sent = os.write(connection.file, memoryview(memory)[start:end])
            connection.deadline_s = self._now_s + SEND_TIMEOUT_S
        except BlockingIOError:
            sent = -len(head)
        if sent < 0:
            connection.unsent = memoryview(head)[sent:]
            sent = 0
        connection.value = sent
        return sent

    def _send(self, connection: Connection, content: memoryview) -> bool:
        """Send as much of some words as goes; the rest stays in `unsent`. Whether all went."""
        try:
            sent = connection.socket.send(content)
            connection.deadline_s = self._now_s + SEND_TIMEOUT_S
        except BlockingIOError:
            sent = 0
        connection.unsent = content[sent:]
        return not connection.unsent

    def _begin(self, connection: Connection) -> bool:
        """Begin the answer to the next request, if it is here; close when none comes any more."""
        try:
            request = self._receive(connection)
            if request is None:
                return False
            connection.answer, connection.is_kept = self._answer(request), request.is_kept
        except BadRequest as bad:
            connection.received.clear()
            connection.answer, connection.is_kept = self._refuse(bad), False
        connection.deadline_s = self._now_s + SEND_TIMEOUT_S
        return True

    def _receive(self, connection: Connection) -> Request | None:
        while True:
            if connection.received and (request := take_request(connection.received)) is not None:
                return request
            if not connection.is_readable:
                return None
            try:
                received = connection.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                connection.is_readable = False
                return None
            self._take_in(connection, received, RECEIVE_BYTES)
            if not received:
                return None

    def _take_in(self, connection: Connection, received: bytes, room: int) -> None:
        if not received:
            self._close(connection)
            return
        if not connection.received:
            connection.deadline_s = min(connection.deadline_s, self._now_s + HEAD_TIMEOUT_S)
        connection.received += received
        # What is short was all; but for the end, which is told once only.
        connection.is_readable = len(received) == room or connection.has_ended

    def _close(self, connection: Connection) -> None:
        if connection.file < 0:
            return
        del self._connections[connection.file]
        connection.file = -1
        with suppress(OSError):
            # What was not read would turn the close into a reset, which can overtake the answer.
            connection.socket.recv(RECEIVE_BYTES)
        connection.socket.close()
        if connection.answer is not None:
            connection.answer.close()
            connection.answer = None
