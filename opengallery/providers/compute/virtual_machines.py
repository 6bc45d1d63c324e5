"""Virtual machines: `Microsoft.Compute/virtualMachines`.

Creating one tells it which replica of its image to read, makes its disk over that, and starts it.
Source: Virtual Machines REST API, api-version 2024-11-01.
"""

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from msgspec import Meta, field

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.database import now
from opengallery.providers.compute import (
    COMPUTE_NAME,
    COMPUTE_VERSIONS,
    hydration,
    machine_data_disks,
    machine_disks,
    machine_identity,
    machine_ports,
    machines,
    replicas,
    run_command,
)
from opengallery.providers.compute.boot_diagnostics import boot_diagnostics
from opengallery.providers.compute.image_references import ReferredImage, refer
from opengallery.providers.compute.os_profiles import SECRETS, OsProfile, hide_password
from opengallery.providers.compute.sharing.references import is_shared
from opengallery.providers.compute.vm_sizes import SIZES, find_size, granted, view
from opengallery.replication import placement

VmSize = Annotated[str, Meta(pattern=r"^(Standard|Basic)_[A-Za-z0-9_-]{1,64}\Z")]
_NIC = "Microsoft.Network/networkInterfaces"
_SCALE_SET = "Microsoft.Compute/virtualMachineScaleSets"
_UNNAMED: Mapping[int | None, str] = MappingProxyType({})
_POWER = {"running": "VM running", "stopped": "VM stopped", "deallocated": "VM deallocated"}


class HardwareProfile(Properties):
    """The size."""

    vm_size: VmSize


class OsDisk(Properties):
    """The OS disk, made from the image."""

    create_option: str = "FromImage"
    name: Annotated[str, Meta(pattern=rf"^{COMPUTE_NAME.regex}\Z")] | None = None
    caching: str | None = None
    disk_size_gb: Annotated[int, Meta(ge=1, le=4095)] | None = field(name="diskSizeGB", default=None)


class ImageReference(Properties):
    """What the disk is made from."""

    id: str | None = None
    shared_gallery_image_id: str | None = None
    community_gallery_image_id: str | None = None
    publisher: str | None = None
    offer: str | None = None
    sku: str | None = None
    version: str | None = None


class StorageProfile(Properties):
    """The disks."""

    image_reference: ImageReference
    os_disk: OsDisk = field(default_factory=OsDisk)
    data_disks: list[machine_data_disks.MachineDataDisk] | None = None


class Reference(Properties):
    """Another resource: a network interface of the machine, its scale set."""

    id: str


class NetworkProfile(Properties):
    """The network interfaces."""

    network_interfaces: list[Reference] = []


class MachineProperties(Properties):
    """What a machine is created with."""

    hardware_profile: HardwareProfile
    storage_profile: StorageProfile
    os_profile: OsProfile | None = None
    network_profile: NetworkProfile = field(default_factory=NetworkProfile)
    virtual_machine_scale_set: Reference | None = None


def check(
    call: Call, new: Resource, old: Resource | None, disk_names: Mapping[int | None, str] = _UNNAMED
) -> None:
    """The rules of a machine, an instance of a scale set too; a new one is told its image.

    `disk_names` are those of its disks when it is drawn up once more: by lun, of the OS disk under None.
    """
    properties = new.properties
    find_size(properties["hardwareProfile"]["vmSize"])
    if old is None:
        if "osProfile" not in properties:
            raise invalid_parameter(
                "osProfile",
                "A machine from a generalized image needs an osProfile: --admin-username, and a key.",
            )
        image = _image(call, new)
        properties["vmId"] = str(uuid.uuid4())
        properties["timeCreated"] = now().isoformat()
        properties["storageProfile"]["imageReference"]["exactVersion"] = image.exact_id.rsplit("/", 1)[-1]
        disk = properties["storageProfile"]["osDisk"]
        disk["osType"] = image.os_type
        default = f"{new.id.name}_OsDisk_1_{properties['vmId'].replace('-', '')}"
        disk.setdefault("name", disk_names.get(None, default))
        new.private = {
            "image": {
                "owner": image.owner,
                "exactId": image.exact_id,
                "sizeBytes": image.size_bytes,
                "generation": image.generation,
            },
        }
        machine_disks.add_os_disk(call, new, image)
        machine_data_disks.add_data_disks(call, new, image, disk_names)
        _take_over_secrets(call, new)
    else:
        machine_data_disks.keep(new, old)
        if "power" not in old.private and is_shared(properties["storageProfile"]["imageReference"]):
            _image(call, new)  # not made yet: what it was to be made from may be shared no more
    hide_password(new, old)
    machine_identity.check(call, new, old)
    for nic in properties["networkProfile"]["networkInterfaces"]:
        found = call.linked(
            nic["id"], "properties.networkProfile.networkInterfaces", _NIC, action="join/action"
        )
        holder = found.properties.get("virtualMachine", {}).get("id", str(new.id))
        if holder.lower() != new.key and call.get(holder) is not None:
            raise ArmError(
                "NicInUse",
                f"Network Interface {found.id} is used by {holder}. Create another network interface for this machine.",
                target=nic["id"],
                status=409,
            )
        resources.change_properties(call.connection, found.key, virtualMachine={"id": str(new.id)})


