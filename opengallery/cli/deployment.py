"""The ARM template deployments that `vm create` and `vmss create` send: the same as az builds.

Source: requests of azure-cli 2.91.0.
"""

import hashlib
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.api_versions import api_version
from opengallery.cli.options import resource_id

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

VNETS = "Microsoft.Network/virtualNetworks"
NSGS = "Microsoft.Network/networkSecurityGroups"
PUBLIC_IPS = "Microsoft.Network/publicIPAddresses"
NICS = "Microsoft.Network/networkInterfaces"
BALANCERS = "Microsoft.Network/loadBalancers"
MACHINES = "Microsoft.Compute/virtualMachines"
SCALE_SETS = "Microsoft.Compute/virtualMachineScaleSets"

SCHEMA = "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#"
FIRST_NAT_PORT = 50000
NAT_PORTS_MIN = 120
REMOTE_PORTS = {"SSH": "22", "RDP": "3389"}

Resource = dict[str, Any]


class Place(NamedTuple):
    """Where a deployment's resources go."""

    subscription: str
    group: str
    location: str
    tags: dict[str, str]

    def id(self, resource_type: str, *names: str) -> str:
        """The id of a resource in the group."""
        return str(resource_id(self.subscription, self.group, resource_type, *names))

    def resource(
        self, resource_type: str, name: str, version: str, needs: list[str], **rest: Any
    ) -> Resource:
        """A resource of the template."""
        return {
            "type": resource_type,
            "name": name,
            "apiVersion": version,
            "location": self.location,
            "tags": self.tags,
            "dependsOn": needs,
            **rest,
        }


def deploy(
    arm: "ArmClient", place: Place, kind: str, resources: list[Resource], outputs: Resource, *, wait: bool
) -> Resource:
    """Send a deployment and wait for it; return its outputs' values, in az's form."""
    name = f"{kind}_deploy_{uuid.uuid4().hex}"
    deployment = ResourceId(place.subscription, place.group, "Microsoft.Resources", ("deployments",), (name,))
    template = {
        "$schema": SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {},
        "variables": {},
        "resources": resources,
        "outputs": outputs,
    }
    body = {"properties": {"template": template, "parameters": {}, "mode": "incremental"}}
    # The machine or the scale set comes last.
    with arm.waiting.on(f"waiting for {kind} '{resources[-1]['name']}' to be created"):
        result = arm.put(deployment, body, wait=wait) or {}
    values = (result.get("properties") or {}).get("outputs") or {}
    return {key: output.get("value") for key, output in values.items()}


def subnet(arm: "ArmClient", place: Place, name: str) -> tuple[str, list[Resource], list[str]]:
    """The id of the subnet to use, what must be made for it, and what must wait for that.

    As az does, a network in the group and region that has a subnet is used; else one is made.
    """
    group = ResourceId(place.subscription, place.group)
    for network in arm.list(group, VNETS):
        subnets = (network.get("properties") or {}).get("subnets") or []
        usable = [each for each in subnets if each["name"].lower() != "gatewaysubnet"]
        if usable and network.get("location", "").replace(" ", "").lower() == place.location.lower():
            return place.id(f"{VNETS}/subnets", network["name"], usable[0]["name"]), [], []
    properties = {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": f"{name}Subnet", "properties": {"addressPrefix": "10.0.0.0/24"}}],
    }
    network = place.resource(VNETS, f"{name}VNET", "2015-06-15", [], properties=properties)
    return (
        place.id(f"{VNETS}/subnets", f"{name}VNET", f"{name}Subnet"),
        [network],
        [f"{VNETS}/{name}VNET"],
    )


def security_group(place: Place, name: str, rule: str | None) -> Resource:
    """A network security group that lets `rule` (SSH or RDP) in."""
    rules = []
    if rule:
        rules.append(
            {
                "name": f"default-allow-{'rdp' if rule == 'RDP' else 'ssh'}",
                "properties": {
                    "protocol": "Tcp",
                    "sourcePortRange": "*",
                    "destinationPortRange": REMOTE_PORTS[rule],
                    "sourceAddressPrefix": "*",
                    "destinationAddressPrefix": "*",
                    "access": "Allow",
                    "priority": 1000,
                    "direction": "Inbound",
                },
            }
        )
    return place.resource(NSGS, f"{name}NSG", "2015-06-15", [], properties={"securityRules": rules})


def public_ip(place: Place, name: str) -> Resource:
    """A public address."""
    return place.resource(
        PUBLIC_IPS,
        name,
        "2022-01-01",
        [],
        properties={"publicIPAllocationMethod": "Static"},
        sku={"name": "Standard"},
    )


def os_disk(create_option: str, size_gb: int | None, sku: str | None) -> Resource:
    """The disk that a machine starts from."""
    disk: Resource = {
        "createOption": create_option,
        "caching": "ReadWrite",
        "managedDisk": {"storageAccountType": sku},
    }
    if size_gb:
        disk["diskSizeGB"] = size_gb
    return disk


