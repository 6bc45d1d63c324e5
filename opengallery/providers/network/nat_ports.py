"""NAT ports: the ports of a load balancer's address that each lead to one machine.

An inbound NAT rule with a backend pool, and an inbound NAT pool of a Uniform scale set, have a range of
frontend ports, of which each interface behind them gets one for as long as it is there. The interface
keeps it in its `private`, by `place`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
from msgspec import Meta
from sqlalchemy import Connection, String, cast, func, select

from opengallery.arm import resources as rows
from opengallery.arm.call import Call
from opengallery.arm.errors import invalid_parameter
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource, resources

NIC = "Microsoft.Network/networkInterfaces"
RULE = "Microsoft.Network/loadBalancers/inboundNatRules"

FrontendPort = Annotated[int, Meta(ge=1, le=65534)] | Annotated[str, Meta(pattern=r"^[1-9][0-9]{0,4}\Z")]
"""A port of a frontend, which az sends as text."""

log = structlog.get_logger()


@dataclass(frozen=True)
class NatRange:
    """Ports of a frontend that lead to one port of the machines behind them."""

    id: ResourceId  # of the rule or the pool
    frontend: str  # id of the frontend's configuration
    ports: range
    backend_port: int

    @property
    def place(self) -> str:
        """Where an interface keeps its port. (A key may hold what a path in JSON can't.)"""
        return hashlib.sha256(self.id.key.encode()).hexdigest()[:16]

    def port_of(self, nic: Resource) -> int | None:
        """The frontend port that leads to the interface's machine."""
        port = nic.private.get("natPorts", {}).get(self.place)
        return port if port in self.ports else None


def ranges(connection: Connection, nic: Resource) -> list[NatRange]:
    """The ranges behind which an interface is."""
    configuration = nic.properties["ipConfigurations"][0]["properties"]
    found = []
    for pool_id in _ids(configuration, "loadBalancerInboundNatPools"):
        balancer = rows.get(connection, pool_id.parent) if pool_id.parent else None
        if balancer is not None:
            found += [each for each in pool_ranges(balancer) if each.id == pool_id]
    for pool_id in _ids(configuration, "loadBalancerBackendAddressPools"):
        if pool_id.parent is not None:
            found += [each for pool, each in rule_ranges(connection, pool_id.parent) if pool == pool_id]
    return found


def pool_ranges(balancer: Resource) -> list[NatRange]:
    """The inbound NAT pools of a load balancer."""
    return [
        _range(balancer.id.child("inboundNatPools", pool["name"]), pool["properties"])
        for pool in balancer.properties.get("inboundNatPools", [])
    ]


def rule_ranges(connection: Connection, balancer: ResourceId) -> list[tuple[ResourceId, NatRange]]:
    """The inbound NAT rules of a load balancer that have a backend pool, each with the id of that."""
    return [
        (pool, rule_range(rule))
        for rule in rows.children(connection, balancer, RULE)
        if (pool := rule_pool(rule))
    ]


def rule_range(rule: Resource) -> NatRange:
    """The ports of a rule that has a backend pool."""
    return _range(rule.id, rule.properties)


def check_frontend(nat_id: ResourceId, properties: dict[str, Any], where: str) -> None:
    """Raise 400 for ports or a range that no frontend has."""
    first, last = properties.get("frontendPortRangeStart"), properties.get("frontendPortRangeEnd")
    for member in ("frontendPort", "frontendPortRangeStart", "frontendPortRangeEnd", "backendPort"):
        text = str(properties.get(member, 1))
        if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 65535:
            raise invalid_parameter(f"{where}.{member}", "This is no port. Give a number from 1 to 65534.")
    needs_range = nat_id.types[-1] == "inboundNatPools" or "backendAddressPool" in properties
    if (first is None or last is None) if needs_range else (first is not None or last is not None):
        raise invalid_parameter(
            where,
            f"'{nat_id.name}' needs both a backend pool and a range of frontend ports (frontendPortRangeStart "
            "and frontendPortRangeEnd), or neither and a frontendPort.",
        )
    if first is not None and last is not None and int(first) > int(last):
        raise invalid_parameter(
            f"{where}.frontendPortRangeEnd", f"The range {first}-{last} ends before it begins. Correct it."
        )


def rule_pool(rule: Resource) -> ResourceId | None:
    """The backend pool of a rule, None when it is for one machine."""
    pool = rule.properties.get("backendAddressPool")
    return ResourceId.parse(pool["id"]) if pool and "frontendPortRangeStart" in rule.properties else None


def single_rules(connection: Connection, nic: Resource) -> Iterator[Resource]:
    """The inbound NAT rules for this interface alone."""
    configuration = nic.properties["ipConfigurations"][0]["properties"]
    for rule_id in _ids(configuration, "loadBalancerInboundNatRules"):
        rule = rows.get(connection, rule_id)
        if rule is not None and rule.properties.get("frontendPort"):
            yield rule


def assign(call: Call, nic: Resource) -> None:
    """Give the interface a port of each range behind which it is, unless it has one."""
    for each in ranges(call.connection, nic):
        assign_one(call, nic, each)


def assign_one(call: Call, nic: Resource, nat: NatRange) -> None:
    """Give the interface the lowest free port of a range, unless it has one or there is none left."""
    if nat.port_of(nic) is not None:
        return
    call.lock(nat.id.key)
    taken = call.once(("NAT ports", nat.place), lambda: _taken(call, nat))
    free = next((port for port in nat.ports if port not in taken), None)
    if free is None:
        # Once in a batch of interfaces.
        call.once(
            ("no NAT port", nat.place),
            lambda: log.warning("no NAT port is left: widen the range", range=str(nat.id)),
        )
        return
    taken.add(free)
    nic.private = {**nic.private, "natPorts": {**nic.private.get("natPorts", {}), nat.place: free}}


def _taken(call: Call, nat: NatRange) -> set[int]:
    """The ports of a range that interfaces have."""
    column = resources.c.private["natPorts"][nat.place].as_integer()
    query = select(column).where(resources.c.type == NIC.lower(), column.is_not(None))
    return set(call.connection.scalars(query))


def behind(connection: Connection, balancer: ResourceId) -> list[Resource]:
    """The interfaces that name a part of the load balancer, by their keys."""
    text = func.lower(cast(resources.c.properties, String))
    is_behind = (
        resources.c.type == NIC.lower(),
        resources.c.subscription == (balancer.subscription or "").lower(),
        text.contains(f'"{balancer.key}/', autoescape=True),
    )
    query = select(resources.c.key).where(*is_behind).order_by(resources.c.key)
    found = (rows.get(connection, key) for key in connection.scalars(query).all())
    return [nic for nic in found if nic is not None]


def in_pool(nic: Resource, pool: ResourceId) -> bool:
    """Whether an interface is in a backend pool."""
    configuration = nic.properties["ipConfigurations"][0]["properties"]
    return pool in _ids(configuration, "loadBalancerBackendAddressPools")


def _ids(configuration: dict[str, Any], member: str) -> list[ResourceId]:
    return [ResourceId.parse(one["id"]) for one in configuration.get(member, [])]


def _range(nat_id: ResourceId, properties: dict[str, Any]) -> NatRange:
    ports = range(int(properties["frontendPortRangeStart"]), int(properties["frontendPortRangeEnd"]) + 1)
    frontend = properties.get("frontendIPConfiguration", {}).get("id", "")
    return NatRange(nat_id, frontend, ports, int(properties["backendPort"]))
