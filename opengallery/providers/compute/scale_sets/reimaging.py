"""Reimaging: an instance gets a new disk, or the latest model, or both."""

from collections.abc import Callable
from typing import Any

from opengallery.arm import resources
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.providers.compute import machines
from opengallery.providers.compute.scale_sets import model
from opengallery.providers.compute.scale_sets.batches import change_all, raise_failures, run_held
from opengallery.providers.compute.scale_sets.members import members
from opengallery.providers.compute.scale_sets.power import choose, is_protected
from opengallery.replication import placement, workflows


def reimage(work: Work) -> None:
    """Give the chosen instances a new disk, made from the latest model."""
    keys = work.step("choose", choose, work)
    raise_failures(change_all(work, "reimage", keys, changing(work.key, always=True)), len(keys))


def update_instances(work: Work) -> None:
    """Bring the chosen instances to the latest model; those that have it are left as they are."""
    keys = work.step("choose", choose, work)
    raise_failures(change_all(work, "update", keys, changing(work.key)), len(keys))


def update_all(work: Work) -> list[ArmError]:
    """Bring all instances to the latest model at once (a few at a time), as the policy Automatic does."""
    keys = work.step("find what is behind", behind, work, work.key)
    return change_all(work, "update", keys, changing(work.key))


def behind(work: Work, scale_set_key: str) -> list[str]:
    """Keys of the instances that are not made from the latest model and its image of today."""
    with work.services.database.read() as connection:
        scale_set = resources.get(connection, scale_set_key)
        if scale_set is None:
            return []
        image = model.image_now(work.call(connection), scale_set)
        found = members(connection, scale_set)
    return [
        machine.key
        for machine in found
        if not model.is_latest(scale_set, machine, image) and not is_protected(machine)
    ]


def changing(scale_set_key: str, *, always: bool = False) -> Callable[[Work, str], None]:
    """A change for `change_all`: the latest model, with a new disk when the image is another one, or `always`."""

    def change(work: Work, key: str) -> None:
        drawn_up = _draw_up(work, scale_set_key, key, always)
        if drawn_up is not None:
            run_held(work, key, lambda machine: _renew(work, machine, *drawn_up))

    return change


def _draw_up(work: Work, scale_set_key: str, key: str, always: bool) -> tuple[Resource, bool] | None:
    """The machine as it shall be, and whether its disk is another one; None when it is as it shall be."""
    with work.services.database.write() as connection:
        scale_set, old = resources.get(connection, scale_set_key), resources.get(connection, key)
        if scale_set is None or old is None or old.private.get("renewedBy") == work.operation.id:
            return None
        call = work.call(connection)
        is_held = old.private.get("heldBy") == work.operation.id  # since a crash: it may be half made
        is_latest = model.is_latest(scale_set, old, model.image_now(call, scale_set))
        if is_latest and "power" in old.private and not always and not is_held:
            return None
        new = model.renew(call, scale_set, old, work.operation.id)
    return new, always or new.private["image"]["exactId"] != old.private["image"]["exactId"]


def _renew(work: Work, old: Resource, new: Resource, is_other_disk: bool) -> dict[str, Any] | None:
    services, name = work.services, machines.machine_id(old)
    services.hypervisor.power_off(name)
    if is_other_disk:
        services.hypervisor.delete(name)
    with services.database.write() as connection:
        found = resources.get(connection, old.key, lock=True)
        if found is None or found.state == resources.DELETING:
            return None
        if "power" in found.private:
            new.private["power"] = found.private["power"]
        if is_other_disk:
            placement.release_reader(connection, old.key)
        resources.save(connection, new)
    if is_other_disk:
        machines.choose_replica(services, new)
        workflows.sweep()
    machines.make(services, new)
    power = new.private.get("power", machines.RUNNING)
    if power == machines.RUNNING:
        machines.start(services, new)
    return {"power": power, "renewedBy": work.operation.id}
