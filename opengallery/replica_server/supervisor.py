"""Starts replica servers when they are needed, one process a region, and keeps them going.

The supervisor holds every listening socket itself: while a server that died is started again, reads
wait in the socket's queue. The port of a region is kept in `DIR/replica-servers.json`, so that
machines which outlive this process find their replicas at the same URLs.
"""

import contextlib
import json
import os
import queue
import secrets
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog

from opengallery.database import Database
from opengallery.replica_server.cookies import sign
from opengallery.replica_server.process import ReplicaServerFailed, end, spawn, tell
from opengallery.replica_server.protocol import BACKLOG, Counters, Start
from opengallery.replication.keys import secret_file
from opengallery.replication.places import StorePlaces
from opengallery.replication.progress import add_served
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

ADDRESS = "127.0.0.1"
ASK_TIMEOUT_S = 5
WATCH_INTERVAL_S = 0.1
RESTART_PAUSE_S = 1.0

log = structlog.get_logger()


@dataclass
class _Server:
    """One region's server: the socket that stays, and the process that may change."""

    region: str
    listener: socket.socket
    process: subprocess.Popen[str] | None = None
    started_s: float = 0.0
    known: set[tuple[str, str]] = field(default_factory=set)
    seen_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen_corrupt: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    talking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def port(self) -> int:
        """The port it serves on, for as long as the data folder lives."""
        return int(self.listener.getsockname()[1])


def signing_key(data: Path) -> bytes:
    """The key, 32 bytes, that signs what machines and their owners may read: `DIR/replica.key`."""
    return secret_file(data / "replica.key")


