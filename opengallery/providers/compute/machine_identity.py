"""Machine identities: the `identity` of virtual machines and scale sets.

A system-assigned one is a service principal that is made and deleted in the transaction of its machine's row. A
user-assigned one is a resource of its own. The instances of a scale set have the set's.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta
from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.identity.directory_errors import TooMany
from opengallery.identity.managed_identities import create_managed_identity, delete_managed_identity
from opengallery.providers.managed_identity.user_assigned_identities import TYPE as USER_ASSIGNED

ASSIGNED_MAX = 100
_SYSTEM, _USER = "SystemAssigned", "UserAssigned"


class Identity(Properties):
    """Which kinds of identity there are; user-assigned ones by the ids of their resources."""

    type: Annotated[
        str, Meta(pattern=r"(?i)^(None|(SystemAssigned|UserAssigned)(, ?(System|User)Assigned)?)\Z")
    ]
    user_assigned_identities: Annotated[dict[str, dict[str, Any]], Meta(max_length=ASSIGNED_MAX)] | None = (
        None
    )


def check(call: Call, new: Resource, old: Resource | None) -> None:
    """Make and assign what `identity` asks for, delete what it asks for no more. Raises as `Call.linked`."""
    before: dict[str, Any] = old.extra.get("identity", {}) if old else {}
    wanted = new.extra.pop("identity", None)
    if wanted is None:
        return
    kinds = {kind.strip().lower() for kind in wanted["type"].split(",")}
    identity: dict[str, Any] = {"type": ", ".join(kind for kind in (_SYSTEM, _USER) if kind.lower() in kinds)}
    if _SYSTEM.lower() in kinds:
        identity["principalId"] = before.get("principalId") or _create(call, new)
        identity["tenantId"] = before.get("tenantId", call.principal.tenant_id)
    elif "principalId" in before:
        delete_managed_identity(call.connection, before["principalId"])
    if _USER.lower() in kinds:
        identity["userAssignedIdentities"] = _assigned(call, wanted, before)
    if identity["type"]:
        new.extra["identity"] = identity


def _create(call: Call, machine: Resource) -> str:
    try:
        return create_managed_identity(
            call.connection, call.principal.tenant_id, str(machine.id), is_explicit=False
        ).object_id
    except TooMany as error:
        raise ArmError("DirectoryObjectQuotaExceeded", str(error), status=409, target="identity") from error


def _assigned(call: Call, wanted: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    known = {name.lower(): (name, ids) for name, ids in before.get("userAssignedIdentities", {}).items()}
    assigned: dict[str, Any] = {}
    for text in wanted.get("userAssignedIdentities") or ():
        if text.lower() in known:
            name, ids = known[text.lower()]
        else:
            found = call.linked(
                text, "identity.userAssignedIdentities", USER_ASSIGNED, action="assign/action"
            )
            name = str(found.id)
            ids = {member: found.properties[member] for member in ("principalId", "clientId")}
        assigned[name] = ids
    if not assigned:
        raise invalid_parameter(
            "identity.userAssignedIdentities",
            "The identity's type names UserAssigned, but no identity is given. Give its resource id.",
        )
    return assigned


def forget(connection: Connection, machine: Resource) -> None:
    """The machine goes, and with it the identity that is its own."""
    principal_id = machine.extra.get("identity", {}).get("principalId")
    if principal_id:
        delete_managed_identity(connection, principal_id)


def identities(connection: Connection, machine: Resource) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the machine may act as: its own `identity`, and its scale set's; each with the key of who has it."""
    if "identity" in machine.extra:
        yield machine.key, machine.extra["identity"]
    scale_set = scale_set_id(machine)
    found = resources.get(connection, scale_set) if scale_set else None
    if found is not None and "identity" in found.extra:
        yield found.key, found.extra["identity"]


def scale_set_id(machine: Resource) -> str | None:
    """The id of the scale set that the machine is an instance of, if it is one."""
    if "/" in machine.id.type.partition("/")[2]:
        return str(machine.id.parent)
    reference = machine.properties.get("virtualMachineScaleSet")
    return str(reference["id"]) if reference else None


def has_identity(connection: Connection, machine: Resource) -> bool:
    """Whether the machine may act as anybody."""
    return next(identities(connection, machine), None) is not None
