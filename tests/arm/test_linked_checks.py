"""Linked checks: who makes a resource must have the right to use each other resource that it names."""

from typing import Any

import pytest

from opengallery.arm import access, roles
from opengallery.database import now
from opengallery.providers.network.network_interfaces import RESOURCE_TYPE as INTERFACES

from ..providers.conftest import Api
from ..providers.images import definition, managed_image, version_body
from .conftest import Newcomer
from .galleries import COMPUTE, REGION, full_id

NETWORK = "providers/Microsoft.Network"


def _site(api: Api, group: str) -> dict[str, str]:
    """A network, an address, a security group and a load balancer; their paths."""
    paths = {
        name: f"{group}/{NETWORK}/{kind}/x"
        for name, kind in (
            ("network", "virtualNetworks"),
            ("address", "publicIPAddresses"),
            ("security", "networkSecurityGroups"),
            ("balancer", "loadBalancers"),
        )
    }
    subnets = [{"name": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}]
    space = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": subnets}
    api.put(paths["network"], {"location": REGION, "properties": space})
    for name in ("address", "security"):
        api.put(paths[name], {"location": REGION, "properties": {}})
    front = f"{full_id(api, paths['balancer'])}/frontendIPConfigurations/f"
    nat = {"protocol": "Tcp", "backendPort": 22, "frontendPortRangeStart": 5000, "frontendPortRangeEnd": 5009}
    parts = {
        "frontendIPConfigurations": [{"name": "f", "properties": {}}],
        "backendAddressPools": [{"name": "p"}],
        "inboundNatPools": [{"name": "n", "properties": {**nat, "frontendIPConfiguration": {"id": front}}}],
    }
    api.put(paths["balancer"], {"location": REGION, "properties": parts})
    return paths


def _interface(api: Api, site: dict[str, str], *joined: str) -> dict[str, Any]:
    balancer = full_id(api, site["balancer"])
    configuration: dict[str, Any] = {"subnet": {"id": f"{full_id(api, site['network'])}/subnets/s"}}
    properties: dict[str, Any] = {"ipConfigurations": [{"name": "c", "properties": configuration}]}
    if "address" in joined:
        configuration["publicIPAddress"] = {"id": full_id(api, site["address"])}
    if "pool" in joined:
        configuration["loadBalancerBackendAddressPools"] = [{"id": f"{balancer}/backendAddressPools/p"}]
    if "nat" in joined:
        configuration["loadBalancerInboundNatPools"] = [{"id": f"{balancer}/inboundNatPools/n"}]
    if "security" in joined:
        properties["networkSecurityGroup"] = {"id": full_id(api, site["security"])}
    return {"location": REGION, "properties": properties}


def _custom(api: Api, *actions: str) -> access.Role:
    """A custom role of the tenant."""
    role = access.Role(
        id="99999999-0000-0000-0000-000000000001",
        name="joiner",
        permissions=roles.Permissions(actions),
        created_at=now(),
        created_by="a",
        updated_at=now(),
        updated_by="a",
    )
    with api.services.database.write() as connection:
        roles.save(connection, api.first.tenant_id, role)
    return role


def _lacks(api: Api, path: str, body: Any, action: str) -> None:
    status, code, message = api.refused("PUT", path, body)
    assert (status, code) == (403, "LinkedAuthorizationFailed"), message
    assert f"'{action}'" in message
    assert "/write' on scope '/subscriptions/" in message


@pytest.mark.parametrize(
    ("joined", "action"),
    [
        ("", "virtualNetworks/subnets/join/action"),
        ("address", "publicIPAddresses/join/action"),
        ("security", "networkSecurityGroups/join/action"),
        ("pool", "loadBalancers/backendAddressPools/join/action"),
        ("nat", "loadBalancers/inboundNatPools/join/action"),
    ],
)
def test_an_interface_joins_only_what_its_maker_may_join(
    api: Api, newcomer: Newcomer, joined: str, action: str
) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    site = _site(api, theirs)
    subnet = f"{full_id(api, site['network'])}/subnets/s"
    contributor, reader = (access.CONTRIBUTOR, full_id(api, mine)), (access.READER, full_id(api, theirs))
    joiner = _custom(api, f"Microsoft.Network/{action}")
    subnet_joiner = (roles.built_in("Network Contributor"), subnet)
    path, body = f"{mine}/{NETWORK}/networkInterfaces/n", _interface(api, site, joined)
    worker = newcomer(contributor, reader, *([subnet_joiner] if joined else []))
    _lacks(worker, path, body, f"Microsoft.Network/{action}")
    assert api.ask("GET", path).status_code == 404
    newcomer(contributor, (joiner, full_id(api, theirs)), subnet_joiner).put(path, body)


