"""Removal: instances go, with their disks and interfaces."""

from collections.abc import Sequence
from typing import Any

from opengallery.arm import auditing, handling, nested, operation_names, operations, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.providers.compute import machine_disks, machine_identity, machines
from opengallery.providers.compute.scale_sets.batches import batches, change_all, raise_failures
from opengallery.providers.compute.scale_sets.members import ALL, chosen, count
from opengallery.replication import workflows

_NIC = "Microsoft.Network/networkInterfaces"


def check_instances(call: Call, scale_set: Resource, body: dict[str, Any]) -> None:
    """Raise 400 for a body that names no instances, or one that there is not."""
    if not body.get("instanceIds"):
        raise ArmError("InvalidParameter", "Say which: --instance-ids ID..., or '*'.", target="instanceIds")
    chosen(call.connection, scale_set, body)


def delete_instances(work: Work) -> None:
    """Delete the instances that the operation's body names; the capacity follows."""
    keys = work.step("choose", _choose, work, work.operation.input)
    failures = remove_instances(work, keys)
    work.step("shrink", shrink, work, work.key)
    raise_failures(failures, len(keys))


def remove_scale_set(work: Work) -> None:
    """Delete all instances, and end a rolling upgrade that goes through them."""
    work.step("cancel the rolling upgrade", _cancel_upgrade, work)
    keys = work.step("choose", _choose, work, {"instanceIds": [ALL]})
    raise_failures(remove_instances(work, keys), len(keys))
    work.step("delete the identity", _delete_identity, work)


def _delete_identity(work: Work) -> None:
    with work.services.database.write() as connection:
        machine_identity.forget(connection, work.resource())


def _cancel_upgrade(work: Work) -> None:
    with work.services.database.write() as connection:
        operations.cancel(connection, work.id.child("rollingUpgrades", "latest").key)


def _choose(work: Work, body: dict[str, Any]) -> list[str]:
    """Keys of the instances; those that have gone meanwhile are left out."""
    with work.services.database.read() as connection:
        scale_set = work.resource()
        wanted = {name.lower() for name in body["instanceIds"]}
        found = chosen(connection, scale_set, {"instanceIds": [ALL]})
    return [machine.key for machine in found if ALL in wanted or machine.id.name.lower() in wanted]


def shrink(work: Work, scale_set_key: str) -> None:
    """Make the capacity the number of instances that are left."""
    with work.services.database.write() as connection:
        scale_set = resources.get(connection, scale_set_key, lock=True)
        if scale_set is not None:
            scale_set.extra["sku"]["capacity"] = count(connection, scale_set)
            resources.save(connection, scale_set)


def remove_instances(work: Work, keys: Sequence[str]) -> list[ArmError]:
    """Delete instances, whatever they do. Returns what failed."""
    if not keys:
        return []
    found = work.step("look at them", _look, work, keys)
    deleting = [nested.delete(work, key) for key in found["busy"]]
    failures = [failure for operation_id in deleting if (failure := _awaited(work, operation_id))]
    busy = set(found["busy"])
    failures += change_all(work, "delete", [key for key in keys if key not in busy], _delete)
    work.step("delete what nobody reads", workflows.sweep)
    for number, batch in enumerate(batches(found["interfaces"])):
        operation_ids = work.step(f"delete interfaces, batch {number}", _delete_interfaces, work, batch)
        for operation_id in operation_ids:
            operations.launch(operation_id)
        failures += [failure for one in operation_ids if (failure := _awaited(work, one))]
    return failures


def _look(work: Work, keys: Sequence[str]) -> dict[str, list[str]]:
    """The interfaces of the instances; and the instances with an operation of their own, to be canceled."""
    busy, interfaces = [], []
    with work.services.database.read() as connection:
        for key in keys:
            machine = resources.get(connection, key)
            if machine is not None:
                interfaces += [nic["id"] for nic in machine.properties["networkProfile"]["networkInterfaces"]]
                under_way = operations.running(connection, key)
                busy += [key] if under_way is not None and under_way.id != work.operation.id else []
    return {"busy": busy, "interfaces": interfaces}


def _awaited(work: Work, operation_id: str | None) -> ArmError | None:
    try:
        nested.wait(work, operation_id)
    except ArmError as failure:
        return failure
    return None


def _delete(work: Work, key: str) -> None:
    services = work.services
    with services.database.write() as connection:
        machine = resources.get(connection, key, lock=True)
        if machine is None:
            return
        resources.set_state(connection, key, resources.DELETING)
    services.hypervisor.delete(machines.machine_id(machine))
    with services.database.write() as connection:
        machines.release_rows(connection, machine)
        machine_disks.forget_rows(connection, machine)
        machine_identity.forget(connection, machine)
        resources.forget(connection, key)
        if key != work.key:  # else the end of this operation is recorded
            what = operation_names.of_resource(machine.id, "DELETE")
            auditing.record(work.call(connection), what, "DELETE", 200)


def _delete_interfaces(work: Work, interfaces: Sequence[str]) -> list[str]:
    """Delete interfaces, but for those that somebody else uses. Returns operations to be launched."""
    started = []
    with work.services.database.write() as connection:
        call = work.call(connection)
        declared = call.registry.require(_NIC, None)
        for interface in interfaces:
            nic = resources.get(connection, interface)
            holder = nic.properties.get("virtualMachine", {}).get("id") if nic else None
            if nic is None or (holder and resources.get(connection, holder) is not None):
                continue
            answer = handling.delete(call, declared, ResourceId.parse(interface))
            nested.record(call, nic.id, "DELETE", answer)
            started += [answer.operation.id] if answer.operation else []
    return started
