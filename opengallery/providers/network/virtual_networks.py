"""Virtual networks: `Microsoft.Network/virtualNetworks`, with their subnets.

Source: Virtual Networks REST API, api-version 2022-01-01.
"""

from typing import Any

from opengallery.arm.resource_type import Properties, ResourceType
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


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/virtualNetworks",
    NETWORK_VERSIONS,
    NetworkProperties,
    embedded=frozenset({"subnets"}),
)
