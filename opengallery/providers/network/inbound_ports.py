"""Inbound ports: which ports of which addresses of this host lead to a machine, by its first interface.

Those of its own public address, and its NAT ports at load balancers; only what the security groups let in.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.hypervisors.machine import Port
from opengallery.providers.network import nat_ports
from opengallery.providers.network.security_rules import Inbound


def inbound_ports(connection: Connection, machine: Resource) -> list[Port]:
    """The ports that shall lead to a machine."""
    nics = machine.properties.get("networkProfile", {}).get("networkInterfaces", [])
    nic = resources.get(connection, nics[0]["id"]) if nics else None
    return list(dict.fromkeys(_ports(connection, nic))) if nic else []


def _ports(connection: Connection, nic: Resource) -> Iterator[Port]:
    configuration = nic.properties["ipConfigurations"][0]["properties"]
    private = configuration["privateIPAddress"]
    groups = _groups(connection, nic, configuration["subnet"]["id"])
    if address := _public_address(connection, configuration):
        for port in Inbound(private, groups, _is_basic(address)).ports():
            yield Port(address.properties["ipAddress"], port, port)
    for frontend, front_port, back_port in _nat(connection, nic):
        address = _frontend_address(connection, frontend)
        if address and Inbound(private, groups, _is_basic(address)).allows(back_port):
            yield Port(address.properties["ipAddress"], front_port, back_port)


def _nat(connection: Connection, nic: Resource) -> Iterator[tuple[str, int, int]]:
    """Frontend, its port and the machine's port of each NAT rule and pool."""
    for each in nat_ports.ranges(connection, nic):
        if (port := each.port_of(nic)) is not None:
            yield each.frontend, port, each.backend_port
    for rule in nat_ports.single_rules(connection, nic):
        frontend = rule.properties.get("frontendIPConfiguration", {}).get("id", "")
        yield frontend, int(rule.properties["frontendPort"]), int(rule.properties["backendPort"])


def _groups(connection: Connection, nic: Resource, subnet_id: str) -> tuple[list[dict[str, Any]], ...]:
    """The rules of the subnet's security group and of the interface's, of those that there are."""
    subnet = ResourceId.parse(subnet_id)
    network = resources.get(connection, subnet.parent) if subnet.parent else None
    holders = [nic.properties]
    for each in network.properties["subnets"] if network else []:
        if each["name"].lower() == subnet.name.lower():
            holders.insert(0, each["properties"])
    references = [
        holder["networkSecurityGroup"]["id"] for holder in holders if "networkSecurityGroup" in holder
    ]
    groups = [resources.get(connection, reference) for reference in references]
    return tuple(group.properties["securityRules"] if group else [] for group in groups)


def _public_address(connection: Connection, holder: dict[str, Any]) -> Resource | None:
    reference = holder.get("publicIPAddress")
    return resources.get(connection, reference["id"]) if reference else None


def _frontend_address(connection: Connection, frontend_id: str) -> Resource | None:
    """The public address of a load balancer's frontend; None for one inside the network."""
    if not frontend_id:
        return None
    frontend = ResourceId.parse(frontend_id)
    balancer = resources.get(connection, frontend.parent) if frontend.parent else None
    for each in balancer.properties["frontendIPConfigurations"] if balancer else []:
        if each["name"].lower() == frontend.name.lower():
            return _public_address(connection, each.get("properties", {}))
    return None


def _is_basic(address: Resource) -> bool:
    """Azure's default SKU is Basic."""
    return str(address.extra.get("sku", {}).get("name", "Basic")).lower() == "basic"
