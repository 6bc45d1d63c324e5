"""Batches: how one operation works on many machines, a few at a time, and goes on after a crash.

A batch is one durable step, so what is done to a machine must be right when it is done again. While a machine
is worked on, it is held: other operations on it are refused, but for its deletion, which wins.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from opengallery.arm import handling, operations, resources
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.hypervisors.machine import HypervisorError
from opengallery.providers.compute import machines

BATCH = 20

Change = Callable[[Work, str], None]


class Ending(Exception):
    """The server ends; the next one does the batch again."""


def batches(keys: Sequence[str], size: int = BATCH) -> Iterable[Sequence[str]]:
    """The keys in groups of `size`, in order."""
    return (keys[start : start + size] for start in range(0, len(keys), size))


def change_all(work: Work, name: str, keys: Sequence[str], change: Change) -> list[ArmError]:
    """Do `change(work, key)` to every machine, batch after batch. Returns why it failed, for those it did."""
    failures: list[ArmError] = []
    for number, batch in enumerate(batches(keys)):
        failures += change_batch(work, f"{name}, batch {number}", batch, change)
    return failures


def change_batch(work: Work, name: str, keys: Sequence[str], change: Change) -> list[ArmError]:
    """The same for one batch: as many at a time as may start at once."""
    failed = work.step(name, _change, work, keys, change)
    return [ArmError.from_error(error) for error in failed]


def _change(work: Work, keys: Sequence[str], change: Change) -> list[dict[str, Any]]:
    def attempt(key: str) -> dict[str, Any] | None:
        if work.services.closing.is_set():
            return None
        try:
            change(work, key)
        except ArmError as failure:
            return failure.error()
        except HypervisorError as failure:
            return ArmError("VMOperationFailed", f"{failure} Look into its qemu.log.", status=409).error()
        return None

    with ThreadPoolExecutor(work.services.settings.machines.starts_at_once) as pool:
        failures = [failure for failure in pool.map(attempt, keys) if failure is not None]
    if work.services.closing.is_set():
        raise Ending
    return failures


def raise_failures(failures: Sequence[ArmError], count: int) -> None:
    """Raise one error with the failures as its details, if there are any."""
    if failures:
        raise ArmError(
            "VMScaleSetInstanceFailed",
            f"{len(failures)} of {count} instances failed: {failures[0].message}",
            status=409,
            details=failures,
        )


def hold(work: Work, key: str) -> Resource | None:
    """Keep other operations off a machine until `settle`. None when it is gone, or going, or this one is canceled.

    Raises 409 while another operation works on it.
    """
    with work.services.database.write() as connection:
        machine = resources.get(connection, key, lock=True)
        if machine is None or machine.state == resources.DELETING:
            return None
        if not operations.is_running(connection, work.operation.id):
            return None
        is_held = machine.private.get("heldBy") == work.operation.id
        busy = None if is_held else handling.worked_on_by(connection, machine)
        if busy is not None:
            raise ArmError(
                "Conflict",
                f"'{machine.id.name}' is in the middle of another operation ({busy.verb}, {busy.id}). "
                "Wait until it has ended, and send the request again.",
                status=409,
            )
        if not is_held:
            machine.private["heldBy"] = work.operation.id
            machine.state = resources.UPDATING
            resources.save(connection, machine)
    return machine


def settle(work: Work, machine: Resource, state: str = resources.SUCCEEDED, **private: Any) -> None:
    """Let a machine go that was held, in its new state.

    One that was deleted meanwhile is made away with once more: it may have come up after that.
    """
    with work.services.database.write() as connection:
        found = resources.get(connection, machine.key, lock=True)
        if found is not None and found.state != resources.DELETING:
            found.private |= private
            found.private.pop("heldBy", None)
            found.state = state
            resources.save(connection, found)
            return
    work.services.hypervisor.delete(machines.machine_id(machine))
    machines.release(work.services, machine)


def run_held(work: Work, key: str, change: Callable[[Resource], dict[str, Any] | None]) -> None:
    """Do `change` to a machine while it is held; it returns members of `private` that are new.

    When it fails the machine is `Failed`, unless the server ends: then the next one does it again.
    """
    machine = hold(work, key)
    if machine is None:
        return
    try:
        private = change(machine)
    except (ArmError, HypervisorError):
        if not work.services.closing.is_set():
            settle(work, machine, resources.FAILED)
        raise
    settle(work, machine, **(private or {}))
