"""Members: which machines a scale set has, in the order of their numbers or names."""

import re
from typing import Annotated, Any

from msgspec import Meta
from sqlalchemy import ColumnElement, Connection, and_, func, select, tuple_

from opengallery.arm import resources
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.arm.validation import converted
from opengallery.providers.compute import machines

TYPE = "Microsoft.Compute/virtualMachineScaleSets"
ALL = "*"
_COLUMNS = resources.resources.c
_ORDER = (func.length(_COLUMNS.key), _COLUMNS.key)  # 2 before 10


class InstanceIds(Properties):
    """The body of an action: instance ids, or `*` for all; none means all too."""

    instance_ids: Annotated[list[str], Meta(min_length=1)] | None = None


def is_flexible(scale_set: Resource) -> bool:
    """Whether the instances are virtual machines of the group."""
    return bool(scale_set.properties["orchestrationMode"] == "Flexible")


def instance_id(scale_set: Resource, name: str) -> ResourceId:
    """The id of the instance's resource."""
    if is_flexible(scale_set):
        return scale_set.id.group.child(machines.TYPE, name)
    return scale_set.id.child("virtualMachines", name)


def is_member(scale_set: Resource, machine: Resource) -> bool:
    """Whether a machine is an instance of the set."""
    if machine.id.type == machines.INSTANCE_TYPE:
        return machine.id.parent == scale_set.id
    held_by = machine.properties.get("virtualMachineScaleSet", {}).get("id", "")
    return bool(held_by.lower() == scale_set.key)


def members(connection: Connection, scale_set: Resource) -> list[Resource]:
    """All instances."""
    return resources.find(connection, _are_members(scale_set), order_by=_ORDER)


def page(connection: Connection, scale_set: Resource, after: str, size: int) -> list[Resource]:
    """Up to `size` instances that come after the one with the key `after`."""
    is_later = tuple_(*_ORDER) > tuple_(len(after), after)
    return resources.find(connection, _are_members(scale_set), is_later, order_by=_ORDER, limit=size)


def count(connection: Connection, scale_set: Resource) -> int:
    """How many instances there are."""
    query = select(func.count()).select_from(resources.resources).where(_are_members(scale_set))
    return int(connection.execute(query).scalar_one())


def _are_members(scale_set: Resource) -> ColumnElement[bool]:
    if not is_flexible(scale_set):
        return and_(_COLUMNS.type == machines.INSTANCE_TYPE.lower(), _COLUMNS.parent == scale_set.key)
    held_by = _COLUMNS.properties["virtualMachineScaleSet"]["id"].as_string()
    return and_(
        _COLUMNS.type == machines.TYPE.lower(),
        _COLUMNS.parent == scale_set.id.group.key,
        func.lower(held_by) == scale_set.key,
    )


def chosen(connection: Connection, scale_set: Resource, body: dict[str, Any]) -> list[Resource]:
    """The instances that an action's body names. Raises 400 for one that there is not."""
    wanted = converted(body, InstanceIds, "body").instance_ids or [ALL]
    if ALL in wanted:
        return members(connection, scale_set)
    found = []
    for name in wanted:
        is_name = re.fullmatch(r"[\w.-]{1,128}", name)
        machine = resources.get(connection, instance_id(scale_set, name)) if is_name else None
        if machine is None or not is_member(scale_set, machine):
            raise unknown_instance(name)
        found.append(machine)
    return found


def unknown_instance(name: str) -> ArmError:
    """400 for an instance id that the set doesn't have."""
    return invalid_parameter(
        "instanceIds", f"The scale set has no instance '{name}'. List them: az vmss list-instances."
    )
