"""Inbound NAT rules: `Microsoft.Network/loadBalancers/inboundNatRules`.

With a backend pool and a range of frontend ports, each machine of the pool gets a port; without, one port
leads to the machine whose interface names the rule.
Source: Load Balancers REST API, api-version 2022-01-01.
"""

from typing import Annotated

from msgspec import Meta, field

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.network import NETWORK_VERSIONS, nat_ports


class Reference(Properties):
    """A part of a load balancer."""

    id: str


class RuleProperties(Properties):
    """What a rule is created with: ports of the frontend, and the port of the machines behind it."""

    backend_port: Annotated[int, Meta(ge=1, le=65535)]
    frontend_port: nat_ports.FrontendPort | None = None
    frontend_port_range_start: nat_ports.FrontendPort | None = None
    frontend_port_range_end: nat_ports.FrontendPort | None = None
    frontend_ip_configuration: Reference | None = field(name="frontendIPConfiguration", default=None)
    backend_address_pool: Reference | None = None


def _check(call: Call, new: Resource, _old: Resource | None) -> None:
    nat_ports.check_frontend(new.id, new.properties, "properties")
    pool = nat_ports.rule_pool(new)
    if pool is None or new.id.parent is None:
        return
    for nic in nat_ports.behind(call.connection, new.id.parent):
        if nat_ports.in_pool(nic, pool):
            nat_ports.assign_one(call, nic, nat_ports.rule_range(new))
            resources.save(call.connection, nic)


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/loadBalancers/inboundNatRules",
    NETWORK_VERSIONS,
    RuleProperties,
    located=False,
    check=_check,
)
