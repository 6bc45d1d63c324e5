"""Network interfaces: `Microsoft.Network/networkInterfaces`.

Each address comes from its subnet, the first free one from the fifth on, as Azure counts; the machine
gets it by DHCP.
Source: Network Interfaces REST API, api-version 2022-01-01.
"""

import ipaddress
import secrets
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import field
from sqlalchemy import select

from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, invalid_parameter, resource_not_found
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource, resources
from opengallery.arm.validation import converted
from opengallery.providers.network import NETWORK_VERSIONS, nat_ports, virtual_networks
from opengallery.providers.network.public_ip_addresses import take_address

SECURITY_GROUP = "Microsoft.Network/networkSecurityGroups"
FIRST_HOST = 4  # Azure keeps the first four addresses of a subnet


_BALANCER = "Microsoft.Network/loadBalancers"
_BALANCING = {
    "loadBalancerBackendAddressPools": "backendAddressPools",
    "loadBalancerInboundNatPools": "inboundNatPools",
    "loadBalancerInboundNatRules": "inboundNatRules",
}


class Reference(Properties):
    """Another resource."""

    id: str


class ConfigurationProperties(Properties):
    """Where an address comes from."""

    subnet: Reference
    public_ip_address: Reference | None = field(name="publicIPAddress", default=None)
    load_balancer_backend_address_pools: list[Reference] = []
    load_balancer_inbound_nat_pools: list[Reference] = []
    load_balancer_inbound_nat_rules: list[Reference] = []
    private_ip_address: str | None = field(name="privateIPAddress", default=None)
    private_ip_allocation_method: Literal["Dynamic", "Static"] = field(
        name="privateIPAllocationMethod", default="Dynamic"
    )


class IpConfiguration(Properties):
    """One address of the interface."""

    name: str
    properties: ConfigurationProperties


class InterfaceProperties(Properties):
    """What an interface is created with."""

    ip_configurations: list[IpConfiguration]
    network_security_group: Reference | None = None


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    configurations = new.properties["ipConfigurations"]
    if len(configurations) != 1:
        raise invalid_parameter(
            "properties.ipConfigurations",
            "This server gives an interface one address. Give one ipConfiguration.",
        )
    properties = configurations[0]["properties"]
    target = "properties.ipConfigurations[0].properties.publicIPAddress.id"
    take_address(call, new.id, properties, target)
    authorize_balancing(call, properties, "properties.ipConfigurations[0].properties")
    if group := new.properties.get("networkSecurityGroup"):
        target = "properties.networkSecurityGroup.id"
        group["id"] = str(call.linked(group["id"], target, SECURITY_GROUP, action="join/action").id)
    subnet_id, subnet = virtual_networks.linked_subnet(call, properties["subnet"]["id"])
    properties["subnet"]["id"] = str(subnet_id)
    properties["privateIPAddress"] = _address(call, new, old, subnet)
    properties["primary"] = True
    if "macAddress" not in new.properties:
        tail = secrets.token_hex(3).upper()
        new.properties["macAddress"] = f"00-0D-3A-{tail[:2]}-{tail[2:4]}-{tail[4:]}"
    nat_ports.assign(call, new)


def authorize_configuration(call: Call, properties: dict[str, Any], where: str) -> None:
    """Raise unless the caller may make interfaces like a scale set's configuration of one: 400, 403, 404."""
    read = converted(properties, InterfaceProperties, where)
    if group := read.network_security_group:
        call.linked(group.id, f"{where}.networkSecurityGroup.id", SECURITY_GROUP, action="join/action")
    for index, configuration in enumerate(read.ip_configurations):
        place = f"{where}.ipConfigurations[{index}].properties"
        virtual_networks.authorize_joining(call, configuration.properties.subnet.id, f"{place}.subnet.id")
        authorize_balancing(call, msgspec.to_builtins(configuration.properties), place)


def authorize_balancing(call: Call, properties: dict[str, Any], where: str) -> None:
    """Raise unless the caller may join each pool and rule of load balancers that an address names. 400, 403, 404."""
    for member, kind in _BALANCING.items():
        for index, reference in enumerate(properties.get(member, [])):
            target = f"{where}.{member}[{index}].id"
            part = parse_linked(reference["id"], target, f"{_BALANCER}/{kind}")
            call.authorize_linked(f"{_BALANCER}/{kind}/join/action", part, target)
            if part.parent is None or call.known(part.parent) is None:
                error = resource_not_found(part.parent or part)
                error.target = target
                raise error


def _address(call: Call, new: Resource, old: Resource | None, subnet: ipaddress.IPv4Network) -> str:
    """The address that is asked for, the one it has, or the first of the subnet that no interface has."""
    properties = new.properties["ipConfigurations"][0]["properties"]
    before = old.properties["ipConfigurations"][0]["properties"] if old else {}
    kept = before.get("privateIPAddress") if before.get("subnet") == properties["subnet"] else None
    asked = properties.get("privateIPAddress")
    if properties["privateIPAllocationMethod"] == "Static" and asked and asked != kept:
        return _asked_address(call, properties, subnet)
    if kept:
        return str(kept)
    subnet_id = properties["subnet"]["id"]
    free = call.once(("free addresses", subnet_id), lambda: _free(call, subnet_id, subnet))
    if (address := next(free, None)) is not None:
        return address
    raise ArmError(
        "SubnetIsFull",
        f"Subnet {properties['subnet']['id']} with address prefix {subnet} does not have an address left. "
        "Delete interfaces that are not used, or take a larger subnet.",
        status=409,
    )


def _free(call: Call, subnet_id: str, subnet: ipaddress.IPv4Network) -> Iterator[str]:
    """The addresses of a subnet that no interface has, each for the next one of a batch."""
    taken = _taken(call, subnet_id)
    for number in range(FIRST_HOST, subnet.num_addresses - 1):
        if (address := str(subnet[number])) not in taken:
            yield address


def _asked_address(call: Call, properties: dict[str, Any], subnet: ipaddress.IPv4Network) -> str:
    target = "properties.ipConfigurations[0].properties.privateIPAddress"
    asked = str(properties["privateIPAddress"])
    try:
        number = int(ipaddress.IPv4Address(asked)) - int(subnet.network_address)
    except ValueError:
        number = -1
    if not FIRST_HOST <= number < subnet.num_addresses - 1:
        raise ArmError(
            "PrivateIPAddressNotInSubnet",
            f"Private static IP address {asked} does not belong to the range of subnet {subnet} that machines can "
            f"have. Give one from its address number {FIRST_HOST} on, or none.",
            target=target,
        )
    if asked in _taken(call, properties["subnet"]["id"]):
        raise ArmError(
            "PrivateIPAddressInUse",
            f"Private static IP address {asked} is in use by another interface. Give another one, or none.",
            target=target,
        )
    return asked


def _taken(call: Call, subnet_id: str) -> set[str]:
    """The addresses of a subnet that interfaces have."""
    configuration = resources.c.properties["ipConfigurations"][0]["properties"]
    query = select(configuration["privateIPAddress"].as_string()).where(
        resources.c.type == RESOURCE_TYPE.type.lower(),
        configuration["subnet"]["id"].as_string() == subnet_id,
    )
    return set(call.connection.scalars(query))


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
