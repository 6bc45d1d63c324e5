"""Virtual networks: `Microsoft.Network/virtualNetworks`, with their subnets.

Source: Virtual Networks REST API, api-version 2022-01-01.
"""

import ipaddress
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, resource_not_found
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.network import NETWORK_VERSIONS
from opengallery.providers.network.uses import user_of

_GROUP = "Microsoft.Network/networkSecurityGroups"


class AddressSpace(Properties):
    """The ranges of addresses."""

    address_prefixes: list[str]


class Reference(Properties):
    """Another resource."""

    id: str


class SubnetProperties(Properties):
    """A subnet's addresses, one prefix written in either way; and its security group."""

    address_prefix: str | None = None
    address_prefixes: list[str] | None = None
    network_security_group: Reference | None = None


class Subnet(Properties):
    """A part of the network."""

    name: str
    properties: SubnetProperties


class NetworkProperties(Properties):
    """What a network is created with."""

    address_space: AddressSpace
    subnets: list[Subnet] = []


def linked_subnet(call: Call, subnet_id: str) -> tuple[ResourceId, ipaddress.IPv4Network]:
    """The id of a subnet as it was created, and its addresses, which nobody else takes until the transaction ends.

    Raises 400 for an id that is none, 403 and 404 as for every linked resource.
    """
    target = "properties.ipConfigurations[0].properties.subnet.id"
    wanted = authorize_joining(call, subnet_id, target)
    network = call.once(("network", wanted.parent), lambda: _locked(call, wanted, target))
    for subnet in network.properties["subnets"]:
        if subnet["name"].lower() == wanted.name.lower():
            return network.id.child("subnets", subnet["name"]), ipaddress.IPv4Network(_prefix(subnet))
    raise ArmError(
        "InvalidResourceReference",
        f"Resource {subnet_id} was not found. Name one of the subnets of {network.id}.",
        target=target,
        status=404,
    )


def authorize_joining(call: Call, subnet_id: str, target: str) -> ResourceId:
    """The id of a subnet that the caller may put interfaces into. Raises 400 and 403."""
    wanted = parse_linked(subnet_id, target, f"{RESOURCE_TYPE.type}/subnets")
    call.authorize_linked(f"{RESOURCE_TYPE.type}/subnets/join/action", wanted, target)
    return wanted


def _locked(call: Call, subnet_id: ResourceId, target: str) -> Resource:
    assert subnet_id.parent is not None
    network = resources.get(call.connection, subnet_id.parent, lock=True)
    if network is None:
        error = resource_not_found(subnet_id.parent)
        error.target = target
        raise error
    return network


def find_subnet(connection: Connection, subnet_id: str) -> ipaddress.IPv4Network | None:
    """The addresses of a subnet, None when it isn't there."""
    wanted = ResourceId.parse(subnet_id)
    network = resources.get(connection, wanted.parent) if wanted.parent else None
    for subnet in network.properties["subnets"] if network else []:
        if subnet["name"].lower() == wanted.name.lower():
            return ipaddress.IPv4Network(_prefix(subnet))
    return None


def _prefix(subnet: dict[str, Any]) -> str:
    properties = subnet["properties"]
    return str(properties.get("addressPrefix") or (properties.get("addressPrefixes") or [""])[0])


def _range(text: str, target: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ArmError(
            "InvalidAddressPrefixFormat",
            f"Address prefix '{text}' is not formatted correctly ({error}). Write it like 10.0.0.0/24.",
            target=target,
        ) from error


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    prefixes = new.properties["addressSpace"]["addressPrefixes"]
    space = [_range(text, "properties.addressSpace.addressPrefixes") for text in prefixes]
    taken: dict[str, ipaddress.IPv4Network] = {}
    for subnet in new.properties["subnets"]:
        name, target = subnet["name"], f"properties.subnets.{subnet['name']}"
        addresses = _range(_prefix(subnet), target)
        if name.lower() in taken:
            raise ArmError(
                "InvalidParameter",
                f"The subnet '{name}' is given twice. Give each a name of its own.",
                target=target,
            )
        if not any(addresses.subnet_of(part) for part in space):
            raise ArmError(
                "NetcfgSubnetRangeOutsideVnet",
                f"Subnet '{name}' ({addresses}) is not in the address space {', '.join(map(str, space))} of "
                f"'{new.id.name}'. Choose a part of that.",
                target=target,
            )
        if other := next((other for other, range_ in taken.items() if range_.overlaps(addresses)), None):
            raise ArmError(
                "NetcfgSubnetRangesOverlap",
                f"Subnet '{name}' ({addresses}) overlaps with subnet '{other}'. Choose another range.",
                target=target,
            )
        taken[name.lower()] = addresses
    for index, subnet in enumerate(new.properties["subnets"]):
        if group := subnet["properties"].get("networkSecurityGroup"):
            target = f"properties.subnets[{index}].properties.networkSecurityGroup.id"
            group["id"] = str(call.linked(group["id"], target, _GROUP, action="join/action").id)
    for subnet in old.properties["subnets"] if old else []:
        if taken.get(subnet["name"].lower()) != ipaddress.IPv4Network(_prefix(subnet)):
            _refuse_while_used(call, new, subnet["name"])


def _refuse_while_used(call: Call, network: Resource, subnet: str) -> None:
    if user := user_of(call, network.id.child("subnets", subnet)):
        raise ArmError(
            "InUseSubnetCannotBeDeleted",
            f"Subnet {subnet} is in use by {user} and cannot be deleted or moved. Delete that first.",
        )


def _before_delete(call: Call, network: Resource) -> None:
    for subnet in network.properties["subnets"]:
        _refuse_while_used(call, network, subnet["name"])


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/virtualNetworks",
    NETWORK_VERSIONS,
    NetworkProperties,
    check=_check,
    before_delete=_before_delete,
    embedded=frozenset({"subnets"}),
)
