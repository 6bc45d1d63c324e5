"""Instances of scale sets in Uniform orchestration: `Microsoft.Compute/virtualMachineScaleSets/virtualMachines`.

A machine below its set, named by a number; all that can be done to a virtual machine can be done to it. In
Flexible orchestration an id of this type is another name of the virtual machine.
Source: Virtual Machine Scale Set VMs REST API, api-version 2024-11-01.
"""

from dataclasses import replace
from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Action, Pattern, Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.compute import COMPUTE_VERSIONS, machines, virtual_machines
from opengallery.providers.compute.scale_sets import members, model, removal


class ProtectionPolicy(Properties):
    """What passes over the instance: the set that grows smaller, actions on the whole set."""

    protect_from_scale_in: bool = False
    protect_from_scale_set_actions: bool = False


class InstanceProperties(virtual_machines.MachineProperties):
    """A machine that its set may be told to spare."""

    protection_policy: ProtectionPolicy | None = None


def _check(_call: Call, new: Resource, old: Resource | None) -> None:
    if old is None:
        raise ArmError(
            "OperationNotAllowed",
            "A scale set makes its instances itself. Raise its capacity: az vmss scale --new-capacity COUNT.",
            status=409,
        )
    protection = new.properties.get("protectionPolicy")
    new.properties, new.extra = dict(old.properties), dict(old.extra)
    new.location, new.tags = old.location, old.tags
    if protection is not None:
        new.properties["protectionPolicy"] = protection


def _remove(work: Work) -> None:
    """Delete the instance; the set's capacity follows."""
    failures = removal.remove_instances(work, [work.key])
    if failures:
        raise failures[0]
    if work.id.parent is not None:
        work.step("shrink", removal.shrink, work, work.id.parent.key)


def _stands_for(call: Call, instance_id: ResourceId) -> ResourceId:
    """In Flexible orchestration the virtual machine; the instance's own id for who may not read it."""
    parent = instance_id.parent
    if parent is None or not call.may(f"{machines.INSTANCE_TYPE}/read", instance_id):
        return instance_id
    scale_set = call.get(parent)
    if scale_set is None or not members.is_flexible(scale_set):
        return instance_id
    machine = call.get(members.instance_id(scale_set, instance_id.name))
    return machine.id if machine and members.is_member(scale_set, machine) else instance_id


def _view(call: Call, instance: Resource) -> dict[str, Any]:
    parent = call.get(instance.id.parent) if instance.id.parent else None
    shown = virtual_machines.RESOURCE_TYPE.view(call, instance) if virtual_machines.RESOURCE_TYPE.view else {}
    if parent is not None:
        shown["latestModelApplied"] = model.is_latest(parent, instance, model.image_now(call, parent))
    return shown


def _permission(action: Action) -> Action:
    return replace(action, permission=action.permission.replace(machines.TYPE, machines.INSTANCE_TYPE))


RESOURCE_TYPE = ResourceType(
    machines.INSTANCE_TYPE,
    COMPUTE_VERSIONS,
    InstanceProperties,
    name=Pattern(r"[0-9]{1,9}", "the number that its scale set gave it"),
    envelope={"name": str, "instanceId": str, "sku": dict[str, Any], "zones": list[str]},
    located=False,
    read_only=frozenset({"vmId", "timeCreated", "instanceView", "latestModelApplied"}),
    check=_check,
    remove=_remove,
    view=_view,
    keeps_unnamed=True,
    goes_with_parent=True,
    stands_for=_stands_for,
    actions={verb: _permission(action) for verb, action in virtual_machines.RESOURCE_TYPE.actions.items()},
)
