"""The roof: settings -> stores -> workflows -> ASGI application, served in one process.

`serve` holds DIR's lock, brings the database to its newest tables, takes unfinished work up again, and
answers until SIGTERM or SIGINT; then it ends its machines and replica servers, and leaves the rest in DIR.
"""

import asyncio
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import structlog
from dbos import DBOS, DBOSConfig
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opengallery.activity_log.recorder import Recorder
from opengallery.arm import access, assignments, operations
from opengallery.arm.auditing import Placement
from opengallery.arm.errors import ArmError
from opengallery.arm.http import ArmEndpoint
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.services import Services
from opengallery.database import Database
from opengallery.hypervisors import trace
from opengallery.hypervisors.machine import Hypervisor, HypervisorError
from opengallery.hypervisors.qemu import Qemu
from opengallery.hypervisors.replay import Replay
from opengallery.identity import refresh_tokens
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.environment import record_endpoint
from opengallery.identity.external_http import external_routes
from opengallery.identity.external_principals import administrators_group, register_administrators
from opengallery.identity.external_tokens import ExternalTokens
from opengallery.identity.first_start import FirstStart, OtherGallery, bootstrap
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.graph.http import GraphEndpoint
from opengallery.identity.http import Discovery, identity_routes
from opengallery.identity.issuer import Issuer, IssuerUnavailable
from opengallery.identity.keys import SigningKeys
from opengallery.identity.permissions import TooOpen, tighten
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import Tokens
from opengallery.providers import load_registry
from opengallery.providers.compute import failover, hydration, machines, network_changes, replicas
from opengallery.providers.compute.boot_diagnostics import BootDiagnosticsEndpoint
from opengallery.providers.compute.disk_downloads import DownloadEndpoint
from opengallery.providers.compute.metadata import streams as metadata_streams
from opengallery.providers.compute.metadata.tokens import Issue
from opengallery.providers.compute.page_blobs import PageBlobEndpoint
from opengallery.providers.compute.scale_sets import automatic_upgrades
from opengallery.regions import REGIONS
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication import placement, upkeep, workflows
from opengallery.replication.stores import Stores
from opengallery.settings import Settings, SettingsError, load_settings

WORKFLOW_VERSION = "2"
"""DBOS recovers only workflows of its own version: raise it when a workflow's steps change."""

log = structlog.get_logger()


class DataFolderInUse(Exception):
    """Another server runs on the same data folder."""


