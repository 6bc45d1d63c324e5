"""Replicas: which hold an image, where a machine reads them, what was read, and their repair."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import structlog
from dbos import DBOS
from sqlalchemy import Connection

from opengallery.arm.services import Services
from opengallery.database import now
from opengallery.hypervisors.machine import ReplicaUrl
from opengallery.replica_server.process import ReplicaServerFailed
from opengallery.replication import progress, workflows

RECORD_INTERVAL_S = 5
_COOKIE_LIFE = timedelta(days=365)

log = structlog.get_logger()


def complete(connection: Connection, key: str, region: str | None = None) -> list[progress.Replica]:
    """The replicas (in `region`) that hold a resource's whole image, verified."""
    return [
        replica
        for replica in progress.replicas(connection, key)
        if replica.state == "Completed" and region in (None, replica.region)
    ]


def replica_url(
    services: Services, region: str, store: str, tenant_id: str, image_id: str, reader: str
) -> ReplicaUrl | None:
    """Where `reader` reads a replica, signed for it alone; None when the replica's server does not start."""
    servers = services.replica_servers
    try:
        url = servers.url(region, store, tenant_id, image_id)
    except ReplicaServerFailed as error:
        log.warning("replica can't be read", store=store, reason=str(error))
        return None
    until = now() + _COOKIE_LIFE
    return ReplicaUrl(url, servers.cookie(region, store, tenant_id, image_id, reader, until))


def warm(services: Services, region: str, replicas: Iterable[Sequence[str]]) -> None:
    """Machines are about to read these replicas, (store, tenant id, image id): have ready what boots read."""
    for store, tenant_id, image_id in replicas:
        if (store, image_id) not in services.health.silent:
            services.replica_servers.warm(region, store, tenant_id, image_id)


def record_reads(services: Services) -> None:
    """Add what the replica servers sent to the replicas' counts; repair those in which a read met a bad block."""
    for store, tenant_id, image_id in services.replica_servers.record(services.database):
        log.warning("replica is repaired", store=store, image=image_id)
        repair(store, tenant_id, image_id)


def repair(store: str, tenant_id: str, image_id: str) -> None:
    """Start to bring again what is bad in a replica; `replica_list` shows it as `Repairing` until then."""
    DBOS.start_workflow(workflows.repair, store, tenant_id, image_id)


def watch(services: Services) -> None:
    """Record reads every few seconds, until the server closes."""
    while not services.closing.wait(RECORD_INTERVAL_S):
        try:
            record_reads(services)
        except Exception:
            log.exception("reads could not be recorded")
