"""Replicas of a version: our own addition to the API, `GET {version}/replicas`."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import structlog
from dbos import DBOS
from sqlalchemy import Connection

from opengallery.arm.call import Call
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.database import now
from opengallery.hypervisors.machine import ReplicaUrl
from opengallery.replica_server.process import ReplicaServerFailed
from opengallery.replication import placement, progress, workflows

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
    """Start to bring again what is bad in a replica; `list_replicas` shows it as `Repairing` until then."""
    DBOS.start_workflow(workflows.repair, store, tenant_id, image_id)


def watch(services: Services) -> None:
    """Record reads every few seconds, until the server closes."""
    while not services.closing.wait(RECORD_INTERVAL_S):
        try:
            record_reads(services)
        except Exception:
            log.exception("reads could not be recorded")


def list_replicas(call: Call, version: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    """One entry a replica: where it is, its state and bytes, how many machines read it first, bytes served."""
    record_reads(call.services)
    with call.services.database.read() as connection:
        machines = placement.readers_per_store(connection, version.key)
        return {
            "value": [
                {
                    "region": replica.region,
                    "store": replica.store,
                    "state": _state(replica),
                    "details": replica.details,
                    "bytes": replica.total_bytes,
                    "storedBytes": replica.stored_bytes,
                    "vms": machines.get(replica.store, 0),
                    "bytesServed": replica.served_bytes,
                }
                for replica in progress.replicas(connection, version.key)
            ]
        }


def _state(replica: progress.Replica) -> str:
    """A replica that was complete and is on its way to be so again shows that it has a past."""
    is_mending = replica.state in ("Pending", "Replicating") and replica.details == workflows.REPAIRING
    return "Repairing" if is_mending else replica.state
