"""Public IP addresses: `Microsoft.Network/publicIPAddresses`.

Each gets a loopback address of its own (127.64.0.0/10), since the machines are on this host.
Source: Public IP Addresses REST API, api-version 2022-01-01.
"""

import ipaddress
import secrets
from typing import Any, Literal

from msgspec import field
from sqlalchemy import select

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Properties, ResourceType, Sku
from opengallery.arm.resources import Resource, resources
from opengallery.providers.network import NETWORK_VERSIONS
from opengallery.providers.network.uses import user_of

_ADDRESSES = ipaddress.ip_network("127.64.0.0/10")
_ATTEMPTS = 100


class AddressProperties(Properties):
    """What a public address is created with."""

    public_ip_allocation_method: Literal["Static", "Dynamic"] = field(
        name="publicIPAllocationMethod", default="Dynamic"
    )
    public_ip_address_version: Literal["IPv4"] = field(name="publicIPAddressVersion", default="IPv4")


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    if old is not None:
        return
    call.lock(RESOURCE_TYPE.type)
    query = select(resources.c.properties["ipAddress"].as_string()).where(
        resources.c.type == RESOURCE_TYPE.type.lower()
    )
    free = _free_address(set(call.connection.execute(query).scalars()))
    if free is None:
        raise ArmError(
            "PublicIPCountLimitReached", "No address is left. Delete one that is not used.", status=409
        )
    new.properties["ipAddress"] = free


def _free_address(taken: set[str]) -> str | None:
    """Any address that is not taken; not the next, which may have been another machine's just now.

    SSH clients remember the key of a machine's address, and refuse another key.
    """
    for _ in range(_ATTEMPTS):
        address = str(_ADDRESSES[secrets.randbelow(_ADDRESSES.num_addresses - 2) + 1])
        if address not in taken:
            return address
    return next((str(address) for address in _ADDRESSES.hosts() if str(address) not in taken), None)


def take_address(call: Call, user: ResourceId, holder: dict[str, Any], target: str) -> Resource | None:
    """The address that an interface or a frontend names, which must be nobody else's; its id as it was created."""
    if "publicIPAddress" not in holder:
        return None
    address = call.linked(holder["publicIPAddress"]["id"], target, RESOURCE_TYPE.type, action="join/action")
    call.lock(address.key)
    if other := user_of(call, address.id, besides=user):
        raise ArmError(
            "PublicIPAddressInUse",
            f"Resource {user} is referencing public IP address {address.id} that is already allocated to resource "
            f"{other}. Create another address for this one.",
            target=target,
        )
    holder["publicIPAddress"]["id"] = str(address.id)
    return address


def _refuse_while_used(call: Call, address: Resource) -> None:
    if user := user_of(call, address.id):
        raise ArmError(
            "PublicIPAddressCannotBeDeleted",
            f"Public IP address {address.id} can not be deleted since it is still allocated to resource {user}. "
            "Delete that first.",
        )


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/publicIPAddresses",
    NETWORK_VERSIONS,
    AddressProperties,
    envelope={"sku": Sku, "zones": list[str]},
    read_only=frozenset({"ipAddress"}),
    check=_check,
    before_delete=_refuse_while_used,
)
