"""Machines and scale sets: the deployments are those that az sends."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, StandIn

RECORDED_SUBSCRIPTION = "22222222-2222-2222-2222-222222222222"
RECORDED_KEY = "ssh-rsa AAAAB3NzaC1yc2E..."
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE me@here"
WIRE = Path(__file__).parents[1] / "wire"

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
COMPUTE = f"{GROUP}/providers/Microsoft.Compute"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
DEFINITION = f"{COMPUTE}/galleries/myGallery/images/myImageDefinition"
VERSION = f"{DEFINITION}/versions/1.0.2"
SIGN_ON = ["--admin-username", "azureuser", "--ssh-key-values", KEY]


@pytest.fixture
def version(arm: StandIn) -> str:
    arm.add(DEFINITION, {"properties": {"osType": "Linux", "osState": "Generalized"}})
    arm.add(VERSION, {})
    return VERSION


def recorded(name: str) -> dict[str, Any]:
    text = (WIRE / name).read_text().replace(RECORDED_SUBSCRIPTION, SUBSCRIPTION)
    body: dict[str, Any] = json.loads(text.replace(RECORDED_KEY, KEY))
    return body


def by_name(body: dict[str, Any]) -> dict[str, Any]:
    """The template's resources by name: their order means nothing."""
    return {resource["name"]: resource for resource in body["properties"]["template"]["resources"]}


def deployed(arm: StandIn) -> dict[str, Any]:
    [request] = arm.calls("PUT", "/deployments/")
    assert request.query == {"api-version": "2024-11-01"}
    body: dict[str, Any] = request.json
    return body


def add_machine(arm: StandIn, name: str) -> None:
    """What a deployment would have made."""
    nic, address = f"{NETWORK}/networkInterfaces/{name}VMNic", f"{NETWORK}/publicIPAddresses/{name}PublicIP"
    arm.add(
        f"{COMPUTE}/virtualMachines/{name}",
        {
            "location": "westcentralus",
            "properties": {
                "networkProfile": {"networkInterfaces": [{"id": nic}]},
                "instanceView": {
                    "ports": [
                        {"address": "127.0.0.1", "port": 10022, "guestPort": 22},
                        {"address": "127.0.0.1", "port": 80, "guestPort": 80},
                    ],
                    "statuses": [
                        {"code": "ProvisioningState/succeeded", "displayStatus": "Provisioning succeeded"},
                        {"code": "PowerState/running", "displayStatus": "VM running"},
                    ],
                },
            },
        },
    )
    configuration = {"properties": {"privateIPAddress": "10.0.0.4", "publicIPAddress": {"id": address}}}
    arm.add(
        nic, {"properties": {"macAddress": "00-0D-3A", "ipConfigurations": [{"name": "c", **configuration}]}}
    )
    arm.add(address, {"properties": {"ipAddress": "127.0.0.1"}})


def test_vm_create_sends_azs_deployment_and_shows_azs_result(
    arm: StandIn, gallery: Gallery, version: str
) -> None:
    add_machine(arm, "rg-vm")
    outcome = gallery("vm", "create", "-g", "rg", "-n", "rg-vm", "--image", version, *SIGN_ON)
    expected, sent = recorded("deployment-vm-create.json"), deployed(arm)
    assert by_name(sent) == by_name(expected)
    assert sent["properties"].keys() == expected["properties"].keys()
    assert sent["properties"]["mode"] == "incremental"
    assert outcome.json == {
        "fqdns": "",
        "id": f"{COMPUTE}/virtualMachines/rg-vm",
        "location": "westcentralus",
        "macAddress": "00-0D-3A",
        "ports": "127.0.0.1:10022->22,127.0.0.1:80",
        "powerState": "VM running",
        "privateIpAddress": "10.0.0.4",
        "publicIpAddress": "127.0.0.1",
        "resourceGroup": "rg",
    }


def test_vmss_create_sends_azs_deployment(arm: StandIn, gallery: Gallery, version: str) -> None:
    count = ["--instance-count", "50"]
    outcome = gallery("vmss", "create", "-g", "rg", "-n", "myScaleSet", "--image", version, *count, *SIGN_ON)
    assert outcome.code == 0
    # The four digits are a digest that is az's own.
    sent = json.loads(re.sub(r"mysca[0-9a-f]{4}(Nic|IPConfig)", r"myscafc43\1", json.dumps(deployed(arm))))
    expected = recorded("deployment-vmss-create.json")
    expected_by_name, sent_by_name = by_name(expected), by_name(sent)
    # az leaves the empty tags of the NAT rule out, and so do we; everything else has them.
    assert sent_by_name == expected_by_name
    assert sent["properties"]["template"]["outputs"] == expected["properties"]["template"]["outputs"]


