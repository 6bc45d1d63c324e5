"""Replicas of a version: our own addition to the API, `GET {version}/replicas`."""

from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.replication import placement, progress


def count_served(services: Services) -> None:
    """Add what the replica servers sent since they were last asked to the replicas' counts."""
    served = services.replica_servers.served()
    if served.bytes_sent:
        with services.database.write() as connection:
            progress.add_served(connection, served.bytes_sent)


def list_replicas(call: Call, version: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    """One entry a replica: where it is, its state and bytes, how many machines read it first, bytes served."""
    count_served(call.services)
    with call.services.database.read() as connection:
        machines = placement.readers_per_store(connection, version.key)
        return {
            "value": [
                {
                    "region": replica.region,
                    "store": replica.store,
                    "state": replica.state,
                    "bytes": replica.total_bytes,
                    "storedBytes": replica.stored_bytes,
                    "vms": machines.get(replica.store, 0),
                    "bytesServed": replica.served_bytes,
                }
                for replica in progress.replicas(connection, version.key)
            ]
        }