def _image(call: Call, machine: Resource) -> ReferredImage:
    reference = machine.properties["storageProfile"]["imageReference"]
    return refer(call, reference, machine.location or "", machine.id.subscription or "")


def _take_over_secrets(call: Call, new: Resource) -> None:
    """An instance is signed in to as its scale set says. Who may change the set may have that."""
    scale_set = new.properties.get("virtualMachineScaleSet")
    if scale_set is not None:
        found = call.once(("scale set", scale_set["id"]), lambda: _writable(call, scale_set["id"]))
        scale_set["id"] = str(found.id)
        new.private |= {name: value for name, value in found.private.items() if name in SECRETS}


def _writable(call: Call, scale_set_id: str) -> Resource:
    found = call.linked(scale_set_id, "properties.virtualMachineScaleSet.id", _SCALE_SET)
    call.authorize(f"{_SCALE_SET}/write", found.id)
    return found


def _create(work: Work) -> None:
    """Choose a replica, make the machine, start it. A machine that is there already is left as it is."""
    machine = work.resource()
    if work.step("is made", _is_made, work):
        _refit(work, machine)
        return
    plan = work.step("choose a replica", machines.choose_replicas, work.services, machine)
    first = plan.stores[0], plan.tenant_id, plan.image_id
    replicas.warm(work.services, machine.location or "", [first])
    work.step("make", machines.make, work.services, machine)
    work.change_private(madeSize=_size(machine), madeWithIdentity="identity" in machine.extra)
    _run(work)


def _refit(work: Work, machine: Resource) -> None:
    """Give a machine that is there the size it should have; one that runs is started anew, as in Azure.

    Its first identity brings a network interface, with the next start.
    """
    is_resized = machine.private.get("madeSize", _size(machine)) != _size(machine)
    has_identity = "identity" in machine.extra
    if not is_resized and machine.private.get("madeWithIdentity", False) == has_identity:
        return
    work.step("make", machines.make, work.services, machine)
    if is_resized and machine.private["power"] == machines.RUNNING:
        _restart(work)
    work.change_private(madeSize=_size(machine), madeWithIdentity=has_identity)


def _size(machine: Resource) -> str:
    return str(machine.properties["hardwareProfile"]["vmSize"])


def _is_made(work: Work) -> bool:
    return "power" in work.resource().private


def _run(work: Work) -> None:
    machine = work.resource()
    work.step("start", machines.start, work.services, machine)
    work.change_private(power=machines.RUNNING)
    work.step("wait for SSH", machine_ports.wait_for_ssh, work.services, [machine])


def _stop(power: str) -> Any:
    def stop(work: Work) -> None:
        machine = work.resource()
        work.step("stop", work.services.hypervisor.power_off, machines.machine_id(machine))
        work.change_private(power=power)

    return stop


def _restart(work: Work) -> None:
    machine = work.resource()
    work.step("stop", work.services.hypervisor.power_off, machines.machine_id(machine))
    _run(work)


def _generalize(call: Call, machine: Resource, _body: dict[str, Any]) -> None:
    """Remember that the guest was made ready to become an image. There is no way back, as in Azure."""
    if power_state(call, machine) == "running":
        raise _not_allowed("generalize", machine, "running. Stop it first: az vm deallocate")
    if "power" not in machine.private:
        raise _not_allowed("generalize", machine, "not made yet. Wait until it is, or create it again")
    resources.change_private(call.connection, machine.key, generalized=True)


def _unless_generalized(operation: str) -> Any:
    """A check that refuses what a generalized machine can't do any more."""

    def check(_call: Call, machine: Resource, _body: dict[str, Any]) -> None:
        if "generalized" in machine.private:
            raise _not_allowed(operation, machine, "generalized. Make an image of it, and machines from that")

    return check


def _not_allowed(operation: str, machine: Resource, reason: str) -> ArmError:
    return ArmError(
        "OperationNotAllowed",
        f"Operation '{operation}' is not allowed on VM '{machine.id.name}' since the VM is {reason}.",
        status=409,
    )