def test_vmss_create_prints_the_deployments_outputs(arm: StandIn, gallery: Gallery, version: str) -> None:
    def output(path: str, resource: dict[str, Any]) -> None:
        value = {"orchestrationMode": "Flexible"}
        resource["properties"]["outputs"] = {"VMSS": {"type": "Object", "value": value}}

    arm.on_put = output
    outcome = gallery("vmss", "create", "-g", "rg", "-n", "s", "--image", version, *SIGN_ON)
    assert outcome.json == {"VMSS": {"orchestrationMode": "Flexible"}}


def test_a_network_that_is_there_is_used(arm: StandIn, gallery: Gallery, version: str) -> None:
    subnets = [{"name": "GatewaySubnet"}, {"name": "default"}]
    arm.add(f"{NETWORK}/virtualNetworks/far", {"location": "westus", "properties": {"subnets": subnets}})
    near = {"location": "westcentralus", "properties": {"subnets": subnets}}
    arm.add(f"{NETWORK}/virtualNetworks/near", near)
    gallery("vm", "create", "-g", "rg", "-n", "vm", "--image", version, *SIGN_ON, "--no-wait")
    resources = by_name(deployed(arm))
    assert not any(resource["type"].endswith("virtualNetworks") for resource in resources.values())
    configuration = resources["vmVMNic"]["properties"]["ipConfigurations"][0]["properties"]
    assert configuration["subnet"]["id"] == f"{NETWORK}/virtualNetworks/near/subnets/default"


def test_a_managed_image_may_be_named(arm: StandIn, gallery: Gallery) -> None:
    disk = {"osType": "Linux", "osState": "Generalized"}
    arm.add(f"{COMPUTE}/images/img", {"properties": {"storageProfile": {"osDisk": disk}}})
    gallery("vm", "create", "-g", "rg", "-n", "vm", "--image", "img", *SIGN_ON, "--no-wait")
    storage = by_name(deployed(arm))["vm"]["properties"]["storageProfile"]
    assert storage["imageReference"] == {"id": f"{COMPUTE}/images/img"}


def test_a_specialized_image_gets_no_user(arm: StandIn, gallery: Gallery, version: str) -> None:
    arm.resources[DEFINITION.lower()]["properties"]["osState"] = "Specialized"
    gallery("vm", "create", "-g", "rg", "-n", "vm", "--image", version, "--no-wait")
    assert "osProfile" not in by_name(deployed(arm))["vm"]["properties"]


def test_options_of_a_vm(arm: StandIn, gallery: Gallery, version: str, tmp_path: Path) -> None:
    (tmp_path / "init.yaml").write_text("#cloud-config\n")
    options = ["--custom-data", str(tmp_path / "init.yaml"), "--public-ip-address", "", "--nsg-rule", "none"]
    more = ["--os-disk-size-gb", "30", "--size", "Standard_B1s", "--tags", "a=1", "b=2"]
    gallery(
        "vm", "create", "-g", "rg", "-n", "vm", "--image", version, *SIGN_ON, *options, *more, "--no-wait"
    )
    resources = by_name(deployed(arm))
    assert "vmPublicIP" not in resources
    assert resources["vmNSG"]["properties"]["securityRules"] == []
    machine = resources["vm"]
    assert machine["tags"] == {"a": "1", "b": "2"}
    assert machine["properties"]["hardwareProfile"] == {"vmSize": "Standard_B1s"}
    assert machine["properties"]["storageProfile"]["osDisk"]["diskSizeGB"] == 30
    assert base64.b64decode(machine["properties"]["osProfile"]["customData"]) == b"#cloud-config\n"


def test_details_of_machines(arm: StandIn, gallery: Gallery) -> None:
    add_machine(arm, "one")
    add_machine(arm, "two")
    rows = gallery("vm", "list", "-d", "-o", "tsv").out.splitlines()
    assert [row.split("\t")[:4] for row in rows] == [
        ["one", "rg", "VM running", "127.0.0.1"],
        ["two", "rg", "VM running", "127.0.0.1"],
    ]
    assert gallery("vm", "show", "-g", "rg", "-n", "one", "-d").json["privateIps"] == "10.0.0.4"
    assert "powerState" not in gallery("vm", "show", "-g", "rg", "-n", "one").json