def serve(
    data: Path, port: int | None = None, config: Path | None = None, keep_machines: bool = False
) -> int:
    """Run the server in the foreground until it is told to end. Returns the exit status.

    With `keep_machines`, or if the settings say so, machines run on when it ends.
    """
    _log_to_standard_error()
    os.umask(0o077)  # keys, images and databases are for this user alone, whatever the folder's mode
    try:
        settings = load_settings(data, config, port)
        settings.machines.keep_running |= keep_machines
        with ExitStack() as stack:
            stack.enter_context(_locked(settings.data))
            tighten(settings.data)
            _require_free(settings.port)
            services = build_services(settings)
            stack.callback(services.replica_servers.close)
            application = build_application(services)
            held = stack.pop_all()  # the lock, until the process ends
    except (SettingsError, OtherGallery, DataFolderInUse, TooOpen) as error:
        print(f"gallery serve: {error}", file=sys.stderr)
        return 1
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip()
        print(f"gallery serve: The database can't be used: {reason}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"gallery serve: The data folder {data} can't be used: {error}", file=sys.stderr)
        return 1
    status = 1
    try:
        status = asyncio.run(_run(services, application))
    except (SettingsError, HypervisorError) as error:
        print(f"gallery serve: {error}", file=sys.stderr)
    except Exception:
        log.exception("the server failed")
    with held:
        stop_work(services)
        sys.stdout.flush()
        # Workflows in the middle of a step wait to be taken up by the next server: they and their threads
        # are left as they are.
        os._exit(status)


def build_services(settings: Settings) -> Services:
    """Open the database and everything below ARM. Raises `SettingsError`."""
    if unknown := sorted(settings.regions.keys() - REGIONS.keys()):
        raise SettingsError(
            f"The settings name a region '{unknown[0]}' that there is not. "
            "Give short names, such as [regions.westeurope]."
        )
    database = Database(settings.database)
    database.migrate()
    stores = Stores(settings, database)
    servers = ReplicaServers(settings, stores)
    activity_log = Recorder(database, settings.activity_log, Placement(settings.data))
    return Services(settings, database, stores, servers, _hypervisor(settings, stores), activity_log)


def _hypervisor(settings: Settings, stores: Stores) -> Hypervisor:
    if settings.machines.hypervisor == "replay":
        try:
            # Said now, not by the first machine.
            trace.check(settings.machines.replay_trace)
        except trace.TraceError as error:
            raise SettingsError(f"machines.replay_trace: {error}") from error
        return Replay(
            settings, lambda store, tenant_id, image_id: stores.open(store, tenant_id).open(image_id)
        )
    return Qemu(settings)


def build_application(services: Services) -> Starlette:
    """The ASGI application: sign-in, signed data URLs, and ARM on every other path."""
    settings = services.settings
    first = bootstrap(services.database, settings.data)
    with services.database.write() as connection:
        assignments.ensure_owner(connection, first.tenant_id, first.object_id)
    registry = load_registry()
    operations.bind(services, registry)
    workflows.bind(services.database, services.stores)
    sign_in = _sign_in(services, first)
    arm = ArmEndpoint(services, registry, sign_in.validate, sign_in.authorization_uri)
    application = Starlette(
        routes=[
            *sign_in.routes,
            *PageBlobEndpoint(services).routes(),
            *DownloadEndpoint(services).routes(),
            *BootDiagnosticsEndpoint(services).routes(),
            Route("/{path:path}", arm.answer, methods=["GET", "HEAD", "PUT", "PATCH", "POST", "DELETE"]),
        ],
        exception_handlers={404: _unserved, 405: _unserved},
    )
    application.state.issue = sign_in.issue
    application.state.activity_log = services.activity_log
    return application


@dataclass(frozen=True)
class _SignIn:
    """How callers prove who they are, and the routes that help them to."""

    validate: Callable[[str], Principal | Awaitable[Principal]]
    authorization_uri: str
    routes: list[Route]
    issue: Issue | None  # for machines


def _sign_in(services: Services, first: FirstStart) -> _SignIn:
    """By the own directory, or by an external issuer that takes its place. Raises `SettingsError`."""
    settings, database = services.settings, services.database
    folder = IdentityFolder(settings.data)
    keys = SigningKeys.open(folder)
    tokens = Tokens(database, keys, settings.endpoint)
    if settings.identity.issuer is None:
        checker = SecretChecker()
        routes = [
            *identity_routes(settings.endpoint, database, keys, tokens, checker, folder),
            *GraphEndpoint(
                settings.endpoint,
                database,
                tokens,
                checker,
                _may_administer,
                refresh_tokens.end_all,
                services.activity_log,
                _has_owner,
            ).routes(),
        ]
        return _SignIn(
            tokens.validate,
            f"{settings.endpoint}/{first.tenant_id}",
            routes,
            partial(tokens.issue, version="1.0"),
        )
    try:
        issuer = Issuer(settings.identity.issuer, settings.identity.ca_file)
    except IssuerUnavailable as error:
        raise SettingsError(str(error)) from error
    with database.write() as connection:
        register_administrators(connection, settings.identity, first.tenant_id)
        access.assign(connection, administrators_group(settings.identity).object_id, access.OWNER, "/")
    external = ExternalTokens(database, issuer, settings.identity, settings.endpoint, first.tenant_id)
    discovery = Discovery(settings.endpoint, database, keys, tokens)
    routes = external_routes(settings.endpoint, discovery, issuer, settings.identity)
    return _SignIn(external.authenticate, issuer.url, routes, None)


def _may_administer(connection: Connection, principal: Principal) -> bool:
    """Whether a principal may change the directory of its tenant: whoever could give itself any role."""
    action = "Microsoft.Authorization/elevateAccess/action"
    return access.Assigned(connection, principal).may(action, ResourceId())


def _has_owner(connection: Connection, tenant_id: str) -> bool:
    """Whether a tenant has an owner who can sign in; no role is taken away before the transaction ends."""
    assignments.lock(connection, tenant_id)
    return assignments.has_owner(connection, tenant_id)


async def _unserved(_request: Request, refusal: Exception) -> Response:
    """ARM's error body for a path or method that no route takes."""
    status = getattr(refusal, "status_code", 404)
    code = "MethodNotAllowed" if status == 405 else "InvalidResourceId"
    error = ArmError(code, "No resource has this path, or it takes no such method. Check the request's line.")
    return JSONResponse({"error": error.error()}, status)


def start_work(services: Services) -> None:
    """Start the durable workflows, and take up what an earlier server left unfinished."""
    config: DBOSConfig = {
        "name": "opengallery",
        "system_database_url": services.settings.workflow_database,
        "application_version": WORKFLOW_VERSION,
        # It would log each workflow that stops because its version is deleted; ours log what matters.
        "console_log_level": "CRITICAL",
    }
    DBOS(config=config)
    DBOS.launch()
    services.activity_log.start()
    services.hypervisor.adopt()
    services.replica_servers.start(_read_stores(services))
    operations.resume(services)
    watches = (
        replicas.watch,
        failover.watch,
        hydration.watch,
        network_changes.watch,
        automatic_upgrades.watch,
    )
    for watch in watches:
        threading.Thread(target=watch, args=(services,), name=watch.__module__, daemon=True).start()
    threading.Thread(
        target=upkeep.run,
        args=(services.stores, services.settings.images, services.closing, replicas.repair),
        name="upkeep",
        daemon=True,
    ).start()


def _read_stores(services: Services) -> set[tuple[str, str]]:
    with services.database.read() as connection:
        return {(region, store) for region, store, *_ in placement.read_replicas(connection)}


def _kept_stores(services: Services) -> set[tuple[str, str]]:
    """What machines read that run on without this server, as (region, store)."""
    if not services.settings.machines.keep_running:
        return set()
    with services.database.read() as connection:
        plans = placement.read_plans(connection)
    return {
        (machine.location or "", store)
        for machine in machines.started(services)
        if machine.key in plans
        for store in plans[machine.key].stores
    }


def stop_work(services: Services) -> None:
    """End machines and replica servers. What is unfinished goes on when the server starts again.

    Machines that are kept run on, and so do the replica servers that they read.
    """
    services.closing.set()
    workflows.close()
    with ExitStack() as stack:  # in this order from the last; none is left out when another one fails
        stack.callback(services.replica_servers.close, _kept_stores(services))
        stack.callback(services.hypervisor.close)
        stack.callback(services.replica_servers.record, services.database)
        stack.callback(services.activity_log.close)


async def _run(services: Services, application: Starlette) -> int:
    """Serve until a signal comes. Returns the exit status."""
    from opengallery.listener.tls import Listener

    settings = services.settings
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    ended_in_order = False

    def ready() -> None:
        record_endpoint(settings)
        print(f"ready {settings.endpoint}", flush=True)

    listener = Listener(application, settings)
    start_work(services)
    threading.Thread(
        target=metadata_streams.watch, args=(services, application.state.issue), name="metadata", daemon=True
    ).start()
    try:
        ended_in_order = await listener.run(ended, ready)
    finally:
        services.closing.set()
    return 0 if ended_in_order else 1


def _require_free(port: int) -> None:
    """Raise `SettingsError` when another program listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(
                f"Can't listen on port {port}: {error.strerror}. Choose another by --port."
            ) from error


class _locked:
    """The data folder, made if missing (mode 0700), held by this process alone."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._file: IO[str] | None = None

    def __enter__(self) -> None:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = (self._data / "lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataFolderInUse(
                f"Another server runs on {self._data}. End it, or give another --data folder."
            ) from error

    def __exit__(self, *_exc: object) -> None:
        if self._file is not None:
            self._file.close()


def _log_to_standard_error() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