def machine_resources(
    place: Place,
    name: str,
    subnet_id: str,
    needs: list[str],
    *,
    rule: str | None,
    has_public_ip: bool,
    properties: Resource,
) -> list[Resource]:
    """NSG, public address, NIC and machine. `properties` are the machine's, without its network."""
    address = f"{name}PublicIP"
    configuration: Resource = {
        "name": f"ipconfig{name}",
        "properties": {"privateIPAllocationMethod": "Dynamic", "subnet": {"id": subnet_id}},
    }
    resources = [security_group(place, name, rule)]
    needs = [*needs, f"{NSGS}/{name}NSG"]
    if has_public_ip:
        resources.append(public_ip(place, address))
        configuration["properties"]["publicIPAddress"] = {"id": place.id(PUBLIC_IPS, address)}
        needs.append(f"Microsoft.Network/publicIpAddresses/{address}")
    nic = place.resource(
        NICS,
        f"{name}VMNic",
        "2015-06-15",
        needs,
        properties={
            "ipConfigurations": [configuration],
            "networkSecurityGroup": {"id": place.id(NSGS, f"{name}NSG")},
        },
    )
    reference = {"id": place.id(NICS, f"{name}VMNic"), "properties": {"deleteOption": None}}
    machine = place.resource(
        MACHINES,
        name,
        api_version(MACHINES),
        [f"{NICS}/{name}VMNic"],
        properties={**properties, "networkProfile": {"networkInterfaces": [reference]}},
    )
    return [*resources, nic, machine]


def scale_set_resources(
    place: Place,
    name: str,
    subnet_id: str,
    needs: list[str],
    *,
    rule: str | None,
    size: str,
    count: int,
    profile: Resource,
    is_flexible: bool,
    upgrade_mode: str,
) -> list[Resource]:
    """Public address, load balancer, NSG, NAT rule and scale set. `profile` is a VM's, without network."""
    balancer, pool, front = f"{name}LB", f"{name}LBBEPool", "loadBalancerFrontEnd"
    address = f"{name}LBPublicIP"
    balancer_id = f"resourceId('{BALANCERS}', '{balancer}')"
    front_id = {"id": f"[concat({balancer_id}, '/frontendIPConfigurations/', '{front}')]"}
    pool_id = {"id": f"[concat({balancer_id}, '/backendAddressPools/', '{pool}')]"}
    load_balancer = place.resource(
        BALANCERS,
        balancer,
        "2022-01-01",
        [*needs, f"Microsoft.Network/publicIpAddresses/{address}"],
        properties={
            "backendAddressPools": [{"name": pool}],
            "frontendIPConfigurations": [
                {"name": front, "properties": {"publicIPAddress": {"id": place.id(PUBLIC_IPS, address)}}}
            ],
            "loadBalancingRules": [
                {
                    "name": "LBRule",
                    "properties": {
                        "frontendIPConfiguration": front_id,
                        "backendAddressPool": pool_id,
                        "protocol": "tcp",
                        "frontendPort": 80,
                        "backendPort": 80,
                        "enableFloatingIP": False,
                        "idleTimeoutInMinutes": 5,
                    },
                }
            ],
        },
        sku={"name": "Standard"},
    )
    nat_rule = {
        "type": f"{BALANCERS}/inboundNatRules",
        "apiVersion": "2022-01-01",
        "name": f"{balancer}/NatRule",
        "location": place.location,
        "properties": {
            "frontendIPConfiguration": front_id,
            "backendAddressPool": pool_id,
            "backendPort": 3389 if rule == "RDP" else 22,
            "frontendPortRangeStart": str(FIRST_NAT_PORT),
            "frontendPortRangeEnd": str(FIRST_NAT_PORT + max(NAT_PORTS_MIN, 2 * count) - 1),
            "protocol": "tcp",
            "idleTimeoutInMinutes": 5,
        },
        "dependsOn": [f"[concat('{BALANCERS}/', '{balancer}')]"],
    }
    digest = hashlib.sha256(place.id(SCALE_SETS, name).lower().encode()).hexdigest()
    prefix = name.replace("-", "")[:5].lower() + digest[:4]
    nic = {
        "name": f"{prefix}Nic",
        "properties": {
            "ipConfigurations": [
                {
                    "name": f"{prefix}IPConfig",
                    "properties": {
                        "subnet": {"id": subnet_id},
                        "loadBalancerBackendAddressPools": [
                            {"id": place.id(f"{BALANCERS}/backendAddressPools", balancer, pool)}
                        ],
                    },
                }
            ],
            "networkSecurityGroup": {"id": f"[resourceId('{NSGS}', '{name}NSG')]"},
            "primary": "true",
        },
    }
    profile = {
        **profile,
        "networkProfile": {"networkInterfaceConfigurations": [nic], "networkApiVersion": "2020-11-01"},
    }
    properties: Resource = {
        "upgradePolicy": {"mode": upgrade_mode},
        "singlePlacementGroup": None,
        "virtualMachineProfile": profile,
    }
    if is_flexible:
        properties |= {"platformFaultDomainCount": 1, "orchestrationMode": "Flexible"}
    else:
        properties |= {"overprovision": True, "orchestrationMode": "Uniform"}
    scale_set = place.resource(
        SCALE_SETS,
        name,
        api_version(SCALE_SETS),
        [*needs, f"{BALANCERS}/{balancer}", f"{NSGS}/{name}NSG"],
        properties=properties,
        sku={"name": size, "capacity": count},
    )
    return [public_ip(place, address), load_balancer, security_group(place, name, rule), nat_rule, scale_set]
