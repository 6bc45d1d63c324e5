"""What a guest may know of its machine: `GET /metadata/instance`.

Nothing that is secret: neither custom data nor passwords' hashes; a guest's every user may ask.
Source: Azure Instance Metadata Service, api-version 2021-02-01.
"""

from typing import Any

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.resources import Resource
from opengallery.providers.compute import machine_identity
from opengallery.providers.network import virtual_networks


def instance(connection: Connection, machine: Resource) -> dict[str, Any]:
    """The document, as far as it is known here."""
    return {"compute": _compute(machine), "network": {"interface": _interfaces(connection, machine)}}


def _compute(machine: Resource) -> dict[str, Any]:
    properties = machine.properties
    profile, storage = properties.get("osProfile", {}), properties["storageProfile"]
    linux, disk = profile.get("linuxConfiguration", {}), storage["osDisk"]
    reference = storage["imageReference"]
    scale_set = machine_identity.scale_set_id(machine)
    tags = sorted(machine.tags.items())
    no_password = bool(linux.get("disablePasswordAuthentication", False))
    return {
        "azEnvironment": "OpenGallery",
        "location": machine.location or "",
        "name": str(machine.extra.get("name", machine.id.name)),
        "osProfile": {
            "adminUsername": profile.get("adminUsername", ""),
            "computerName": profile.get("computerName", ""),
            "disablePasswordAuthentication": str(no_password).lower(),
        },
        "osType": disk.get("osType", ""),
        "provider": "Microsoft.Compute",
        "publicKeys": [
            {"keyData": key["keyData"], "path": key.get("path", "")}
            for key in linux.get("ssh", {}).get("publicKeys", [])
        ],
        "resourceGroupName": machine.id.resource_group or "",
        "resourceId": str(machine.id),
        "storageProfile": {
            "imageReference": {"id": reference.get("id", ""), "version": reference.get("exactVersion", "")},
            "osDisk": {"name": disk.get("name", ""), "osType": disk.get("osType", "")},
        },
        "subscriptionId": machine.id.subscription or "",
        "tags": ";".join(f"{name}:{value}" for name, value in tags),
        "tagsList": [{"name": name, "value": value} for name, value in tags],
        "vmId": properties["vmId"],
        "vmScaleSetName": scale_set.rsplit("/", 1)[-1] if scale_set else "",
        "vmSize": properties["hardwareProfile"]["vmSize"],
        "zone": (machine.extra.get("zones") or [""])[0],
    }


def _interfaces(connection: Connection, machine: Resource) -> list[dict[str, Any]]:
    interfaces = []
    for reference in machine.properties["networkProfile"]["networkInterfaces"]:
        nic = resources.get(connection, reference["id"])
        if nic is None:
            continue
        configuration = nic.properties["ipConfigurations"][0]["properties"]
        subnet = virtual_networks.find_subnet(connection, configuration["subnet"]["id"])
        address = {"privateIpAddress": configuration["privateIPAddress"], "publicIpAddress": ""}
        ipv4: dict[str, Any] = {"ipAddress": [address], "subnet": []}
        if subnet is not None:
            ipv4["subnet"] = [{"address": str(subnet.network_address), "prefix": str(subnet.prefixlen)}]
        mac = nic.properties["macAddress"].replace("-", "")
        interfaces.append({"ipv4": ipv4, "ipv6": {"ipAddress": []}, "macAddress": mac})
    return interfaces