def test_a_subnets_security_group_and_a_frontends_subnet_are_joined(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    site = _site(api, theirs)
    worker = newcomer((access.CONTRIBUTOR, full_id(api, mine)), (access.READER, full_id(api, theirs)))
    group = {"networkSecurityGroup": {"id": full_id(api, site["security"])}, "addressPrefix": "10.1.0.0/24"}
    space = {
        "addressSpace": {"addressPrefixes": ["10.1.0.0/16"]},
        "subnets": [{"name": "a", "properties": group}],
    }
    body = {"location": REGION, "properties": space}
    action = "Microsoft.Network/networkSecurityGroups/join/action"
    _lacks(worker, f"{mine}/{NETWORK}/virtualNetworks/v", body, action)
    subnet = {"subnet": {"id": f"{full_id(api, site['network'])}/subnets/s"}}
    front = {"frontendIPConfigurations": [{"name": "f", "properties": subnet}]}
    action = "Microsoft.Network/virtualNetworks/subnets/join/action"
    body = {"location": REGION, "properties": front}
    _lacks(worker, f"{mine}/{NETWORK}/loadBalancers/l", body, action)
    address = {"publicIPAddress": {"id": full_id(api, site["address"])}}
    body = {
        "location": REGION,
        "properties": {"frontendIPConfigurations": [{"name": "f", "properties": address}]},
    }
    _lacks(
        worker, f"{mine}/{NETWORK}/loadBalancers/l", body, "Microsoft.Network/publicIPAddresses/join/action"
    )


def _scale_set(interface: dict[str, Any], image: str) -> dict[str, Any]:
    profile = {
        "storageProfile": {"imageReference": {"id": image}, "osDisk": {"createOption": "FromImage"}},
        "osProfile": {"computerNamePrefix": "s", "adminUsername": "bob", "adminPassword": "Un-guessable-1"},
        "networkProfile": {
            "networkInterfaceConfigurations": [{"name": "nic", "properties": interface["properties"]}]
        },
    }
    return {
        "location": REGION,
        "sku": {"name": "Standard_D2s_v5", "capacity": 0},
        "properties": {"orchestrationMode": "Flexible", "virtualMachineProfile": profile},
    }


def _image(api: Api, group: str) -> str:
    """A published version; its id."""
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "image", 1)))
    return full_id(api, version)


def test_machines_and_scale_sets_read_their_image_and_join_their_network(
    api: Api, newcomer: Newcomer
) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    site, image = _site(api, theirs), _image(api, theirs)
    path = f"{mine}/{COMPUTE}/virtualMachineScaleSets/s"
    body = _scale_set(_interface(api, site), image)
    contributor = (access.CONTRIBUTOR, full_id(api, mine))
    definition = image.rpartition("/versions/")[0]
    image_reader = (roles.built_in("Compute Gallery Image Reader"), definition)
    _lacks(newcomer(contributor), path, body, "Microsoft.Compute/galleries/images/versions/read")
    _lacks(
        newcomer(contributor, image_reader),
        path,
        body,
        "Microsoft.Network/virtualNetworks/subnets/join/action",
    )
    joiner = (roles.built_in("Network Contributor"), full_id(api, theirs))
    newcomer(contributor, image_reader, joiner).put(path, body)
    nic = f"{theirs}/{NETWORK}/{INTERFACES.kind}/n"
    api.put(nic, _interface(api, site))
    machine = {
        "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
        "storageProfile": {"imageReference": {"id": image}, "osDisk": {"createOption": "FromImage"}},
        "osProfile": {"computerName": "m", "adminUsername": "bob", "adminPassword": "Un-guessable-1"},
        "networkProfile": {"networkInterfaces": [{"id": full_id(api, nic)}]},
    }
    body = {"location": REGION, "properties": machine}
    path = f"{mine}/{COMPUTE}/virtualMachines/m"
    _lacks(newcomer(contributor), path, body, "Microsoft.Compute/galleries/images/versions/read")
    reader = (access.READER, full_id(api, theirs))
    _lacks(newcomer(contributor, reader), path, body, "Microsoft.Network/networkInterfaces/join/action")


