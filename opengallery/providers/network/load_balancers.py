"""Load balancers: `Microsoft.Network/loadBalancers`, with their pools, rules and probes.

Source: Load Balancers REST API, api-version 2022-01-01.
"""

from typing import Any

from msgspec import field

from opengallery.arm.resource_type import Properties, ResourceType, Sku
from opengallery.providers.network import NETWORK_VERSIONS


class Part(Properties):
    """A frontend, pool, rule or probe."""

    name: str
    properties: dict[str, Any] = {}


class BalancerProperties(Properties):
    """What a load balancer is created with."""

    frontend_ip_configurations: list[Part] = field(name="frontendIPConfigurations", default_factory=list)
    backend_address_pools: list[Part] = []
    load_balancing_rules: list[Part] = []
    probes: list[Part] = []


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/loadBalancers",
    NETWORK_VERSIONS,
    BalancerProperties,
    envelope={"sku": Sku},
    embedded=frozenset({"frontendIPConfigurations", "backendAddressPools", "loadBalancingRules", "probes"}),
)
