"""Growth: as many instances as the capacity says, no more and no less."""

import secrets
from collections.abc import Sequence
from typing import Any

from opengallery.arm import auditing, operation_names, operations, resources
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.providers.compute import machine_ports, machines, replicas
from opengallery.providers.compute.scale_sets import model
from opengallery.providers.compute.scale_sets.batches import batches, change_batch, run_held
from opengallery.providers.compute.scale_sets.members import instance_id, is_flexible, members
from opengallery.providers.compute.scale_sets.removal import remove_instances


def reach_capacity(work: Work) -> list[ArmError]:
    """Create what is missing to the capacity, or delete what is too many. Returns what failed."""
    plan = work.step("plan", _plan, work)
    failures = remove_instances(work, plan["delete"])
    failures += bring_up_all(work, plan["again"])
    for number, names in enumerate(batches(plan["create"])):
        created = work.step(f"create, batch {number}", _create, work, names)
        replicas.warm(work.services, work.resource().location or "", created.get("replicas", ()))
        for operation_id in created["operations"]:
            operations.launch(operation_id)
        failures += change_batch(work, f"bring up, batch {number}", created["machines"], bring_up)
        if work.is_canceled():
            return failures
    work.step("wait for SSH", _wait_for_ssh, work, plan["create"])
    return failures


def _plan(work: Work) -> dict[str, list[str]]:
    """Names of what to create, keys of what to delete: the newest first; of what never came up, once more."""
    with work.services.database.write() as connection:
        scale_set = resources.get(connection, work.key, lock=True)
        if scale_set is None:
            raise ArmError("OperationPreempted", f"'{work.id}' was deleted meanwhile.", status=409)
        found = sorted(members(connection, scale_set), key=lambda machine: machine.created_at)
        missing = scale_set.extra["sku"]["capacity"] - len(found)
        names = _new_names(scale_set, max(0, missing))
        if names:
            resources.save(connection, scale_set)
    loose = [machine for machine in found if not _is_protected(machine)]
    surplus = loose[max(0, len(loose) + missing) :] if missing < 0 else []
    again = [machine.key for machine in found if "power" not in machine.private and machine not in surplus]
    if again:
        with work.services.database.read() as connection:
            model.check_shared(work.call(connection), scale_set)
    return {"create": names, "delete": [machine.key for machine in surplus], "again": again}


def _is_protected(machine: Resource) -> bool:
    return bool(machine.properties.get("protectionPolicy", {}).get("protectFromScaleIn"))


def _new_names(scale_set: Resource, count: int) -> list[str]:
    """Names that no instance has had: random ones, or the next numbers."""
    if is_flexible(scale_set):
        return [f"{scale_set.id.name}_{secrets.token_hex(4)}" for _ in range(count)]
    first = scale_set.private.get("nextInstanceId", 0)
    scale_set.private["nextInstanceId"] = first + count
    return [str(first + number) for number in range(count)]


def _create(work: Work, names: Sequence[str]) -> dict[str, Any]:
    """Write the instances' rows, and tell each its replica. Those that are there were written before a crash."""
    keys, operation_ids, read = [], [], set()
    with work.services.database.write() as connection:
        call = work.call(connection)
        scale_set = work.resource()
        call.lock(scale_set.id.group.key)
        for name in names:
            machine_id = instance_id(scale_set, name)
            keys.append(machine_id.key)
            if call.get(machine_id) is None:
                machine, started = model.create(call, scale_set, name, work.operation.id)
                resources.add(connection, machine)
                what = operation_names.of_resource(machine.id, "PUT")
                auditing.record(call, what, "PUT", 201, work.operation.id)
                plan = machines.choose_rows(work.services, connection, machine)
                read.add((plan.stores[0], plan.tenant_id, plan.image_id))
                operation_ids += started
    return {"machines": keys, "operations": operation_ids, "replicas": sorted(read)}


def _wait_for_ssh(work: Work, names: Sequence[str]) -> None:
    with work.services.database.read() as connection:
        scale_set = work.resource()
        found = [resources.get(connection, instance_id(scale_set, name)) for name in names]
    machine_ports.wait_for_ssh(
        work.services,
        [one for one in found if one is not None and one.private.get("power") == machines.RUNNING],
    )


def bring_up_all(work: Work, keys: Sequence[str]) -> list[ArmError]:
    """Bring up machines whose rows are written."""
    failures = []
    for number, batch in enumerate(batches(keys)):
        failures += change_batch(work, f"bring up again, batch {number}", batch, bring_up)
    return failures


def bring_up(work: Work, key: str) -> None:
    """Make a machine that was told its replica, and start it, unless that has been done."""

    def change(machine: Resource) -> dict[str, Any]:
        if "power" not in machine.private:
            machines.make(work.services, machine)
            machines.start(work.services, machine)
        return {"power": machine.private.get("power", machines.RUNNING)}

    run_held(work, key, change)
