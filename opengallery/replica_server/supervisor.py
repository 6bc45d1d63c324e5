"""Starts replica servers when they are needed, one process a region or a store, and keeps them going.

The supervisor holds every listening socket itself: while a server that died is started again, reads
wait in the socket's queue. The port of each server is kept in `DIR/replica-servers.json`, so that
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
from collections.abc import Callable, Collection, Iterable
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
from opengallery.replica_server.handover import Handover, take_over
from opengallery.replica_server.process import ReplicaServerFailed, end, leave, spawn, tell
from opengallery.replica_server.protocol import BACKLOG, Counters, Start
from opengallery.replication.keys import secret_file
from opengallery.replication.places import StorePlaces
from opengallery.replication.progress import add_served
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

ADDRESS = "127.0.0.1"
ASK_TIMEOUT_S = 2
WATCH_INTERVAL_S = 0.1
RESTART_PAUSE_S = 1.0

log = structlog.get_logger()


@dataclass
class _Server:
    """One server: the socket that stays, and the process that may change. `store` is None for a whole region's."""

    name: str
    region: str
    store: str | None
    listener: socket.socket
    handover: Handover | None = None
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
        self._is_one_a_store = settings.replicas.server_for == "store"
        self._cookie_key = signing_key(settings.data)
        self._counters_secret = secrets.token_urlsafe(32)
        self._does_keep = settings.machines.keep_running
        self._handovers = settings.data / "replica-servers"
        self._handovers.mkdir(mode=0o700, exist_ok=True)
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

    def start(self, stores: Iterable[tuple[str, str]]) -> None:
        """Start the servers of these (region, store) now: those that machines read, after a restart.

        Servers that an earlier control plane left serving are succeeded by new ones, or ended.
        """
        for region, store in stores:
            self.address(region, store)
        for path in self._handovers.glob("*.sock"):
            if path.stem not in self._servers and (left := take_over(path)):
                self._succeed(left)
                left.listener.close()
                path.unlink(missing_ok=True)

    def address(self, region: str, store: str) -> tuple[str, int]:
        """Host and port of the server of a store, which is started if it doesn't run.

        Raises `ReplicaServerFailed`.
        """
        return ADDRESS, self._server(region, store).port

    def url(self, region: str, store: str, tenant_id: str, image_id: str) -> str:
        """Where a replica is read; its server knows the store and the tenant when this returns."""
        server = self._server(region, store)
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

    def counters(self, name: str) -> dict[tuple[str, str], int]:
        """Bytes sent by (store, image id) since the server's process started; nothing if it is down."""
        server = self._servers.get(name)
        return {(store, image): sent for store, image, sent in self._ask(server).served} if server else {}

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
            counters = self._ask(server)
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
        """The process of every server that runs, by the name of its region or store."""
        return {
            name: server.process.pid
            for name, server in self._servers.items()
            if server.process is not None and server.process.poll() is None
        }

    def close(self, kept: Collection[tuple[str, str]] = ()) -> None:
        """End every server but those of `kept` (region, store), and the thread that watches them.

        Ports stay theirs.
        """
        names = {store if self._is_one_a_store else region for region, store in kept}
        self._closing.set()
        self._watcher.join()
        for server in self._servers.values():
            if server.name in names and self._does_keep:
                leave(server.process)
            else:
                end(server.process)
                self._handover(server.name).unlink(missing_ok=True)
            server.listener.close()

    def _handover(self, name: str) -> Path:
        return self._handovers / f"{name}.sock"

    def _succeed(self, left: Handover) -> None:
        """End a server of an earlier control plane, and count what it did after that had gone."""
        counters = left.end()
        with self._counting:
            for store, image, count in counters.served:
                self._unrecorded[store, image] += count
            self._corrupt |= {(store, tenant, image) for store, tenant, image, _ in counters.corrupt}

    def _server(self, region: str, store: str) -> _Server:
        server = self._servers.get(store if self._is_one_a_store else region)
        if server is None or server.process is None:
            server = self._in_watcher(lambda: self._ensure(region, store if self._is_one_a_store else None))
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
                log.warning("replica server restarted", server=server.name)
            except Exception as error:
                log.error("replica server does not start", server=server.name, reason=str(error))

    def _ensure(self, region: str, store: str | None) -> _Server:
        name = store or region
        server = self._servers.get(name)
        if server is None:
            left = take_over(self._handover(name)) if self._handover(name).exists() else None
            server = _Server(name, region, store, left.listener if left else self._listen(name), left)
        if server.process is None or server.process.poll() is not None:
            try:
                self._spawn(server)
            except Exception:
                if name not in self._servers:
                    server.listener.close()
                raise
        self._servers[name] = server
        return server

    def _listen(self, name: str) -> socket.socket:
        """A socket on the server's old port; on a new one, which is written down, if it has none."""
        ports = json.loads(self._ports.read_text()) if self._ports.exists() else {}
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, ports.get(name, 0)))
        except OSError as error:
            log.error("the server's port is taken", server=name, port=ports[name], reason=error.strerror)
            listener.bind((ADDRESS, 0))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        if ports.get(name) != port:
            draft = self._ports.with_suffix(".draft")
            draft.write_text(json.dumps(ports | {name: port}, indent=2))
            draft.replace(self._ports)
        return listener

    def _spawn(self, server: _Server) -> None:
        end(server.process)
        server.started_s = time.monotonic()
        places = self._places(server)
        start = Start(
            parent_pid=os.getpid(),
            listener=server.listener.fileno(),
            cookie_key=self._cookie_key,
            counters_secret=self._counters_secret,
            cache_bytes=self._cache_bytes,
            index=str(self._data / "index"),
            places=places,
            boots=self._boots,
            handover=str(self._handover(server.name)) if self._does_keep else None,
        )
        process = spawn(server.listener, self._handovers / server.name)
        with server.talking:
            server.known = {(place.name, tenant) for place in places.stores for tenant in places.keys}
            try:
                tell(process, start, "serving")
            except ReplicaServerFailed:
                end(process)
                raise
            server.process = process
        if server.handover is not None:
            self._succeed(server.handover)
            server.handover = None
            if not self._does_keep:
                self._handover(server.name).unlink(missing_ok=True)

    def _places(self, server: _Server) -> StorePlaces:
        keys = self._stores.keys
        names = [server.store] if server.store else self._stores.names(server.region)
        return StorePlaces(
            stores=[self._stores.place(name) for name in names],
            keys={tenant_id: keys.data_key(tenant_id) for tenant_id in keys.tenants()},
        )

    def _teach(self, server: _Server, store: str, tenant_id: str) -> None:
        if (store, tenant_id) in server.known:
            return
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
            self._in_watcher(lambda: self._ensure(server.region, server.store))

    def _ask(self, server: _Server) -> Counters:
        if server.process is None:
            return Counters([], [])
        connection = HTTPConnection(ADDRESS, server.port, timeout=ASK_TIMEOUT_S)
        try:
            connection.request(
                "GET", "/counters", headers={"Authorization": f"Bearer {self._counters_secret}"}
            )
            return msgspec.json.decode(connection.getresponse().read(), type=Counters)
        except (OSError, HTTPException, msgspec.MsgspecError) as error:
            log.warning("replica server does not answer", server=server.name, reason=str(error))
            return Counters([], [])
        finally:
            connection.close()
