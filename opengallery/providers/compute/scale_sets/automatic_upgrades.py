"""Automatic upgrades: a newly published image version rolls out by itself, where the upgrade policy wants that.

Every few seconds the server looks whether the model of such a set means a higher version than its instances have,
and begins a rolling upgrade. A version whose upgrade stopped, or was canceled, is not tried again by itself.
"""

import msgspec
import structlog
from sqlalchemy import Connection

from opengallery.arm import operations, resources
from opengallery.arm.call import Call
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.identity.principal import Principal
from opengallery.providers.compute import image_definitions
from opengallery.providers.compute.image_versions import number
from opengallery.providers.compute.scale_sets import model
from opengallery.providers.compute.scale_sets.members import TYPE, members
from opengallery.providers.compute.scale_sets.rolling_upgrades import CANCELED, FAULTED, begin, upgrade_id
from opengallery.providers.compute.scale_sets.upgrade_policy import is_automatic
from opengallery.providers.compute.sharing import references

INTERVAL_S = 3

log = structlog.get_logger()


def watch(services: Services) -> None:
    """Begin what is due every few seconds, until the server closes."""
    while not services.closing.wait(INTERVAL_S):
        try:
            begin_due(services)
        except Exception:
            log.exception("automatic upgrades could not be looked for")


def begin_due(services: Services) -> None:
    """Begin a rolling upgrade of every automatic set that has one due."""
    columns = resources.resources.c
    with services.database.read() as connection:
        found = resources.find(connection, columns.type == TYPE.lower(), columns.state == resources.SUCCEEDED)
        due = [one.key for one in found if _follows_versions(one) and _image_due(connection, one)]
    for key in due:
        with services.database.write() as connection:
            scale_set = resources.get(connection, key, lock=True)
            if scale_set is None or scale_set.state != resources.SUCCEEDED:
                continue
            image = _image_due(connection, scale_set)
            if image is None:
                continue
            if not any(_is_lower(machine, image) for machine in members(connection, scale_set)):
                scale_set.private["rolledOut"] = image
                resources.save(connection, scale_set)
                continue
            operation = begin(_call(connection, scale_set), scale_set)
        log.info("a new image version rolls out", scale_set=key, image=image)
        operations.launch(operation.id)


def _follows_versions(scale_set: Resource) -> bool:
    """Whether the policy is automatic, and the model names an image's latest version: a definition, in most."""
    reference = scale_set.properties["virtualMachineProfile"]["storageProfile"]["imageReference"]
    if references.is_shared(reference):
        return is_automatic(scale_set) and references.follows_versions(reference)
    kind = ResourceId.parse(reference["id"]).type.lower()
    return is_automatic(scale_set) and kind == image_definitions.RESOURCE_TYPE.type.lower()


def _image_due(connection: Connection, scale_set: Resource) -> str | None:
    """The version that instances may have to come to; None when they have it, or an upgrade to it was tried."""
    image = model.image_now(_call(connection, scale_set), scale_set)
    if image is None or image == scale_set.private.get("rolledOut"):
        return None
    upgrade = resources.get(connection, upgrade_id(scale_set.id))
    if upgrade is None:
        return image
    if operations.running(connection, upgrade.key) is not None:
        return None
    was_tried = upgrade.properties["runningStatus"]["code"] in (FAULTED, CANCELED)
    return None if was_tried and upgrade.private.get("target") == image else image


def _is_lower(machine: Resource, image: str) -> bool:
    """Whether the machine has a lower version of the same definition. (An upgrade never goes backwards.)"""
    mine, _, here = machine.private["image"]["exactId"].rpartition("/")
    wanted, _, there = image.rpartition("/")
    return mine.lower() == wanted.lower() and number(here) < number(there)


def _call(connection: Connection, scale_set: Resource) -> Call:
    """A call in the name of who wrote the set last."""
    principal = msgspec.convert(scale_set.private["principal"], Principal)
    return operations.call_as(connection, principal)
