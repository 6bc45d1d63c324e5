"""Virtual machine scale sets: `Microsoft.Compute/virtualMachineScaleSets`, flexible orchestration.

The instances are virtual machines of the same group, named after the set; each gets a network
interface of its own. Creating, scaling and deleting make just the difference.
Source: Virtual Machine Scale Sets REST API, api-version 2024-11-01.
"""

import copy
import re
import secrets
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from opengallery.arm import nested, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.arm.validation import converted
from opengallery.providers.compute import COMPUTE_NAME, COMPUTE_VERSIONS, virtual_machines
from opengallery.providers.compute.image_references import refer
from opengallery.providers.compute.os_profiles import OsProfile, hide_password

_MACHINE = virtual_machines.RESOURCE_TYPE.type
_NIC = "Microsoft.Network/networkInterfaces"


class ScaleSetSku(Properties):
    """The size of the machines, and how many there are."""

    name: virtual_machines.VmSize | None = None
    tier: str | None = None
    capacity: Annotated[int, Meta(ge=0, le=1000)] = 0


class StorageProfile(Properties):
    """The disks of each machine."""

    image_reference: virtual_machines.ImageReference
    os_disk: dict[str, Any] = {}


class InstanceOsProfile(OsProfile):
    """Who may sign in to each machine; their names begin with the prefix."""

    computer_name_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,53}$")] | None = None


class InterfaceConfiguration(Properties):
    """A network interface that each machine gets."""

    name: str
    properties: dict[str, Any] = {}


class NetworkProfile(Properties):
    """The network interfaces of each machine."""

    network_interface_configurations: list[InterfaceConfiguration] = []


class MachineProfile(Properties):
    """What each machine is created with."""

    storage_profile: StorageProfile
    os_profile: InstanceOsProfile
    network_profile: NetworkProfile = field(default_factory=NetworkProfile)


class ScaleSetProperties(Properties):
    """What a scale set is created with."""

    virtual_machine_profile: MachineProfile
    orchestration_mode: Literal["Flexible", "Uniform"] = "Uniform"


class InstanceIds(Properties):
    """The body of `delete`: instance ids, or `*` for all."""

    instance_ids: Annotated[list[str], Meta(min_length=1)]


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    if new.properties["orchestrationMode"] != "Flexible":
        raise invalid_parameter(
            "properties.orchestrationMode",
            "This server runs scale sets in Flexible orchestration only. Give --orchestration-mode Flexible.",
        )
    sku = converted(new.extra.get("sku", {}), ScaleSetSku, "sku")
    new.extra["sku"] = {"tier": "Standard", **new.extra.get("sku", {}), "capacity": sku.capacity}
    if old is None or sku.capacity > len(instances(call, old)):
        profile = new.properties["virtualMachineProfile"]
        refer(call, profile["storageProfile"]["imageReference"], new.location or "")
    _hide_password(new, old)
    if old is None:
        new.properties["uniqueId"] = secrets.token_hex(16)


def _hide_password(new: Resource, old: Resource | None) -> None:
    """Treat the profile as a machine's: its password goes out of sight, as its hash."""
    profile = new.properties["virtualMachineProfile"]["osProfile"]
    as_machine = Resource(new.id, properties={"osProfile": profile}, private=new.private)
    hide_password(as_machine, old)
    profile.pop("computerName", None)
    profile.setdefault("computerNamePrefix", re.sub(r"[^A-Za-z0-9-]", "", new.id.name)[:9])


def instances(call: Call, scale_set: Resource) -> list[Resource]:
    """The machines of a scale set, by name."""
    return [
        machine
        for machine in resources.children(call.connection, scale_set.id.group, _MACHINE)
        if machine.properties.get("virtualMachineScaleSet", {}).get("id", "").lower() == scale_set.key
    ]


def _fulfil(work: Work) -> None:
    """Start what is missing to the capacity, or delete what is too many, the newest first."""
    scale_set = work.resource()
    capacity = scale_set.extra["sku"]["capacity"]
    plan = work.step("compare", _compare, work, capacity)
    _delete_machines(work, plan["delete"])
    started = [_start_instance(work, scale_set, name) for name in plan["create"]]
    _wait_for_all(work, started)


def _compare(work: Work, capacity: int) -> dict[str, list[str]]:
    with work.services.database.read() as connection:
        call = work.call(connection)
        found = sorted(instances(call, work.resource()), key=lambda machine: machine.created_at)
    names = [f"{work.id.name}_{secrets.token_hex(4)}" for _ in range(capacity - len(found))]
    return {"create": names, "delete": [str(machine.id) for machine in found[capacity:]]}


def _start_instance(work: Work, scale_set: Resource, name: str) -> str | None:
    """Create one machine with its network interface. Returns its operation's id."""
    profile = copy.deepcopy(scale_set.properties["virtualMachineProfile"])
    references = []
    for configuration in profile.get("networkProfile", {}).get("networkInterfaceConfigurations", []):
        nic = work.id.group.child(_NIC, f"{configuration['name']}-{name.rsplit('_', 1)[-1]}")
        nested.put(
            work, nic, None, {"location": scale_set.location, "properties": configuration["properties"]}
        )
        references.append({"id": str(nic)})
    os_profile = profile["osProfile"]
    prefix = os_profile.pop("computerNamePrefix")
    os_profile["computerName"] = f"{prefix}{name.rsplit('_', 1)[-1]}".replace("_", "")
    body = {
        "location": scale_set.location,
        "tags": scale_set.tags,
        "properties": {
            "hardwareProfile": {"vmSize": scale_set.extra["sku"].get("name", "Standard_D2s_v5")},
            "storageProfile": profile["storageProfile"],
            "osProfile": os_profile,
            "networkProfile": {"networkInterfaces": references},
            "virtualMachineScaleSet": {"id": str(scale_set.id)},
        },
    }
    return nested.put(work, work.id.group.child(_MACHINE, name), None, body)


