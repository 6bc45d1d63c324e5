"""Power: instances of a scale set are started, stopped, restarted and deallocated together."""

from collections.abc import Callable
from typing import Any

from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.providers.compute import machines
from opengallery.providers.compute.scale_sets.batches import change_all, raise_failures, run_held
from opengallery.providers.compute.scale_sets.members import chosen

Switch = Callable[[Work, Resource], str]


def start(work: Work, machine: Resource) -> str:
    """Start a machine."""
    machines.start(work.services, machine)
    return machines.RUNNING


def stop(work: Work, machine: Resource) -> str:
    """Stop a machine, as `powerOff` does."""
    work.services.hypervisor.power_off(machines.machine_id(machine))
    return "stopped"


def deallocate(work: Work, machine: Resource) -> str:
    """Stop a machine, and give back what it uses."""
    work.services.hypervisor.power_off(machines.machine_id(machine))
    return "deallocated"


def restart(work: Work, machine: Resource) -> str:
    """Stop and start a machine."""
    stop(work, machine)
    return start(work, machine)


def switching(name: str, switch: Switch) -> Callable[[Work], None]:
    """What an action of the set does that switches the instances that its body names, or all."""

    def change(work: Work, key: str) -> None:
        def switched(machine: Resource) -> dict[str, Any]:
            if "power" not in machine.private:
                raise ArmError(
                    "OperationNotAllowed",
                    f"Instance '{machine.id.name}' never came up. Reimage it (az vmss reimage), or delete it.",
                    status=409,
                )
            return {"power": switch(work, machine)}

        run_held(work, key, switched)

    def fulfil(work: Work) -> None:
        keys = work.step("choose", choose, work)
        raise_failures(change_all(work, name, keys, change), len(keys))

    return fulfil


def choose(work: Work) -> list[str]:
    """Keys of the instances that the operation's body names; all, but for protected ones, when it names none."""
    with work.services.database.read() as connection:
        found = chosen(connection, work.resource(), work.operation.input)
    return [machine.key for machine in found if not is_protected(machine)]


def is_protected(machine: Resource) -> bool:
    """Whether actions on the whole set pass over the instance."""
    return bool(machine.properties.get("protectionPolicy", {}).get("protectFromScaleSetActions"))
