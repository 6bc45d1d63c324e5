"""Network interfaces: `Microsoft.Network/networkInterfaces`.

Source: Network Interfaces REST API, api-version 2022-01-01.
"""

from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.network import NETWORK_VERSIONS

_GUEST_ADDRESS = "10.0.2.15"


class IpConfiguration(Properties):
    """One address of the interface."""

    name: str
    properties: dict[str, Any]


class InterfaceProperties(Properties):
    """What an interface is created with."""

    ip_configurations: list[IpConfiguration]


def _check(call: Call, new: Resource, _old: Resource | None) -> None:
    for configuration in new.properties["ipConfigurations"]:
        properties = configuration["properties"]
        if "publicIPAddress" in properties:
            address = properties["publicIPAddress"].get("id", "")
            call.linked(address, "ipConfigurations.publicIPAddress", "Microsoft.Network/publicIPAddresses")
        # QEMU's user network gives every guest this address.
        properties["privateIPAddress"] = _GUEST_ADDRESS
        properties.setdefault("privateIPAllocationMethod", "Dynamic")
        properties.setdefault("primary", configuration is new.properties["ipConfigurations"][0])


def _refuse_while_used(call: Call, nic: Resource) -> None:
    machine = nic.properties.get("virtualMachine", {}).get("id")
    if machine and call.get(machine) is not None:
        raise ArmError(
            "NicInUse",
            f"Network Interface {nic.id} is used by {machine}. Delete that machine first.",
            status=409,
        )


RESOURCE_TYPE = ResourceType(
    "Microsoft.Network/networkInterfaces",
    NETWORK_VERSIONS,
    InterfaceProperties,
    read_only=frozenset({"virtualMachine", "macAddress"}),
    embedded=frozenset({"ipConfigurations"}),
    check=_check,
    before_delete=_refuse_while_used,
)
