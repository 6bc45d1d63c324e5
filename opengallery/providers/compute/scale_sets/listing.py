"""Listing: the instances of a scale set page by page, and what they do, counted."""

from collections import Counter
from typing import Any

from opengallery.arm import operations, paging
from opengallery.arm.call import Call
from opengallery.arm.resources import FAILED, Resource
from opengallery.providers.compute import machines, virtual_machines
from opengallery.providers.compute.scale_sets import model
from opengallery.providers.compute.scale_sets.members import is_flexible, members, page


def list_instances(call: Call, scale_set: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    """One page of the instances; with their views when `$expand` asks for them."""
    size = paging.page_size(call)
    found = page(call.connection, scale_set, paging.after(call), size + 1)
    image = model.image_now(call, scale_set)
    shows_view = "instanceview" in (call.option("$expand") or "").lower()
    body: dict[str, Any] = {
        "value": [_shown(call, scale_set, machine, image, shows_view) for machine in found[:size]]
    }
    if len(found) > size:
        body["nextLink"] = paging.next_link(call, f"{scale_set.id}/virtualMachines", found[size - 1].key)
    return body


def _shown(
    call: Call, scale_set: Resource, machine: Resource, image: str | None, shows_view: bool
) -> dict[str, Any]:
    body = machine.view()
    if is_flexible(scale_set):
        body["instanceId"] = machine.id.name
        body["type"] = machines.INSTANCE_TYPE
        body["id"] = str(scale_set.id.child("virtualMachines", machine.id.name))
    body["properties"]["latestModelApplied"] = model.is_latest(scale_set, machine, image)
    if shows_view:
        body["properties"]["instanceView"] = virtual_machines.instance_view(call, machine)
    return body


def instance_view(call: Call, scale_set: Resource, _body: dict[str, Any]) -> dict[str, Any]:
    """How many instances are in which state; and the state of the set."""
    counts: Counter[str] = Counter()
    for machine in members(call.connection, scale_set):
        counts[f"ProvisioningState/{machine.state.lower()}"] += 1
        counts[f"PowerState/{virtual_machines.power_state(call, machine)}"] += 1
    state = scale_set.state.lower()
    status = {
        "code": f"ProvisioningState/{state}",
        "displayStatus": f"Provisioning {state}",
        "level": "Info",
        "time": scale_set.modified_at.isoformat(),
    }
    if scale_set.state == FAILED:
        error = operations.last_error(call.connection, scale_set.key)
        status |= {"level": "Error"} | ({"message": error["message"]} if error else {})
    return {
        "virtualMachine": {
            "statusesSummary": [{"code": code, "count": number} for code, number in sorted(counts.items())]
        },
        "statuses": [status],
    }
