"""The model: what each instance of a scale set is made from, and whether it is made from the latest."""

import copy
import hashlib
import json
from typing import Any

from opengallery.arm import handling, nested
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import CREATING, UPDATING, Resource
from opengallery.arm.validation import read_resource
from opengallery.database import now
from opengallery.providers.compute import machine_disks, virtual_machines
from opengallery.providers.compute.image_references import refer
from opengallery.providers.compute.os_profiles import SECRETS
from opengallery.providers.compute.scale_sets.members import instance_id, is_flexible
from opengallery.providers.compute.sharing import references

_NIC = "Microsoft.Network/networkInterfaces"
_DEFAULT_SIZE = "Standard_D2s_v5"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KEPT = ("vmId", "timeCreated", "networkProfile")


def revision(scale_set: Resource) -> str:
    """A digest of what instances are made from. Interfaces are not in it: an instance keeps those it got."""
    profile = {
        name: value
        for name, value in scale_set.properties["virtualMachineProfile"].items()
        if name != "networkProfile"
    }
    secrets = {name: scale_set.private.get(name) for name in SECRETS}
    size = scale_set.extra["sku"].get("name")
    made_from = [profile, secrets, size, *(["identity"] if "identity" in scale_set.extra else ())]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def image_now(call: Call, scale_set: Resource) -> str | None:
    """The exact id of the image that the model means today; None when there is none."""
    profile = scale_set.properties["virtualMachineProfile"]["storageProfile"]
    try:
        image = refer(
            call, profile["imageReference"], scale_set.location or "", scale_set.id.subscription or ""
        )
    except ArmError:
        return None
    return image.exact_id


def check_shared(call: Call, scale_set: Resource) -> None:
    """Raise 404 when the model's image was shared beside roles, and is no more: instances that did not come up
    with it don't come up now."""
    reference = scale_set.properties["virtualMachineProfile"]["storageProfile"]["imageReference"]
    if references.is_shared(reference):
        refer(call, reference, scale_set.location or "", scale_set.id.subscription or "")


def is_latest(scale_set: Resource, machine: Resource, image: str | None) -> bool:
    """Whether an instance is made from the latest model, and from `image`, unless that is None."""
    is_same_model = machine.private.get("model") == revision(scale_set)
    return is_same_model and image in (None, machine.private["image"]["exactId"])


def create(call: Call, scale_set: Resource, name: str, holder: str) -> tuple[Resource, list[str]]:
    """A new instance, with new interfaces; and the operations that make these, to be launched.

    `holder` is the operation that brings it up.
    """
    profile = scale_set.properties["virtualMachineProfile"].get("networkProfile", {})
    references, operation_ids = [], []
    for configuration in profile.get("networkInterfaceConfigurations", []):
        suffix = name.rsplit("_", 1)[-1] if is_flexible(scale_set) else f"{scale_set.id.name}_{name}"
        nic = scale_set.id.group.child(_NIC, f"{configuration['name']}-{suffix}")
        body = {"location": scale_set.location, "properties": copy.deepcopy(configuration["properties"])}
        answer = handling.put(call, call.registry.require(_NIC, None), nic, body, parent=holder)
        nested.record(call, nic, "PUT", answer)
        operation_ids += [answer.operation.id] if answer.operation else []
        references.append({"id": str(nic)})
    machine = _drawn_up(call, scale_set, instance_id(scale_set, name), references, holder)
    machine.state = CREATING
    return machine, operation_ids


def renew(call: Call, scale_set: Resource, old: Resource, holder: str) -> Resource:
    """An instance as the model would have it now. It keeps its name, its interfaces, and its power."""
    nics = copy.deepcopy(old.properties["networkProfile"]["networkInterfaces"])
    machine_disks.forget_rows(call.connection, old)  # drawn up again under the same names
    machine = _drawn_up(call, scale_set, old.id, nics, holder, _disk_names(old))
    machine.created_at, machine.created_by, machine.created_by_type = (
        old.created_at,
        old.created_by,
        old.created_by_type,
    )
    machine.properties |= {name: old.properties[name] for name in _KEPT}
    machine.extra |= {name: value for name, value in old.extra.items() if name == "identity"}
    machine.properties["osProfile"]["computerName"] = old.properties["osProfile"]["computerName"]
    if "protectionPolicy" in old.properties:
        machine.properties["protectionPolicy"] = old.properties["protectionPolicy"]
    if "power" in old.private:
        machine.private["power"] = old.private["power"]
    machine.state = UPDATING
    return machine


def _disk_names(machine: Resource) -> dict[int | None, str]:
    """The names of a machine's disks: of the OS disk under None, of a data disk under its lun."""
    profile = machine.properties["storageProfile"]
    return {None: profile["osDisk"]["name"]} | {
        disk["lun"]: disk["name"] for disk in profile.get("dataDisks", []) if "name" in disk
    }


def _drawn_up(
    call: Call,
    scale_set: Resource,
    machine_id: ResourceId,
    nics: list[dict[str, Any]],
    holder: str,
    disk_names: dict[int | None, str] | None = None,
) -> Resource:
    declared = call.registry.require(machine_id.type, None)
    declared.name.check(machine_id.name, declared.type)
    machine = Resource(machine_id, location=scale_set.location)
    machine.created_by = machine.modified_by = call.principal.app_id or call.principal.object_id
    machine.created_at = machine.modified_at = now()
    read_resource(declared, machine, None, _body(scale_set, machine_id.name, nics))
    virtual_machines.check(call, machine, None, disk_names or {})
    machine.private |= {"model": revision(scale_set), "heldBy": holder}
    if not is_flexible(scale_set):
        del machine.properties["virtualMachineScaleSet"]
        name = f"{scale_set.id.name}_{machine_id.name}"
        machine.extra |= {"name": name, "instanceId": machine_id.name, "sku": _sku(scale_set)}
    return machine


def _body(scale_set: Resource, name: str, nics: list[dict[str, Any]]) -> dict[str, Any]:
    profile = copy.deepcopy(scale_set.properties["virtualMachineProfile"])
    os_profile = profile["osProfile"]
    prefix = os_profile.pop("computerNamePrefix")
    suffix = name.rsplit("_", 1)[-1] if is_flexible(scale_set) else _in_base_36(int(name)).rjust(6, "0")
    os_profile["computerName"] = f"{prefix}{suffix}".replace("_", "")
    return {
        "location": scale_set.location,
        "tags": scale_set.tags,
        "properties": {
            "hardwareProfile": {"vmSize": _sku(scale_set)["name"]},
            "storageProfile": profile["storageProfile"],
            "osProfile": os_profile,
            "networkProfile": {"networkInterfaces": nics},
            "virtualMachineScaleSet": {"id": str(scale_set.id)},
        },
    }


def _sku(scale_set: Resource) -> dict[str, Any]:
    return {"name": scale_set.extra["sku"].get("name", _DEFAULT_SIZE), "tier": "Standard"}


def _in_base_36(number: int) -> str:
    digits = _DIGITS[number % 36]
    return digits if number < 36 else _in_base_36(number // 36) + digits
