"""Rolling upgrades: `Microsoft.Compute/virtualMachineScaleSets/rollingUpgrades/latest`.

The instances that are behind come to the latest model batch by batch, until all have it, too many are unhealthy,
or it is canceled. It is an operation of its own, so that the set can be scaled meanwhile.
Source: Virtual Machine Scale Set Rolling Upgrades REST API, api-version 2024-11-01.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from opengallery.arm import handling, operations, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, resource_not_found
from opengallery.arm.handling import Answer
from opengallery.arm.operations import Operation, Work
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Action, ResourceType, Route
from opengallery.arm.resources import Resource
from opengallery.database import now
from opengallery.providers.compute import COMPUTE_VERSIONS, machines
from opengallery.providers.compute.scale_sets import model, upgrade_policy
from opengallery.providers.compute.scale_sets.batches import Ending, batches, change_all
from opengallery.providers.compute.scale_sets.members import TYPE, members
from opengallery.providers.compute.scale_sets.reimaging import behind, changing
from opengallery.providers.compute.scale_sets.upgrade_policy import RollingUpgradePolicy

ROLLING_FORWARD, COMPLETED, FAULTED, CANCELED = "RollingForward", "Completed", "Faulted", "Cancelled"
_START = "start"
_ROUTE = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Compute"
    "/virtualMachineScaleSets/{name}"
)


def upgrade_id(scale_set_id: ResourceId) -> ResourceId:
    """The id of a set's latest rolling upgrade."""
    return scale_set_id.child("rollingUpgrades", "latest")


def is_under_way(connection: Connection, scale_set: Resource) -> bool:
    """Whether a rolling upgrade goes through the set now."""
    return operations.running(connection, upgrade_id(scale_set.id).key) is not None


def begin(call: Call, scale_set: Resource) -> Operation:
    """Write the row of a rolling upgrade and of its operation, which is to be launched after the commit.

    Raises 409 while another one is under way.
    """
    target = upgrade_id(scale_set.id)
    if is_under_way(call.connection, scale_set):
        raise ArmError(
            "Conflict",
            f"A rolling upgrade of '{scale_set.id.name}' is under way. Wait until it has ended, or cancel it: "
            "az vmss rolling-upgrade cancel.",
            status=409,
        )
    started_at = now()
    given = upgrade_policy.policy(scale_set).get("rollingUpgradePolicy", {})
    policy = msgspec.convert(given, RollingUpgradePolicy)
    upgrade = Resource(target, location=scale_set.location)
    upgrade.properties = {
        "policy": msgspec.to_builtins(policy),
        "runningStatus": _status(ROLLING_FORWARD, "Start") | {"startTime": started_at.isoformat()},
        "progress": _progress(0, 0, 0),
    }
    upgrade.private = {"target": model.image_now(call, scale_set)}
    resources.save(call.connection, upgrade)
    return operations.begin(call, target, _START)


def _status(code: str, action: str) -> dict[str, Any]:
    return {"code": code, "lastAction": action, "lastActionTime": now().isoformat()}


def _progress(successful: int, failed: int, pending: int) -> dict[str, int]:
    return {
        "successfulInstanceCount": successful,
        "failedInstanceCount": failed,
        "inProgressInstanceCount": 0,
        "pendingInstanceCount": pending,
    }


