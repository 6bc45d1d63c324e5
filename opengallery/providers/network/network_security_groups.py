"""Network security groups: `Microsoft.Network/networkSecurityGroups`, with their rules.

Source: Network Security Groups REST API, api-version 2022-01-01.
"""

from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.network import NETWORK_VERSIONS
from opengallery.providers.network.uses import user_of


class SecurityRule(Properties):
    """A rule that lets packets in or out."""

    name: str
    properties: dict[str, Any] = {}


class GroupProperties(Properties):
    """What a network security group is created with."""

    security_rules: list[SecurityRule] = []


def _refuse_while_used(call: Call, group: Resource) -> None:
    if user := user_of(call, group.id):
        raise ArmError(
            "InUseNetworkSecurityGroupCannotBeDeleted",
            f"Network security group {group.id} cannot be deleted because it is in use by {user}. Delete that first.",
        )


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/networkSecurityGroups",
    NETWORK_VERSIONS,
    GroupProperties,
    embedded=frozenset({"securityRules"}),
    before_delete=_refuse_while_used,
)