def test_a_disk_of_a_version_takes_reading_it(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    image = _image(api, theirs)
    data = {"createOption": "FromImage", "galleryImageReference": {"id": image}}
    body = {"location": REGION, "properties": {"creationData": data}}
    path = f"{mine}/{COMPUTE}/disks/d"
    contributor = (access.CONTRIBUTOR, full_id(api, mine))
    _lacks(newcomer(contributor), path, body, "Microsoft.Compute/galleries/images/versions/read")
    newcomer(contributor, (access.READER, image)).put(path, body)


@pytest.mark.parametrize("kind", ["disks", "snapshots"])
def test_an_image_of_a_disk_takes_the_right_to_export_it(api: Api, newcomer: Newcomer, kind: str) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    source = full_id(api, f"{theirs}/{COMPUTE}/{kind}/d")
    image = _image(api, theirs)
    data = {"createOption": "FromImage", "galleryImageReference": {"id": image}}
    disk = f"{theirs}/{COMPUTE}/disks/d"
    api.put(disk, {"location": REGION, "properties": {"creationData": data}})
    if kind == "snapshots":
        data = {"createOption": "Copy", "sourceResourceId": full_id(api, disk)}
        api.put(f"{theirs}/{COMPUTE}/snapshots/d", {"location": REGION, "properties": {"creationData": data}})
    contributor = (access.CONTRIBUTOR, full_id(api, mine))
    reader = newcomer(contributor, (access.READER, full_id(api, theirs)))
    needed = f"Microsoft.Compute/{kind}/beginGetAccess/action"
    os_disk = {kind.replace("disks", "managedDisk").removesuffix("s"): {"id": source}, "osType": "Linux"}
    profile = {"storageProfile": {"osDisk": {**os_disk, "osState": "Generalized"}}, "hyperVGeneration": "V1"}
    body = {"location": REGION, "properties": profile}
    _lacks(reader, f"{mine}/{COMPUTE}/images/i", body, needed)
    version = f"{definition(api, mine)}/versions/1.0.0"
    from_disk = {"storageProfile": {"osDiskImage": {"source": {"id": source}}}}
    from_disk |= {"publishingProfile": {"targetRegions": [{"name": REGION}]}}
    _lacks(reader, version, {"location": REGION, "properties": from_disk}, needed)
    newcomer(contributor, (access.CONTRIBUTOR, source)).put(f"{mine}/{COMPUTE}/images/i", body)


def test_an_image_of_a_machine_takes_the_right_to_change_it(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    machine = full_id(api, f"{theirs}/{COMPUTE}/virtualMachines/m")
    reader = newcomer((access.CONTRIBUTOR, full_id(api, mine)), (access.READER, full_id(api, theirs)))
    body = {"location": REGION, "properties": {"sourceVirtualMachine": {"id": machine}}}
    _lacks(reader, f"{mine}/{COMPUTE}/images/i", body, "Microsoft.Compute/virtualMachines/write")
    version = f"{definition(api, mine)}/versions/1.0.0"
    body = version_body(api, f"{theirs}/{COMPUTE}/virtualMachines/m")
    _lacks(reader, version, body, "Microsoft.Compute/virtualMachines/write")


def test_a_deployment_does_no_more_than_its_caller_may(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    site = _site(api, theirs)
    worker = newcomer((access.CONTRIBUTOR, full_id(api, mine)), (access.READER, full_id(api, theirs)))
    resource = {"type": "Microsoft.Network/networkInterfaces", "apiVersion": "2022-01-01", "name": "n"}
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [resource | _interface(api, site)],
    }
    body = {"properties": {"mode": "Incremental", "template": template}}
    answer = worker.ask("PUT", f"{mine}/providers/Microsoft.Resources/deployments/d", body)
    operation = worker.operation(answer)
    assert operation["status"] == "Failed"
    assert operation["error"]["details"][0]["code"] == "LinkedAuthorizationFailed"