def _delete_machines(work: Work, machine_ids: list[str]) -> None:
    interfaces = work.step("interfaces", _interfaces, work, machine_ids) if machine_ids else []
    _wait_for_all(work, [nested.delete(work, machine_id) for machine_id in machine_ids])
    for interface in interfaces:
        nested.wait(work, nested.delete(work, interface))


def _interfaces(work: Work, machine_ids: list[str]) -> list[str]:
    with work.services.database.read() as connection:
        found = [resources.get(connection, machine_id) for machine_id in machine_ids]
    return [
        nic["id"]
        for machine in found
        if machine is not None
        for nic in machine.properties["networkProfile"]["networkInterfaces"]
    ]


def _wait_for_all(work: Work, operation_ids: list[str | None]) -> None:
    """Wait for every operation. Raises one error with the failures as its details."""
    failures = []
    for operation_id in operation_ids:
        try:
            nested.wait(work, operation_id)
        except ArmError as failure:
            failures.append(failure)
    if failures:
        raise ArmError(
            "VMScaleSetInstanceFailed",
            f"{len(failures)} of {len(operation_ids)} instances failed: {failures[0].message}",
            status=409,
            details=failures,
        )


def _delete_instances(work: Work) -> None:
    wanted = converted(work.operation.input, InstanceIds, "body").instance_ids
    found = work.step("choose", _choose, work, wanted)
    _delete_machines(work, found)
    work.step("shrink", _shrink, work)


def _choose(work: Work, wanted: list[str]) -> list[str]:
    with work.services.database.read() as connection:
        found = instances(work.call(connection), work.resource())
    names = {name.lower() for name in wanted}
    return [str(machine.id) for machine in found if "*" in names or machine.id.name.lower() in names]


def _shrink(work: Work) -> None:
    """The capacity follows the number of machines that are left."""
    with work.services.database.write() as connection:
        call = work.call(connection)
        scale_set = call.get(work.key)
        if scale_set is not None:
            scale_set.extra["sku"]["capacity"] = len(instances(call, scale_set))
            resources.save(connection, scale_set)


def _check_instances(call: Call, scale_set: Resource, body: dict[str, Any]) -> None:
    wanted = converted(body, InstanceIds, "body").instance_ids
    known = {machine.id.name.lower() for machine in instances(call, scale_set)}
    unknown = [name for name in wanted if name != "*" and name.lower() not in known]
    if unknown:
        raise invalid_parameter(
            "instanceIds",
            f"The scale set has no instance '{unknown[0]}'. List them: az vmss list-instances.",
        )


def _remove(work: Work) -> None:
    _delete_machines(work, work.step("choose", _choose, work, ["*"]))


def _list_instances(call: Call, scale_set: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    return {"value": [_instance(call, scale_set, machine) for machine in instances(call, scale_set)]}


def _instance(call: Call, scale_set: Resource, machine: Resource) -> dict[str, Any]:
    body = machine.view()
    body["instanceId"] = machine.id.name
    body["type"] = f"{scale_set.id.type}/virtualMachines"
    body["id"] = str(scale_set.id.child("virtualMachines", machine.id.name))
    body["properties"]["instanceView"] = virtual_machines.instance_view(call, machine)
    return body


def _instance_view(call: Call, scale_set: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    counts: dict[str, int] = {}
    for machine in instances(call, scale_set):
        code = f"PowerState/{virtual_machines.power_state(call, machine)}"
        counts[code] = counts.get(code, 0) + 1
    summary = [{"code": code, "count": count} for code, count in sorted(counts.items())]
    state = scale_set.state.lower()
    return {
        "virtualMachine": {"statusesSummary": summary},
        "statuses": [
            {"code": f"ProvisioningState/{state}", "displayStatus": f"Provisioning {state}", "level": "Info"}
        ],
    }


def _permission(action: str) -> str:
    return f"Microsoft.Compute/virtualMachineScaleSets/{action}"


RESOURCE_TYPE = ResourceType(
    "Microsoft.Compute/virtualMachineScaleSets",
    COMPUTE_VERSIONS,
    ScaleSetProperties,
    name=COMPUTE_NAME,
    envelope={"sku": ScaleSetSku, "zones": list[str], "identity": dict[str, Any]},
    immutable=frozenset({"orchestrationMode"}),
    read_only=frozenset({"uniqueId"}),
    check=_check,
    fulfil=_fulfil,
    remove=_remove,
    keeps_unnamed=True,
    actions={
        "virtualMachines": Action(_permission("virtualMachines/read"), run=_list_instances, method="GET"),
        "instanceView": Action(_permission("instanceView/read"), run=_instance_view, method="GET"),
        "delete": Action(_permission("delete/action"), fulfil=_delete_instances, check=_check_instances),
    },
)
