"""Virtual machine scale sets: `Microsoft.Compute/virtualMachineScaleSets`.

Creating and scaling make just the difference; a changed model goes to the instances as the upgrade policy says.
Source: Virtual Machine Scale Sets REST API, api-version 2024-11-01.
"""

import re
import secrets
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from opengallery.arm import operations, resources
from opengallery.arm.call import Call
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.arm.validation import converted
from opengallery.providers.compute import COMPUTE_NAME, COMPUTE_VERSIONS, machine_identity, virtual_machines
from opengallery.providers.compute.image_references import refer
from opengallery.providers.compute.os_profiles import OsProfile, hide_password
from opengallery.providers.compute.scale_sets import power, reimaging, removal, rolling_upgrades
from opengallery.providers.compute.scale_sets.batches import raise_failures
from opengallery.providers.compute.scale_sets.growth import reach_capacity
from opengallery.providers.compute.scale_sets.listing import instance_view, list_instances
from opengallery.providers.compute.scale_sets.members import TYPE, chosen, count
from opengallery.providers.compute.scale_sets.upgrade_policy import AUTOMATIC, ROLLING, UpgradePolicy
from opengallery.providers.network import network_interfaces


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
    upgrade_policy: UpgradePolicy = field(default_factory=UpgradePolicy)


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    sku = converted(new.extra.get("sku", {}), ScaleSetSku, "sku")
    new.extra["sku"] = {"tier": "Standard", **new.extra.get("sku", {}), "capacity": sku.capacity}
    reference = _reference(new)
    if old is None or sku.capacity > count(call.connection, old) or reference != _reference(old):
        refer(call, reference, new.location or "", new.id.subscription or "")
    _authorize_interfaces(call, new)
    policy = new.properties["upgradePolicy"]
    policy["mode"] = policy["mode"].capitalize()
    _hide_password(new, old)
    machine_identity.check(call, new, old)
    # In the name of who wrote the set last, new image versions roll out.
    new.private["principal"] = msgspec.to_builtins(call.principal)
    new.private.pop("rolledOut", None)
    if old is None:
        new.properties["uniqueId"] = secrets.token_hex(16)


def _authorize_interfaces(call: Call, scale_set: Resource) -> None:
    """What the instances' interfaces will join, the caller must have the right to join now."""
    profile = scale_set.properties["virtualMachineProfile"].get("networkProfile", {})
    for index, configuration in enumerate(profile.get("networkInterfaceConfigurations", [])):
        where = f"properties.virtualMachineProfile.networkProfile.networkInterfaceConfigurations[{index}].properties"
        network_interfaces.authorize_configuration(call, configuration["properties"], where)


def _reference(scale_set: Resource) -> dict[str, Any]:
    reference: dict[str, Any] = scale_set.properties["virtualMachineProfile"]["storageProfile"][
        "imageReference"
    ]
    return reference


def _hide_password(new: Resource, old: Resource | None) -> None:
    """Treat the profile as a machine's: its password goes out of sight, as its hash."""
    profile = new.properties["virtualMachineProfile"]["osProfile"]
    as_machine = Resource(new.id, properties={"osProfile": profile}, private=new.private)
    hide_password(as_machine, old)
    profile.pop("computerName", None)
    profile.setdefault("computerNamePrefix", re.sub(r"[^A-Za-z0-9-]", "", new.id.name)[:9])


def _fulfil(work: Work) -> None:
    """Reach the capacity; then bring the others to the model, as far as the policy wants that."""
    failures = reach_capacity(work)
    mode = work.resource().properties["upgradePolicy"]["mode"]
    if mode == AUTOMATIC:
        failures += reimaging.update_all(work)
    if mode == ROLLING and (upgrade := work.step("begin to upgrade", _begin_upgrade, work)):
        operations.launch(upgrade)
    raise_failures(failures, work.resource().extra["sku"]["capacity"])


def _begin_upgrade(work: Work) -> str | None:
    """Begin a rolling upgrade if instances are behind and none is under way. Returns its operation, to be launched."""
    if not reimaging.behind(work, work.key):
        return None
    with work.services.database.write() as connection:
        scale_set = resources.get(connection, work.key, lock=True)
        if scale_set is None or rolling_upgrades.is_under_way(connection, scale_set):
            return None
        return rolling_upgrades.begin(work.call(connection), scale_set).id


def _check_chosen(call: Call, scale_set: Resource, body: dict[str, Any]) -> None:
    chosen(call.connection, scale_set, body)


def _permission(action: str) -> str:
    return f"{TYPE}/{action}"


def _switching(name: str, switch: power.Switch) -> Action:
    return Action(_permission(f"{name}/action"), fulfil=power.switching(name, switch), check=_check_chosen)


RESOURCE_TYPE = ResourceType(
    TYPE,
    COMPUTE_VERSIONS,
    ScaleSetProperties,
    name=COMPUTE_NAME,
    envelope={"sku": ScaleSetSku, "zones": list[str], "identity": machine_identity.Identity},
    immutable=frozenset({"orchestrationMode"}),
    read_only=frozenset({"uniqueId"}),
    check=_check,
    fulfil=_fulfil,
    remove=removal.remove_scale_set,
    keeps_unnamed=True,
    actions={
        "virtualMachines": Action(_permission("virtualMachines/read"), run=list_instances, method="GET"),
        "instanceView": Action(_permission("instanceView/read"), run=instance_view, method="GET"),
        "start": _switching("start", power.start),
        "powerOff": _switching("powerOff", power.stop),
        "restart": _switching("restart", power.restart),
        "deallocate": _switching("deallocate", power.deallocate),
        "reimage": Action(_permission("reimage/action"), fulfil=reimaging.reimage, check=_check_chosen),
        "reimageAll": Action(_permission("reimageAll/action"), fulfil=reimaging.reimage, check=_check_chosen),
        "manualUpgrade": Action(
            _permission("manualUpgrade/action"),
            fulfil=reimaging.update_instances,
            check=removal.check_instances,
        ),
        "delete": Action(
            _permission("delete/action"), fulfil=removal.delete_instances, check=removal.check_instances
        ),
    },
)
