"""Network security groups: `Microsoft.Network/networkSecurityGroups`, with their rules.

Source: Network Security Groups REST API, api-version 2022-01-01.
"""

from typing import Any

from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.providers.network import NETWORK_VERSIONS


class SecurityRule(Properties):
    """A rule that lets packets in or out."""

    name: str
    properties: dict[str, Any] = {}


class GroupProperties(Properties):
    """What a network security group is created with."""

    security_rules: list[SecurityRule] = []


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/networkSecurityGroups",
    NETWORK_VERSIONS,
    GroupProperties,
    embedded=frozenset({"securityRules"}),
)