class ReplicaServers:
    """The replica servers of one data folder. Safe to use from many threads."""

    def __init__(self, settings: Settings, stores: Stores) -> None:
        """Start nothing yet but the thread that watches."""
        self._stores = stores
        self._data = settings.data
        self._cache_bytes = settings.replicas.cache_mib << 20
        self._boots = str(settings.data) if settings.replicas.prefetch else None
        self._cookie_key = signing_key(settings.data)
        self._counters_secret = secrets.token_urlsafe(32)
        self._ports = settings.data / "replica-servers.json"
        self._servers: dict[str, _Server] = {}
        self._work: queue.Queue[tuple[Callable[[], Any], Future[Any]]] = queue.Queue()
        self._closing = threading.Event()
        self._counting = threading.Lock()
        self._unrecorded: Counter[tuple[str, str]] = Counter()
        self._corrupt: set[tuple[str, str, str]] = set()
        # A child gets its death signal when the *thread* that started it ends: this one stays.
        self._watcher = threading.Thread(target=self._watch, name="replica-servers", daemon=True)
        self._watcher.start()

    def start(self, regions: Iterable[str]) -> None:
        """Start the servers of `regions` now: those in which machines read, after a restart."""
        for region in regions:
            self.address(region)

    def address(self, region: str) -> tuple[str, int]:
        """Host and port of the region's server, which is started if it doesn't run.

        Raises `ReplicaServerFailed`.
        """
        return ADDRESS, self._server(region).port

    def url(self, region: str, store: str, tenant_id: str, image_id: str) -> str:
        """Where a replica is read; its server knows the store and the tenant when this returns."""
        server = self._server(region)
        self._teach(server, store, tenant_id)
        return f"http://{ADDRESS}:{server.port}/images/{store}/{tenant_id}/{image_id}"

    def cookie(
        self, region: str, store: str, tenant_id: str, image_id: str, machine: str, expires_at: datetime
    ) -> str:
        """The cookie, `name=value`, that lets `machine` read this replica until `expires_at`."""
        return sign(self._cookie_key, machine, store, tenant_id, image_id, int(expires_at.timestamp()))

    def warm(self, region: str, store: str, tenant_id: str, image_id: str) -> bool:
        """Have what boots of this replica's image read made ready soon: machines are about to come.

        Returns whether that was done in the last minute. It is a favour: when the server does not answer,
        machines find the replica as it is.
        """
        if self._boots is None:
            return False
        try:
            url = urlsplit(self.url(region, store, tenant_id, image_id))
            connection = HTTPConnection(url.netloc, timeout=ASK_TIMEOUT_S)
            try:
                headers = {"Authorization": f"Bearer {self._counters_secret}"}
                connection.request("POST", url.path, headers=headers)
                return connection.getresponse().status == HTTPStatus.OK
            finally:
                connection.close()
        except (OSError, HTTPException, ReplicaServerFailed) as error:
            log.warning("replica is not warmed", store=store, reason=str(error))
            return False

    def counters(self, region: str) -> dict[tuple[str, str], int]:
        """Bytes sent by (store, image id) since the region's process started; nothing if it is down."""
        return {(store, image): sent for store, image, sent in self._ask(region).served}

    def served_bytes(self) -> dict[tuple[str, str], int]:
        """Bytes sent by (store, image id) that `record` has not written into the rows yet."""
        with self._counting:
            self._count()
            return dict(self._unrecorded)

    def record(self, database: Database) -> set[tuple[str, str, str]]:
        """Write what was sent into the replicas' rows (`served_bytes`); call it every few seconds.

        Returns the replicas (store, tenant id, image id) in which reads found bad blocks since the
        last call: `workflows.repair` mends them.
        """
        with self._counting:
            self._count()
            sent, self._unrecorded = self._unrecorded, Counter()
            corrupt, self._corrupt = self._corrupt, set()
        try:
            if sent:
                with database.write() as connection:
                    add_served(connection, sent)
        except Exception:
            with self._counting:
                self._unrecorded += sent
                self._corrupt |= corrupt
            raise
        return corrupt

    def _count(self) -> None:
        """Ask every server, and add what is new since it was last asked."""
        for server in list(self._servers.values()):
            counters = self._ask(server.region)
            for store, image, count in counters.served:
                # A count that fell is that of a new process.
                before = server.seen_bytes[store, image]
                if count != before:
                    self._unrecorded[store, image] += count - before if count > before else count
                server.seen_bytes[store, image] = count
            for store, tenant, image, reads in counters.corrupt:
                if reads != server.seen_corrupt[store, tenant, image]:
                    self._corrupt.add((store, tenant, image))
                server.seen_corrupt[store, tenant, image] = reads

    def pids(self) -> dict[str, int]:
        """The process of every region's server that runs."""
        return {
            region: server.process.pid
            for region, server in self._servers.items()
            if server.process is not None and server.process.poll() is None
        }

    def close(self) -> None:
        """End every server, and the thread that watches them. Ports stay theirs."""
        self._closing.set()
        self._watcher.join()
        for server in self._servers.values():
            end(server.process)
            server.listener.close()

    def _server(self, region: str) -> _Server:
        server = self._servers.get(region)
        if server is None or server.process is None:
            server = self._in_watcher(lambda: self._ensure(region))
        return server

    def _in_watcher(self, work: Callable[[], _Server]) -> _Server:
        done: Future[_Server] = Future()
        if self._closing.is_set():
            raise ReplicaServerFailed("The replica servers are closing.")
        self._work.put((work, done))
        while True:
            with contextlib.suppress(TimeoutError):
                return done.result(timeout=1)
            if not self._watcher.is_alive() and not done.done():
                raise ReplicaServerFailed("The replica servers are closing.")

    def _watch(self) -> None:
        """Start servers when asked to, and again when they died."""
        while not self._closing.is_set():
            try:
                work, done = self._work.get(timeout=WATCH_INTERVAL_S)
            except queue.Empty:
                self._restart_dead()
                continue
            try:
                done.set_result(work())
            except Exception as error:
                done.set_exception(error)

    def _restart_dead(self) -> None:
        for server in list(self._servers.values()):
            if server.process is not None and server.process.poll() is None:
                continue
            if time.monotonic() - server.started_s < RESTART_PAUSE_S:
                continue
            try:
                self._spawn(server)
                log.warning("replica server restarted", region=server.region)
            except Exception as error:
                log.error("replica server does not start", region=server.region, reason=str(error))

    def _ensure(self, region: str) -> _Server:
        server = self._servers.get(region)
        if server is None:
            server = _Server(region, self._listen(region))
        if server.process is None or server.process.poll() is not None:
            try:
                self._spawn(server)
            except Exception:
                if region not in self._servers:
                    server.listener.close()
                raise
        self._servers[region] = server
        return server

    def _listen(self, region: str) -> socket.socket:
        """A socket on the region's old port; on a new one, which is written down, if it has none."""
        ports = json.loads(self._ports.read_text()) if self._ports.exists() else {}
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, ports.get(region, 0)))
        except OSError as error:
            log.error("the region's port is taken", region=region, port=ports[region], reason=error.strerror)
            listener.bind((ADDRESS, 0))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        if ports.get(region) != port:
            draft = self._ports.with_suffix(".draft")
            draft.write_text(json.dumps(ports | {region: port}, indent=2))
            draft.replace(self._ports)
        return listener

    def _spawn(self, server: _Server) -> None:
        end(server.process)
        server.started_s = time.monotonic()
        places = self._places(server.region)
        start = Start(
            parent_pid=os.getpid(),
            listener=server.listener.fileno(),
            cookie_key=self._cookie_key,
            counters_secret=self._counters_secret,
            cache_bytes=self._cache_bytes,
            index=str(self._data / "index"),
            places=places,
            boots=self._boots,
        )
        process = spawn(server.listener)
        with server.talking:
            server.known = {(place.name, tenant) for place in places.stores for tenant in places.keys}
            try:
                tell(process, start, "serving")
            except ReplicaServerFailed:
                end(process)
                raise
            server.process = process

    def _places(self, region: str) -> StorePlaces:
        keys = self._stores.keys
        return StorePlaces(
            stores=[self._stores.place(name) for name in self._stores.names(region)],
            keys={tenant_id: keys.data_key(tenant_id) for tenant_id in keys.tenants()},
        )

    def _teach(self, server: _Server, store: str, tenant_id: str) -> None:
        places = StorePlaces(
            stores=[self._stores.place(store)], keys={tenant_id: self._stores.keys.data_key(tenant_id)}
        )
        for attempt in range(2):
            with server.talking:
                if (store, tenant_id) in server.known or server.process is None:
                    return
                try:
                    tell(server.process, places, "learned")
                    server.known.add((store, tenant_id))
                    return
                except ReplicaServerFailed:
                    if attempt:
                        raise
            self._in_watcher(lambda: self._ensure(server.region))

    def _ask(self, region: str) -> Counters:
        server = self._servers.get(region)
        if server is None or server.process is None:
            return Counters([], [])
        connection = HTTPConnection(ADDRESS, server.port, timeout=ASK_TIMEOUT_S)
        try:
            connection.request(
                "GET", "/counters", headers={"Authorization": f"Bearer {self._counters_secret}"}
            )
            return msgspec.json.decode(connection.getresponse().read(), type=Counters)
        except (OSError, HTTPException, msgspec.MsgspecError) as error:
            log.warning("replica server does not answer", region=region, reason=str(error))
            return Counters([], [])
        finally:
            connection.close()
