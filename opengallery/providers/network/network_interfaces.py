"""Network interfaces: `Microsoft.Network/networkInterfaces`.

Each address comes from its subnet, the first free one from the fifth on, as Azure counts; the machine
gets it by DHCP.
Source: Network Interfaces REST API, api-version 2022-01-01.
"""

import ipaddress
import secrets
from typing import Any

from sqlalchemy import func, select

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource, resources
from opengallery.providers.network import NETWORK_VERSIONS, virtual_networks

FIRST_HOST = 4  # Azure keeps the first four addresses of a subnet


class IpConfiguration(Properties):
    """One address of the interface."""

    name: str
    properties: dict[str, Any]


class InterfaceProperties(Properties):
    """What an interface is created with."""

    ip_configurations: list[IpConfiguration]


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    configurations = new.properties["ipConfigurations"]
    if len(configurations) != 1:
        raise invalid_parameter(
            "properties.ipConfigurations",
            "This server gives an interface one address. Give one ipConfiguration.",
        )
    properties = configurations[0]["properties"]
    if "publicIPAddress" in properties:
        address = properties["publicIPAddress"].get("id", "")
        call.linked(address, "ipConfigurations.publicIPAddress", "Microsoft.Network/publicIPAddresses")
    subnet = virtual_networks.subnet_range(call, properties.get("subnet", {}).get("id", ""))
    before = old.properties["ipConfigurations"][0]["properties"].get("privateIPAddress") if old else None
    if before and ipaddress.ip_address(before) in subnet:
        properties["privateIPAddress"] = before
    else:
        properties["privateIPAddress"] = _free_address(call, properties["subnet"]["id"], subnet)
    properties.setdefault("privateIPAllocationMethod", "Dynamic")
    properties["primary"] = True
    if "macAddress" not in new.properties:
        tail = secrets.token_hex(3).upper()
        new.properties["macAddress"] = f"00-0D-3A-{tail[:2]}-{tail[2:4]}-{tail[4:]}"


def _free_address(call: Call, subnet_id: str, subnet: ipaddress.IPv4Network) -> str:
    """The first address of the subnet that no interface has."""
    configuration = resources.c.properties["ipConfigurations"][0]["properties"]
    query = select(configuration["privateIPAddress"].as_string()).where(
        resources.c.type == RESOURCE_TYPE.type.lower(),
        func.lower(configuration["subnet"]["id"].as_string()) == subnet_id.lower(),
    )
    taken = set(call.connection.execute(query).scalars())
    for number in range(FIRST_HOST, subnet.num_addresses - 1):
        if str(subnet[number]) not in taken:
            return str(subnet[number])
    raise ArmError(
        "SubnetIsFull",
        f"Subnet {subnet_id} with address prefix {subnet} does not have an address left. "
        "Delete interfaces that are not used, or take a larger subnet.",
        status=409,
    )


def _refuse_while_used(call: Call, nic: Resource) -> None:
    machine = nic.properties.get("virtualMachine", {}).get("id")
    if machine and call.get(machine) is not None:
        raise ArmError(
            "NicInUse",
            f"Network Interface {nic.id} is used by {machine}. Delete that machine first.",
            status=409,
        )


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/networkInterfaces",
    NETWORK_VERSIONS,
    InterfaceProperties,
    read_only=frozenset({"virtualMachine", "macAddress"}),
    embedded=frozenset({"ipConfigurations"}),
    check=_check,
    before_delete=_refuse_while_used,
)
