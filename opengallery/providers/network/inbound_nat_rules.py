"""Inbound NAT rules: `Microsoft.Network/loadBalancers/inboundNatRules`.

Source: Load Balancers REST API, api-version 2022-01-01.
"""

from typing import Annotated, Any

from msgspec import Meta, field

from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.providers.network import NETWORK_VERSIONS


class RuleProperties(Properties):
    """What a rule is created with: ports of the frontend, and the port of the machines behind it."""

    backend_port: Annotated[int, Meta(ge=1, le=65535)]
    frontend_port_range_start: int | str | None = None
    frontend_port_range_end: int | str | None = None
    frontend_ip_configuration: dict[str, Any] | None = field(name="frontendIPConfiguration", default=None)
    backend_address_pool: dict[str, Any] | None = None


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/loadBalancers/inboundNatRules", NETWORK_VERSIONS, RuleProperties, located=False
)
