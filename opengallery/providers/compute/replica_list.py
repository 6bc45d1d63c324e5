"""The replicas of a version: our own addition to the API, `GET {version}/replicas`."""

from typing import Any

from sqlalchemy import Connection

from opengallery.arm.call import Call
from opengallery.arm.resources import Resource
from opengallery.providers.compute import image_data_disks
from opengallery.providers.compute.replicas import record_reads
from opengallery.replication import placement, progress, workflows


def list_replicas(call: Call, version: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    """One entry a replica: where it is, its state and bytes, how many machines read it first, bytes served.

    Those of a data disk come after those of the OS disk, and say their `lun`.
    """
    record_reads(call.services)
    with call.services.database.read() as connection:
        entries = _entries(connection, version.key)
        for lun, owner in sorted(image_data_disks.owner_keys(version).items()):
            entries += [{**entry, "lun": lun} for entry in _entries(connection, owner)]
    return {"value": entries}


def _entries(connection: Connection, owner: str) -> list[dict[str, Any]]:
    machines = placement.readers_per_store(connection, owner)
    return [
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
        for replica in progress.replicas(connection, owner)
    ]


def _state(replica: progress.Replica) -> str:
    """A replica that was complete and is on its way to be so again shows that it has a past."""
    is_mending = replica.state in ("Pending", "Replicating") and replica.details == workflows.REPAIRING
    return "Repairing" if is_mending else replica.state