def _roll(work: Work) -> None:
    scale_set_key = work.key.rpartition("/rollingupgrades/")[0]
    policy = msgspec.convert(work.resource().properties["policy"], RollingUpgradePolicy)
    plan = work.step("plan", _plan, work, scale_set_key, policy)
    keys: list[str] = plan["behind"]
    size = max(1, plan["count"] * policy.max_batch_instance_percent // 100)
    upgraded: list[str] = []
    failed = 0
    refusal = work.step("look before", _look, work, scale_set_key, [], policy)
    for number, batch in enumerate(batches(keys, size)):
        if refusal or work.is_canceled():
            break
        if number:
            work.step(f"pause {number}", _pause, work, policy.pause_s())
            if refusal := work.step(
                f"look after pause {number}", _look, work, scale_set_key, upgraded, policy
            ):
                break
        failed += len(change_all(work, f"upgrade {number}", batch, changing(scale_set_key)))
        upgraded += batch
        progress = _progress(len(upgraded) - failed, failed, len(keys) - len(upgraded))
        work.step(f"record {number}", _record, work, progress)
        refusal = work.step(f"look {number}", _look, work, scale_set_key, upgraded, policy)
    work.step("end", _end, work, refusal)
    if refusal:
        raise ArmError.from_error(refusal)


def _plan(work: Work, scale_set_key: str, policy: RollingUpgradePolicy) -> dict[str, Any]:
    keys = behind(work, scale_set_key)
    with work.services.database.read() as connection:
        scale_set = resources.get(connection, scale_set_key)
        found = members(connection, scale_set) if scale_set else []
    if policy.prioritize_unhealthy_instances:
        healthy = {machine.key for machine in found if _is_healthy(work, machine)}
        keys.sort(key=lambda key: key in healthy)
    with work.services.database.write() as connection:
        resources.change_properties(connection, work.key, progress=_progress(0, 0, len(keys)))
    return {"behind": keys, "count": len(found)}


def _is_healthy(work: Work, machine: Resource) -> bool:
    """Whether the machine does what it should: it runs, or was told not to."""
    if machine.private.get("power") != machines.RUNNING:
        return machine.state != resources.FAILED
    return (
        machine.state != resources.FAILED
        and work.services.hypervisor.state(machines.machine_id(machine)) == "running"
    )


def _look(
    work: Work, scale_set_key: str, upgraded: Sequence[str], policy: RollingUpgradePolicy
) -> dict[str, Any] | None:
    """The error to stop with when too many instances are unhealthy, of the upgraded or of all."""
    with work.services.database.read() as connection:
        scale_set = resources.get(connection, scale_set_key)
        found = members(connection, scale_set) if scale_set else []
    unhealthy = {machine.key for machine in found if not _is_healthy(work, machine)}
    checks = (
        ("MaxUnhealthyUpgradedInstancePercent", upgraded, policy.max_unhealthy_upgraded_instance_percent),
        ("MaxUnhealthyInstancePercent", [one.key for one in found], policy.max_unhealthy_instance_percent),
    )
    for name, keys, percent in checks:
        bad = [key for key in keys if key in unhealthy]
        if len(bad) * 100 > percent * len(keys):
            when = "InRollingUpgrade" if upgraded else "BeforeRollingUpgrade"
            return ArmError(
                f"{name}Exceeded{when}",
                f"The rolling upgrade stopped: {len(bad)} of {len(keys)} instances are unhealthy, more than the "
                f"{percent} % of {name[:1].lower()}{name[1:]} ('{bad[0].rpartition('/')[2]}' is one). See what they "
                "say (az vmss get-instance-view --instance-id ID), mend it, and start the upgrade again: "
                "az vmss rolling-upgrade start.",
                status=409,
            ).error()
    return None


def _pause(work: Work, seconds: int) -> None:
    for _ in range(seconds):
        if work.services.closing.wait(1):
            raise Ending
        if work.is_canceled():
            return


def _record(work: Work, progress: dict[str, int]) -> None:
    if work.is_canceled():
        return
    with work.services.database.write() as connection:
        resources.change_properties(connection, work.key, progress=progress)


def _end(work: Work, refusal: dict[str, Any] | None) -> None:
    if work.is_canceled():
        return
    with work.services.database.write() as connection:
        upgrade = resources.get(connection, work.key, lock=True)
        if upgrade is not None:
            code = FAULTED if refusal else COMPLETED
            status = {**upgrade.properties["runningStatus"], "code": code}
            resources.change_properties(connection, work.key, runningStatus=status, error=refusal)


def _refuse(_call: Call, _new: Resource, _old: Resource | None) -> None:
    raise ArmError(
        "OperationNotAllowed",
        "A rolling upgrade is started and canceled, not written: az vmss rolling-upgrade start.",
        status=409,
    )


def _scale_set(call: Call, parameters: dict[str, str], permission: str) -> Resource:
    scale_set_id = ResourceId(parameters["subscription"], parameters["group"]).child(TYPE, parameters["name"])
    call.authorize(f"{TYPE}/{permission}", scale_set_id)
    call.lock(scale_set_id.group.key)
    found = resources.get(call.connection, scale_set_id, lock=True)
    if found is None:
        raise resource_not_found(scale_set_id)
    return found


def _start(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> Answer:
    operation = begin(call, _scale_set(call, parameters, "osRollingUpgrade/action"))
    return Answer(202, None, handling.asynchronous(call, operation, location=True), operation)


def _cancel(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> Answer:
    """End the upgrade after the machines that it works on now."""
    upgrade = upgrade_id(_scale_set(call, parameters, "rollingUpgrades/action").id)
    found = call.get(upgrade)
    if found is None or operations.running(call.connection, upgrade.key) is None:
        raise ArmError(
            "OperationNotAllowed",
            "No rolling upgrade is under way. See how the latest one ended: az vmss rolling-upgrade get-latest.",
            status=409,
        )
    operations.cancel(call.connection, upgrade.key, "The rolling upgrade was canceled.")
    status = {**found.properties["runningStatus"], **_status(CANCELED, "Cancel")}
    resources.change_properties(call.connection, upgrade.key, runningStatus=status)
    return Answer(200)


ROUTES = (
    Route("POST", f"{_ROUTE}/osRollingUpgrade", COMPUTE_VERSIONS, None, _start),
    Route("POST", f"{_ROUTE}/rollingUpgrades/cancel", COMPUTE_VERSIONS, None, _cancel),
)
RESOURCE_TYPE = ResourceType(
    f"{TYPE}/rollingUpgrades",
    COMPUTE_VERSIONS,
    located=False,
    check=_refuse,
    goes_with_parent=True,
    actions={_START: Action(f"{TYPE}/osRollingUpgrade/action", fulfil=_roll)},
)
