"""Network security groups: `Microsoft.Network/networkSecurityGroups`, with their rules.

Source: Network Security Groups REST API, api-version 2022-01-01.
"""

from typing import Annotated, Any

from msgspec import Meta

from opengallery.arm import handling
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.network import NETWORK_VERSIONS
from opengallery.providers.network.security_rules import port_range, several
from opengallery.providers.network.uses import user_of

Access = Annotated[str, Meta(pattern=r"^(?i:Allow|Deny)\Z")]
Direction = Annotated[str, Meta(pattern=r"^(?i:Inbound|Outbound)\Z")]
Protocol = Annotated[str, Meta(pattern=r"^(?i:Tcp|Udp|Icmp|Esp|Ah|\*)\Z")]


_DEFAULTS = (
    ("AllowVnetInBound", "Inbound", "Allow", 65000, "VirtualNetwork", "VirtualNetwork"),
    ("AllowAzureLoadBalancerInBound", "Inbound", "Allow", 65001, "AzureLoadBalancer", "*"),
    ("DenyAllInBound", "Inbound", "Deny", 65500, "*", "*"),
    ("AllowVnetOutBound", "Outbound", "Allow", 65000, "VirtualNetwork", "VirtualNetwork"),
    ("AllowInternetOutBound", "Outbound", "Allow", 65001, "*", "Internet"),
    ("DenyAllOutBound", "Outbound", "Deny", 65500, "*", "*"),
)
"""Azure's default rules: name, direction, access, priority, source, destination."""


class RuleProperties(Properties):
    """Which packets a rule is about, and whether they pass. Ports and addresses may be given in the plural."""

    access: Access
    direction: Direction
    priority: Annotated[int, Meta(ge=100, le=4096)]
    protocol: Protocol


class SecurityRule(Properties):
    """A rule that lets packets in or out."""

    name: str
    properties: RuleProperties


class GroupProperties(Properties):
    """What a network security group is created with."""

    security_rules: list[SecurityRule] = []


def _check(_call: Call, new: Resource, _old: Resource | None) -> None:
    taken: dict[tuple[str, int], str] = {}
    for rule in new.properties["securityRules"]:
        name, properties = rule["name"], rule["properties"]
        for member in ("sourcePortRange", "destinationPortRange"):
            _check_ports(name, several(properties, member), member)
        place = (properties["direction"].lower(), properties["priority"])
        if other := taken.get(place):
            raise ArmError(
                "SecurityRuleConflict",
                f"Security rule {name} conflicts with rule {other}. Rules cannot have the same Priority and "
                "Direction. Give it another priority.",
                target=f"properties.securityRules.{name}",
            )
        taken[place] = name


def _check_ports(rule: str, ranges: list[str], member: str) -> None:
    for text in ranges:
        try:
            port_range(text)
        except ValueError as error:
            raise ArmError(
                "SecurityRuleInvalidPortRange",
                f"Security rule has invalid Port range. Value provided: {text}. Value should be an integer OR "
                "integer range with '-' delimiter. Valid range 0-65535.",
                target=f"properties.securityRules.{rule}.{member}",
            ) from error


def _refuse_while_used(call: Call, group: Resource) -> None:
    if user := user_of(call, group.id):
        raise ArmError(
            "InUseNetworkSecurityGroupCannotBeDeleted",
            f"Network security group {group.id} cannot be deleted because it is in use by {user}. Delete that first.",
        )


def _view(_call: Call, group: Resource) -> dict[str, Any]:
    """The rules that come after those that are given."""
    shown = []
    for name, direction, access, priority, source, destination in _DEFAULTS:
        rule = {
            "name": name,
            "properties": {
                "protocol": "*",
                "sourcePortRange": "*",
                "destinationPortRange": "*",
                "sourceAddressPrefix": source,
                "destinationAddressPrefix": destination,
                "access": access,
                "priority": priority,
                "direction": direction,
            },
        }
        shown.append(handling.view_embedded(group, "defaultSecurityRules", rule))
    return {"defaultSecurityRules": shown}


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/networkSecurityGroups",
    NETWORK_VERSIONS,
    GroupProperties,
    embedded=frozenset({"securityRules"}),
    read_only=frozenset({"defaultSecurityRules"}),
    check=_check,
    view=_view,
    before_delete=_refuse_while_used,
)
