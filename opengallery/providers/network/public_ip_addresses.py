"""Public IP addresses: `Microsoft.Network/publicIPAddresses`.

Each gets a loopback address of its own (127.64.0.0/10), since the machines are on this host.
Source: Public IP Addresses REST API, api-version 2022-01-01.
"""

import ipaddress
from typing import Literal

from msgspec import field
from sqlalchemy import select

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, ResourceType, Sku
from opengallery.arm.resources import Resource, resources
from opengallery.providers.network import NETWORK_VERSIONS
from opengallery.providers.network.uses import user_of

_ADDRESSES = ipaddress.ip_network("127.64.0.0/10")


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
    taken = set(call.connection.execute(query).scalars())
    free = next((str(address) for address in _ADDRESSES.hosts() if str(address) not in taken), None)
    if free is None:
        raise ArmError(
            "PublicIPCountLimitReached", "No address is left. Delete one that is not used.", status=409
        )
    new.properties["ipAddress"] = free


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
