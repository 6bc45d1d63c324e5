"""Machines: from a virtual machine's resource to the machine that the hypervisor runs."""

from collections.abc import Iterator
from datetime import timedelta

import structlog

from opengallery.arm import resources
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.database import now
from opengallery.hypervisors.machine import (
    GuestNetwork,
    HypervisorError,
    MachineSpec,
    NoLiveReplica,
    ReplicaUrl,
)
from opengallery.providers.compute.machine_disks import data_disks
from opengallery.providers.compute.machine_ports import open_ports
from opengallery.providers.compute.os_profiles import seed
from opengallery.providers.compute.vm_sizes import granted
from opengallery.providers.network import virtual_networks
from opengallery.replication import placement
from opengallery.replication.workflows import sweep

TYPE = "Microsoft.Compute/virtualMachines"
INSTANCE_TYPE = "Microsoft.Compute/virtualMachineScaleSets/virtualMachines"
TYPES = (TYPE, INSTANCE_TYPE)
RUNNING = "running"
_COOKIE_LIFE = timedelta(days=365)
_RESUME_INTERVAL_S = 3
_PAGE = 500

log = structlog.get_logger()


def machine_id(machine: Resource) -> str:
    """The hypervisor's name for a virtual machine."""
    return str(machine.properties["vmId"])


def choose_replica(services: Services, machine: Resource) -> placement.ReadPlan:
    """Tell the machine which replica to read: the one in its region that the fewest machines read.

    Asked again, it says the same. Raises 404 when there is none.
    """
    with services.database.write() as connection:
        try:
            return placement.choose_reader(
                connection, machine.key, machine.private["image"]["owner"], machine.location or ""
            )
        except placement.NoReplicaInRegion as error:
            raise ArmError(
                "GalleryImageNotFound",
                f"The gallery image {machine.private['image']['exactId']} is not available in {machine.location} "
                "region. Please contact image owner to replicate to this region, or change your requested region.",
                status=404,
            ) from error


def make(services: Services, machine: Resource) -> None:
    """Make the machine's disk and seed."""
    image = machine.private["image"]
    vcpus, memory_mib = granted(services.settings.machines, machine.properties["hardwareProfile"]["vmSize"])
    services.hypervisor.create(
        MachineSpec(
            machine_id=machine_id(machine),
            generation=image["generation"],
            vcpus=vcpus,
            memory_mib=memory_mib,
            disk_size_bytes=image.get("diskBytes", image["sizeBytes"]),
            seed=seed(machine),
            network=_network(services, machine),
            data_disks=data_disks(machine),
        )
    )


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

    Raises 409 when no replica answers.
    """
    plan = choose_replica(services, machine)
    servers, region, name = services.replica_servers, machine.location or "", machine_id(machine)
    until = now() + _COOKIE_LIFE
    replicas = [
        ReplicaUrl(
            servers.url(region, store, plan.tenant_id, plan.image_id),
            servers.cookie(region, store, plan.tenant_id, plan.image_id, name, until),
        )
        for store in plan.stores
    ]
    try:
        services.hypervisor.start(name, replicas)
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
        placement.release_reader(connection, machine.key)
    sweep()


def watch(services: Services) -> None:
    """Every few seconds let machines go on that were paused, until the server closes."""
    while not services.closing.wait(_RESUME_INTERVAL_S):
        try:
            resume_paused(services)
        except Exception:
            log.exception("paused machines could not be resumed")


def resume_paused(services: Services) -> None:
    """Let every machine go on that was paused because no replica answered.

    If there is still none, it pauses again at its next read: nothing is lost, nothing wrong is read.
    """
    for machine in started(services):
        name = machine_id(machine)
        try:
            if services.hypervisor.state(name) == "paused":
                services.hypervisor.resume(name)
                log.warning("machine goes on", machine=str(machine.id))
        except HypervisorError as error:
            log.warning("machine stays paused", machine=str(machine.id), reason=str(error))


def started(services: Services) -> Iterator[Resource]:
    """The machines that were started and not stopped."""
    after = ""
    while True:
        with services.database.read() as connection:
            found = resources.page(connection, TYPES, ResourceId(), after, _PAGE)
        yield from (machine for machine in found if machine.private.get("power") == RUNNING)
        if len(found) < _PAGE:
            return
        after = found[-1].key
