"""Virtual networks: `Microsoft.Network/virtualNetworks`, with their subnets.

Source: Virtual Networks REST API, api-version 2022-01-01.
"""

import ipaddress
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.network import NETWORK_VERSIONS


class AddressSpace(Properties):
    """The ranges of addresses."""

    address_prefixes: list[str]


class Subnet(Properties):
    """A part of the network."""

    name: str
    properties: dict[str, Any] = {}


class NetworkProperties(Properties):
    """What a network is created with."""

    address_space: AddressSpace
    subnets: list[Subnet] = []


def subnet_range(call: Call, subnet_id: str) -> ipaddress.IPv4Network:
    """The addresses of a subnet. Raises 400 for an id that is none, 404 when it isn't there."""
    target = "ipConfigurations.subnet.id"
    wanted = parse_linked(subnet_id, target, f"{RESOURCE_TYPE.type}/subnets")
    call.linked(str(wanted.parent), target, RESOURCE_TYPE.type)
    subnet = find_subnet(call.connection, subnet_id)
    if subnet is not None:
        return subnet
    raise ArmError(
        "InvalidResourceReference",
        f"Resource {subnet_id} was not found. Name one of the subnets of {wanted.parent}.",
        target=target,
        status=404,
    )


def find_subnet(connection: Connection, subnet_id: str) -> ipaddress.IPv4Network | None:
    """The addresses of a subnet, None when it isn't there."""
    wanted = ResourceId.parse(subnet_id)
    network = resources.get(connection, wanted.parent) if wanted.parent else None
    for subnet in network.properties["subnets"] if network else []:
        if subnet["name"].lower() == wanted.name.lower():
            return ipaddress.IPv4Network(_prefix(subnet))
    return None


def _prefix(subnet: dict[str, Any]) -> str:
    properties = subnet.get("properties", {})
    return str(properties.get("addressPrefix") or (properties.get("addressPrefixes") or [""])[0])


def _check(_call: Call, new: Resource, _old: Resource | None) -> None:
    texts = [("addressSpace", text) for text in new.properties["addressSpace"]["addressPrefixes"]]
    texts += [(f"subnets.{subnet['name']}", _prefix(subnet)) for subnet in new.properties["subnets"]]
    for target, text in texts:
        try:
            ipaddress.IPv4Network(text)
        except ValueError as error:
            raise ArmError(
                "InvalidAddressPrefixFormat",
                f"Address prefix '{text}' is not formatted correctly ({error}). Write it like 10.0.0.0/24.",
                target=f"properties.{target}",
            ) from error


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/virtualNetworks",
    NETWORK_VERSIONS,
    NetworkProperties,
    check=_check,
    embedded=frozenset({"subnets"}),
)
