"""Load balancers: `Microsoft.Network/loadBalancers`, with their pools, rules and probes.

Their inbound NAT rules and pools lead to machines. Load balancing rules and probes are kept and shown,
and balance nothing.
Source: Load Balancers REST API, api-version 2022-01-01.
"""

from typing import Any

from msgspec import field

from opengallery.arm import handling, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, ResourceType, Sku
from opengallery.arm.resources import Resource
from opengallery.arm.validation import converted
from opengallery.providers.network import NETWORK_VERSIONS, nat_ports, virtual_networks
from opengallery.providers.network.balanced_machines import MEMBERS, Behind
from opengallery.providers.network.public_ip_addresses import take_address


class Reference(Properties):
    """Another resource: the subnet of a frontend inside the network."""

    id: str


class Part(Properties):
    """A frontend, pool, rule or probe."""

    name: str
    properties: dict[str, Any] = {}


class BalancerProperties(Properties):
    """What a load balancer is created with."""

    frontend_ip_configurations: list[Part] = field(name="frontendIPConfigurations", default_factory=list)
    backend_address_pools: list[Part] = []
    load_balancing_rules: list[Part] = []
    inbound_nat_pools: list[Part] = []
    probes: list[Part] = []


def _check(call: Call, new: Resource, _old: Resource | None) -> None:
    for index, frontend in enumerate(new.properties["frontendIPConfigurations"]):
        where = f"properties.frontendIPConfigurations[{index}].properties"
        properties = frontend.get("properties", {})
        take_address(call, new.id, properties, f"{where}.publicIPAddress.id")
        if subnet := converted(properties.get("subnet"), Reference | None, f"{where}.subnet"):
            virtual_networks.authorize_joining(call, subnet.id, f"{where}.subnet.id")
    for pool in new.properties["backendAddressPools"]:
        for member in MEMBERS:
            pool.get("properties", {}).pop(member, None)
    for index, pool in enumerate(new.properties["inboundNatPools"]):
        where = f"properties.inboundNatPools[{index}].properties"
        nat_ports.check_frontend(new.id.child("inboundNatPools", pool["name"]), pool["properties"], where)
    _check_rules(call, new)


def _check_rules(call: Call, new: Resource) -> None:
    """Rules come back in the body as they were shown, and are resources of their own: no new ones here."""
    pools = {pool["name"].lower() for pool in new.properties["inboundNatPools"]}
    for rule in new.properties.pop("inboundNatRules", []):
        name = str(rule.get("name"))
        is_of_pool = name.lower().rpartition(".")[0] in pools
        if not is_of_pool and call.get(new.id.child("inboundNatRules", name)) is None:
            raise ArmError(
                "InvalidParameter",
                f"The load balancer has no inbound NAT rule '{name}'. Create it as a resource of the type "
                "Microsoft.Network/loadBalancers/inboundNatRules: az network lb inbound-nat-rule create.",
                target="properties.inboundNatRules",
            )


def _view(call: Call, balancer: Resource) -> dict[str, Any]:
    """The pools with the machines that are in them; all inbound NAT rules, those of pools too."""
    behind = Behind(call, balancer)
    pools = [
        handling.view_embedded(
            balancer,
            "backendAddressPools",
            {**pool, "properties": {**pool.get("properties", {}), **behind.pool(pool["name"])}},
        )
        for pool in balancer.properties["backendAddressPools"]
    ]
    rules = []
    for rule in resources.children(call.connection, balancer.id, nat_ports.RULE):
        body = rule.view()
        body["properties"].update(behind.single(rule))
        rules.append(body)
    return {"backendAddressPools": pools, "inboundNatRules": [*rules, *behind.pool_rules()]}


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/loadBalancers",
    NETWORK_VERSIONS,
    BalancerProperties,
    envelope={"sku": Sku},
    embedded=frozenset({
        "frontendIPConfigurations", "backendAddressPools", "loadBalancingRules", "inboundNatPools", "probes",
    }),
    check=_check,
    view=_view,
)  # fmt: skip
