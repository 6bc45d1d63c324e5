"""The deployments that the real az sends: every resource in order, every expression evaluated."""

import json
from pathlib import Path
from typing import Any

from opengallery.arm.errors import ArmError
from opengallery.arm.templates import DeploymentScope, ProviderType, parse_template

WIRE = Path(__file__).parents[2] / "wire"
GROUP = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/rg"
SCOPE = DeploymentScope(
    tenant_id="11111111-1111-1111-1111-111111111111",
    subscription_id="22222222-2222-2222-2222-222222222222",
    resource_group="rg",
    location="westcentralus",
    deployment_name="vmss_deploy_1",
    providers={
        "Microsoft.Compute": {
            "virtualMachineScaleSets": ProviderType(("2026-04-01", "2024-11-01"), ("West Central US",))
        }
    },
)


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    properties = json.loads((WIRE / name).read_text())["properties"]
    return properties["template"], properties["parameters"]


def nothing_there(resource_id: str, api_version: str | None) -> dict[str, Any]:
    raise ArmError("ResourceNotFound", resource_id, status=404)


def test_vm_create_deploys_the_machine_after_its_network_card() -> None:
    template = parse_template(*recorded("deployment-vm-create.json"), SCOPE)
    names = [resource.name for resource in template.resources]
    assert sorted(names[:3]) == ["rg-vmNSG", "rg-vmPublicIP", "rg-vmVNET"]
    assert names[3:] == ["rg-vmVMNic", "rg-vm"]
    machine = template.resources[-1]
    assert machine.id == f"{GROUP}/providers/Microsoft.Compute/virtualMachines/rg-vm"
    assert machine.depends_on == (f"{GROUP}/providers/Microsoft.Network/networkInterfaces/rg-vmVMNic",)
    assert len(template.resources[3].depends_on) == 3  # publicIpAddresses finds publicIPAddresses
    body = template.body(machine, nothing_there)
    assert set(body) == {"location", "tags", "properties"}
    assert body["properties"]["osProfile"]["computerName"] == "rg-vm"
    assert template.evaluate_outputs(nothing_there) == {}


def test_vmss_create_orders_children_and_evaluates_ids() -> None:
    template = parse_template(*recorded("deployment-vmss-create.json"), SCOPE)
    places = {resource.name: place for place, resource in enumerate(template.resources)}
    assert places["myScaleSetLB"] < places["myScaleSetLB/NatRule"]
    assert (
        max(places["myScaleSetLB"], places["myScaleSetNSG"], places["myScaleSetVNET"]) < places["myScaleSet"]
    )
    rule = template.resources[places["myScaleSetLB/NatRule"]]
    balancer = f"{GROUP}/providers/Microsoft.Network/loadBalancers/myScaleSetLB"
    assert rule.type == "Microsoft.Network/loadBalancers/inboundNatRules"
    assert rule.id == f"{balancer}/inboundNatRules/NatRule"
    assert rule.depends_on == (balancer,)
    body = template.body(rule, nothing_there)
    assert body["properties"]["frontendIPConfiguration"]["id"] == (
        f"{balancer}/frontendIPConfigurations/loadBalancerFrontEnd"
    )
    scale_set = template.resources[places["myScaleSet"]]
    card = template.body(scale_set, nothing_there)["properties"]["virtualMachineProfile"]["networkProfile"][
        "networkInterfaceConfigurations"
    ][0]
    assert card["properties"]["networkSecurityGroup"]["id"] == (
        f"{GROUP}/providers/Microsoft.Network/networkSecurityGroups/myScaleSetNSG"
    )


def test_vmss_create_prints_what_the_scale_set_became() -> None:
    asked: list[tuple[str, str | None]] = []

    def get_resource(resource_id: str, api_version: str | None) -> dict[str, Any]:
        asked.append((resource_id, api_version))
        return {"id": resource_id, "properties": {"provisioningState": "Succeeded", "uniqueId": "u"}}

    template = parse_template(*recorded("deployment-vmss-create.json"), SCOPE)
    assert template.evaluate_outputs(get_resource) == {
        "VMSS": {"type": "Object", "value": {"provisioningState": "Succeeded", "uniqueId": "u"}}
    }
    assert asked == [
        (f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets/myScaleSet", "2026-04-01")
    ]
