"""Machines: from a virtual machine's resource to the machine that the hypervisor runs."""

from collections.abc import Iterator

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.errors import ArmError
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import (
    GuestNetwork,
    HypervisorError,
    MachineSpec,
    NoLiveReplica,
    ReplicaUrl,
)
from opengallery.providers.compute import machine_data_disks, machine_identity
from opengallery.providers.compute.machine_ports import open_ports
from opengallery.providers.compute.os_profiles import seed
from opengallery.providers.compute.replicas import replica_url
from opengallery.providers.compute.vm_sizes import granted
from opengallery.providers.network import virtual_networks
from opengallery.replication import placement
from opengallery.replication.workflows import sweep

TYPE = "Microsoft.Compute/virtualMachines"
INSTANCE_TYPE = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
TYPES = (TYPE, INSTANCE_TYPE)
RUNNING = "running"
_PAGE = 500


def machine_id(machine: Resource) -> str:
    """The hypervisor's name for a virtual machine."""
    return str(machine.properties["vmId"])


def choose_replica(services: Services, machine: Resource) -> placement.ReadPlan:
    """Tell the machine which replica to read: the one in its region that the fewest machines read.

    Asked again, it says the same. Raises 404 when there is none.
    """
    with services.database.write() as connection:
        return _choose(services, connection, machine)


def choose_replicas(services: Services, machine: Resource) -> placement.ReadPlan:
    """The same for a machine that is about to be made, whose data disks have images to read, too."""
    with services.database.write() as connection:
        return choose_rows(services, connection, machine)


def choose_rows(services: Services, connection: Connection, machine: Resource) -> placement.ReadPlan:
    """The same in a transaction that is open already."""
    plan = _choose(services, connection, machine)
    _choose_data_disks(services, connection, machine)
    return plan


def _choose_data_disks(services: Services, connection: Connection, machine: Resource) -> None:
    try:
        machine_data_disks.choose_replicas(connection, machine, services.health.silent)
    except placement.NoReplicaInRegion as error:
        raise _not_here(machine) from error


def _choose(services: Services, connection: Connection, machine: Resource) -> placement.ReadPlan:
    owner, region = machine.private["image"]["owner"], machine.location or ""
    try:
        return placement.choose_reader(connection, machine.key, owner, region, silent=services.health.silent)
    except placement.NoReplicaInRegion as error:
        raise _not_here(machine) from error


def _not_here(machine: Resource) -> ArmError:
    return ArmError(
        "GalleryImageNotFound",
        f"The gallery image {machine.private['image']['exactId']} is not available in {machine.location} "
        "region. Please contact image owner to replicate to this region, or change your requested region.",
        status=404,
    )


def make(services: Services, machine: Resource) -> None:
    """Make the machine's disks and seed; data disks of its image are copied. Raises 409 when that fails."""
    image = machine.private["image"]
    vcpus, memory_mib = granted(services.settings.machines, machine.properties["hardwareProfile"]["vmSize"])
    with services.database.write() as connection:
        # A crash in the middle of a reimage may have left none chosen.
        _choose_data_disks(services, connection, machine)
        has_identity = machine_identity.has_identity(connection, machine)
    try:
        services.hypervisor.create(
            MachineSpec(
                machine_id=machine_id(machine),
                generation=image["generation"],
                vcpus=vcpus,
                memory_mib=memory_mib,
                disk_size_bytes=image.get("diskBytes", image["sizeBytes"]),
                seed=seed(machine),
                network=_network(services, machine),
                data_disks=machine_data_disks.described(services, machine),
                has_metadata=has_identity,
            )
        )
    except HypervisorError as error:
        raise ArmError(
            "AllocationFailed", f"{error} Mend what it says, and create the machine again.", status=409
        ) from error
    with services.database.write() as connection:
        has_ended = machine_data_disks.end_reading(connection, machine)
    if has_ended:
        sweep()


def _network(services: Services, machine: Resource) -> GuestNetwork | None:
    """The address of the machine's first interface, in its subnet."""
    nics = machine.properties["networkProfile"]["networkInterfaces"]
    if not nics:
        return None
    with services.database.read() as connection:
        nic = resources.get(connection, nics[0]["id"])
        if nic is None:
            return None
        properties = nic.properties["ipConfigurations"][0]["properties"]
        subnet = virtual_networks.find_subnet(connection, properties["subnet"]["id"])
    return GuestNetwork(str(subnet), properties["privateIPAddress"], nic.properties["macAddress"])


def start(services: Services, machine: Resource) -> None:
    """Start the machine over its replicas, in the order it was told, and open its ports.

    Raises 409 when no replica answers. A hydrated machine needs none.
    """
    is_hydrated = services.hypervisor.is_hydrated(machine_id(machine))
    _start(services, machine, [] if is_hydrated else _replicas(services, machine))


def _replicas(services: Services, machine: Resource) -> list[ReplicaUrl]:
    plan = choose_replica(services, machine)
    region, name = machine.location or "", machine_id(machine)
    found = (
        replica_url(services, region, store, plan.tenant_id, plan.image_id, name) for store in plan.stores
    )
    return [replica for replica in found if replica is not None]


def _start(services: Services, machine: Resource, replicas: list[ReplicaUrl]) -> None:
    try:
        services.hypervisor.start(machine_id(machine), replicas)
        open_ports(services, machine, started(services))
    except NoLiveReplica as error:
        raise ArmError(
            "AllocationFailed", f"{error} Repair a replica, and start the machine again.", status=409
        ) from error
    except HypervisorError as error:
        raise ArmError(
            "VMStartFailed", f"{error} Look into its qemu.log, and start it again.", status=409
        ) from error


def release(services: Services, machine: Resource) -> None:
    """The machine reads no more: what was kept only for it goes."""
    with services.database.write() as connection:
        release_rows(connection, machine)
    sweep()


def release_rows(connection: Connection, machine: Resource) -> None:
    """The same in a transaction that is open already; call `sweep` afterwards."""
    placement.release_reader(connection, machine.key)
    machine_data_disks.release(connection, machine)


def started(services: Services) -> Iterator[Resource]:
    """The machines that were started and not stopped."""
    return (machine for machine in every(services) if machine.private.get("power") == RUNNING)


def every(services: Services) -> list[Resource]:
    """All machines. One that did not change is not read again: there may be a thousand, and watchers ask often."""
    known = services.machines
    with services.database.read() as connection:
        etags = resources.etags(connection, TYPES)
        changed = [key for key, etag in etags.items() if key not in known or known[key].etag != etag]
        for start in range(0, len(changed), _PAGE):
            is_changed = resources.resources.c.key.in_(changed[start : start + _PAGE])
            known.update((machine.key, machine) for machine in resources.find(connection, is_changed))
    for key in set(known) - etags.keys():
        known.pop(key, None)
    return [machine for key in etags if (machine := known.get(key))]