def _remove(work: Work) -> None:
    machine = work.resource()
    work.step("delete", work.services.hypervisor.delete, machines.machine_id(machine))
    work.step("release the replica", machines.release, work.services, machine)
    work.step("delete the disks", machine_disks.forget, work, machine)
    work.step("detach", _detach, work)


def _detach(work: Work) -> None:
    machine = work.resource()
    with work.services.database.write() as connection:
        machine_identity.forget(connection, machine)
        for nic in machine.properties["networkProfile"]["networkInterfaces"]:
            found = resources.get(connection, nic["id"])
            if found and found.properties.get("virtualMachine", {}).get("id", "").lower() == work.key:
                resources.change_properties(connection, found.key, virtualMachine=None)


def power_state(call: Call, machine: Resource) -> str:
    """`running`, `stopped` or `deallocated`, as the hypervisor sees it now."""
    wanted = str(machine.private.get("power", "stopped"))
    if wanted == machines.RUNNING:
        state = call.services.hypervisor.state(machines.machine_id(machine))
        return "running" if state in ("running", "paused") else "stopped"
    return wanted


def instance_view(call: Call, machine: Resource) -> dict[str, Any]:
    """The machine as it is now: its provisioning and power states."""
    power = power_state(call, machine)
    plan = placement.read_plan(call.connection, machine.key)
    code = "succeeded" if machine.state == resources.SUCCEEDED else machine.state.lower()
    vcpus, memory_mib = granted(call.services.settings.machines, _size(machine))
    generalized = [{"code": "OSState/generalized", "level": "Info", "displayStatus": "VM generalized"}]
    return {
        "computerName": machine.properties.get("osProfile", {}).get("computerName"),
        "hyperVGeneration": machine.private["image"]["generation"],
        "hardware": {"vCPUs": vcpus, "memoryMiB": memory_mib},
        "bootDiagnostics": {},
        "imageReplica": {"store": plan.stores[0], "fallbacks": list(plan.stores[1:])} if plan else None,
        "hydration": hydration.view(call.services, machine),
        "ports": machine_ports.view(call.services, machine),
        "statuses": [
            {
                "code": f"ProvisioningState/{code}",
                "level": "Info",
                "displayStatus": f"Provisioning {code}",
                "time": machine.modified_at.isoformat(),
            },
            *(generalized if "generalized" in machine.private else ()),
            {"code": f"PowerState/{power}", "level": "Info", "displayStatus": _POWER[power]},
            *machine_ports.statuses(call.services, machine),
        ],
    }


def _view(call: Call, machine: Resource) -> dict[str, Any]:
    expand = call.option("$expand") or ""
    return {"instanceView": instance_view(call, machine)} if "instanceview" in expand.lower() else {}


def _show_instance_view(call: Call, machine: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    return instance_view(call, machine)


def _list_sizes(_call: Call, _machine: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    return {"value": [view(size) for size in SIZES.values()]}


def _permission(action: str) -> str:
    return f"Microsoft.Compute/virtualMachines/{action}/action"


RESOURCE_TYPE = ResourceType(
    machines.TYPE,
    COMPUTE_VERSIONS,
    MachineProperties,
    name=COMPUTE_NAME,
    envelope={"zones": list[str], "identity": machine_identity.Identity, "plan": dict[str, Any]},
    immutable=frozenset(
        {
            "storageProfile.imageReference.id",
            "storageProfile.imageReference.sharedGalleryImageId",
            "storageProfile.imageReference.communityGalleryImageId",
            "osProfile.computerName",
            "osProfile.adminUsername",
            "virtualMachineScaleSet.id",
        }
    ),
    read_only=frozenset({"vmId", "timeCreated", "instanceView"}),
    check=check,
    fulfil=_create,
    remove=_remove,
    view=_view,
    keeps_unnamed=True,
    actions={
        "start": Action(_permission("start"), fulfil=_run, check=_unless_generalized("Start VM")),
        "powerOff": Action(_permission("powerOff"), fulfil=_stop("stopped")),
        "deallocate": Action(_permission("deallocate"), fulfil=_stop("deallocated")),
        "restart": Action(_permission("restart"), fulfil=_restart, check=_unless_generalized("Restart VM")),
        "runCommand": Action(_permission("runCommand"), check=run_command.check, fulfil=run_command.fulfil),
        "generalize": Action(_permission("generalize"), run=_generalize),
        "retrieveBootDiagnosticsData": Action(
            _permission("retrieveBootDiagnosticsData"), run=boot_diagnostics
        ),
        "vmSizes": Action("Microsoft.Compute/virtualMachines/vmSizes/read", run=_list_sizes, method="GET"),
        "instanceView": Action(
            "Microsoft.Compute/virtualMachines/instanceView/read", run=_show_instance_view, method="GET"
        ),
    },
)