@pytest.mark.parametrize(
    ("words", "action"), [("start", "start"), ("stop", "powerOff"), ("deallocate", "deallocate")]
)
def test_actions_on_a_machine(arm: StandIn, gallery: Gallery, words: str, action: str) -> None:
    add_machine(arm, "one")
    assert gallery("vm", words, "-g", "rg", "-n", "one").code == 0
    assert arm.calls("POST", f"/one/{action}$")


def test_the_boot_log_is_printed_as_it_is(arm: StandIn, gallery: Gallery) -> None:
    from .stand_in import Answer

    add_machine(arm, "one")
    log = b"Booting\r\n\xff READY\n"
    arm.fault = lambda request: (
        Answer(200, {"serialConsoleLogBlobUri": f"{arm.url}/log?sig=x"})
        if request.path.endswith("retrieveBootDiagnosticsData")
        else Answer(200, log)
        if request.path == "/log" and "Authorization" not in request.headers
        else None
    )
    outcome = gallery("vm", "boot-diagnostics", "get-boot-log", "-g", "rg", "-n", "one")
    assert "READY" in outcome.out
    assert outcome.code == 0


def test_scale_and_delete_instances_send_what_az_sends(arm: StandIn, gallery: Gallery) -> None:
    path = f"{COMPUTE}/virtualMachineScaleSets/s"
    arm.add(path, {"location": "westus", "sku": {"name": "Standard_B1s", "capacity": 2}})
    gallery("vmss", "scale", "-g", "rg", "-n", "s", "--new-capacity", "5")
    assert arm.calls("PUT")[-1].json == {"location": "westus", "sku": {"name": "Standard_B1s", "capacity": 5}}
    gallery("vmss", "delete-instances", "-g", "rg", "-n", "s", "--instance-ids", "0", "3")
    assert arm.calls("POST", "/s/delete$")[-1].json == {"instanceIds": ["0", "3"]}
    arm.add(f"{path}/virtualMachines/0", {"instanceId": "0"})
    listing = ("vmss", "list-instances", "-g", "rg", "-n", "s")
    assert len(gallery(*listing).json) == 1
    gallery(*listing, "--expand", "instanceView")
    assert arm.calls("GET", "/s/virtualMachines$")[-1].query["$expand"] == "instanceView"


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("start", "start"),
        ("stop", "powerOff"),
        ("restart", "restart"),
        ("deallocate", "deallocate"),
        ("reimage", "reimage"),
        ("update-instances", "manualUpgrade"),
    ],
)
def test_an_action_goes_to_the_instances_that_are_named(
    arm: StandIn, gallery: Gallery, word: str, action: str
) -> None:
    arm.add(f"{COMPUTE}/virtualMachineScaleSets/s", {"location": "westus"})
    assert gallery("vmss", word, "-g", "rg", "-n", "s", "--instance-ids", "1").code == 0
    assert arm.calls("POST", f"/s/{action}$")[-1].json == {"instanceIds": ["1"]}
    if word != "update-instances":
        assert gallery("vmss", word, "-g", "rg", "-n", "s").code == 0
        assert arm.calls("POST", f"/s/{action}$")[-1].json == {"instanceIds": ["*"]}


def test_a_table_of_machines_has_their_power_state_where_it_was_asked_for(
    arm: StandIn, gallery: Gallery
) -> None:
    add_machine(arm, "one")
    assert "PowerState" not in gallery("vm", "list", "-o", "table").out
    assert "PowerState" in gallery("vm", "list", "-d", "-o", "table").out


@pytest.mark.parametrize("noun", ["vm", "vmss"])
def test_an_image_that_is_not_there_leaves_nothing_behind(
    arm: StandIn, gallery: Gallery, version: str, noun: str
) -> None:
    create = [noun, "create", "-g", "rg", "-n", "x", *SIGN_ON, "--image"]
    assert gallery(*create, "").code == 2
    for image in (f"{DEFINITION}/versions/9.9.9", f"{DEFINITION}x", "absent"):
        outcome = gallery(*create, image)
        assert outcome.code == 1 and "ResourceNotFound" in outcome.err
    del arm.resources[VERSION.lower()]
    assert "ImageNotFound" in gallery(*create, DEFINITION).err
    assert not arm.calls("PUT")
