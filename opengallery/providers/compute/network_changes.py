"""Network changes: the ports of running machines follow the network resources, whenever these change."""

from collections.abc import Collection

import structlog
from sqlalchemy import Connection

from opengallery.arm import resources as rows
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.providers.compute import machine_ports, machines

_INTERVAL_S = 2
_NIC = "microsoft.network/networkinterfaces"
_TYPES = (
    _NIC,
    "microsoft.network/loadbalancers",
    "microsoft.network/loadbalancers/inboundnatrules",
    "microsoft.network/networksecuritygroups",
    "microsoft.network/publicipaddresses",
    "microsoft.network/virtualnetworks",
)

log = structlog.get_logger()


def watch(services: Services) -> None:
    """Every few seconds look for changes of the network, and follow them, until the server closes."""
    seen: dict[str, str] = {}
    while not services.closing.wait(_INTERVAL_S):
        try:
            with services.database.read() as connection:
                found = rows.etags(connection, _TYPES)
            changed = {key for key, _ in found.items() ^ seen.items()}
            follow(services, changed)
            seen = found
        except Exception:
            log.exception("the machines' ports could not follow the network")


def follow(services: Services, changed: Collection[str]) -> None:
    """Open and close the ports of running machines, now that the resources with these keys are changed.

    An interface concerns its own machine; everything else may concern any.
    """
    if not changed:
        return
    if all(ResourceId.parse(key).type == _NIC for key in changed):
        with services.database.read() as connection:
            concerned = [machine for key in changed if (machine := _machine_of(connection, key))]
    else:
        concerned = list(machines.started(services))
    # A port may go from one machine to another: all close theirs first.
    for closes in (True, False):
        for machine in concerned:
            machine_ports.update(services, machine, closes=closes)


def _machine_of(connection: Connection, nic_key: str) -> Resource | None:
    """The machine of an interface, if it was started."""
    nic = rows.get(connection, nic_key)
    machine_id = nic.properties.get("virtualMachine", {}).get("id") if nic else None
    machine = rows.get(connection, machine_id) if machine_id else None
    return machine if machine and machine.private.get("power") == machines.RUNNING else None
