"""The announcement of Shared Image Gallery, line by line, with the real az and real bytes.

Each test is a step; they run in this order, on one server, and every answer is checked.
"""

import itertools
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from .running import AZ_PYTHON, BOOT_IMAGE, Group, Server, Shell, until

pytestmark = pytest.mark.timeout(1800)

CHECKSUM = Path(f"{BOOT_IMAGE}.payload").read_text().strip()[:16] if BOOT_IMAGE.exists() else ""
REGIONS = {"West Central US": 5, "South Central US": 1, "East US 2": 1}
GALLERY = ("-g", "myResourceGroup", "--gallery-name", "myGallery")
DEFINITION = (*GALLERY, "--gallery-image-definition", "myImageDefinition")
VERSION = (*DEFINITION, "--gallery-image-version", "1.0.2")
USER = ("--admin-username", "azureuser", "--generate-ssh-keys")


def replicas(shell: Shell, group: Group) -> dict[str, int]:
    """How many complete replicas the version has, by the short name of the region."""
    entries = shell.gallery("replica", "list", "--version", group.version("1.0.2"))
    return Counter(entry["region"] for entry in entries if entry["state"] == "Completed")


def boot_log(shell: Shell, machine: str, boots: int = 1) -> str:
    """The line that a machine prints when it is up, once it is there."""

    log = ""

    def ready() -> str | None:
        nonlocal log
        log = shell.az("vm", "boot-diagnostics", "get-boot-log", "-g", "myResourceGroup", "-n", machine) or ""
        lines = re.findall(r"READY \S+ [0-9a-f]{16} version=\S+ boots=\d+", log)
        return next((line for line in lines if line.endswith(f" boots={boots}")), None)

    # Each look takes a second of the processors that the machines boot on.
    return str(until(ready, every_s=3, seen=lambda: f"The log of {machine} ends: {log[-2000:]!r}"))


def power_state(shell: Shell, machine: str) -> str:
    return str(shell.az("vm", "show", "-d", "-g", "myResourceGroup", "-n", machine)["powerState"])


def test_the_cloud_is_registered_and_the_administrator_signs_in(shell: Shell) -> None:
    names = shell.variables
    shell.az(
        "cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", names["GALLERY_ENDPOINT"]
    )
    shell.az("cloud", "set", "-n", "opengallery")
    subscriptions = shell.az(
        "login", "--service-principal", "-u", names["AZURE_CLIENT_ID"],
        "-p", names["AZURE_CLIENT_SECRET"], "--tenant", names["AZURE_TENANT_ID"],
    )  # fmt: skip
    both = {names["AZURE_SUBSCRIPTION_ID"], names["GALLERY_SUBSCRIPTION_ID_2"]}
    assert {subscription["id"] for subscription in subscriptions} == both
    account = shell.az("account", "show")
    assert account["id"] == names["AZURE_SUBSCRIPTION_ID"]
    assert account["environmentName"] == "opengallery"
    assert account["state"] == "Enabled"


def test_a_wrong_secret_is_refused(shell: Shell, tmp_path: Path) -> None:
    stranger = Shell({**shell.variables, "AZURE_CONFIG_DIR": str(tmp_path)}, tmp_path)
    endpoint = shell.variables["GALLERY_ENDPOINT"]
    stranger.az("cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", endpoint)
    stranger.az("cloud", "set", "-n", "opengallery")
    message = stranger.refused(
        "login", "--service-principal", "-u", shell.variables["AZURE_CLIENT_ID"],
        "-p", "wrong", "--tenant", shell.variables["AZURE_TENANT_ID"],
    )  # fmt: skip
    assert "AADSTS7000215" in message or "invalid_client" in message or "Invalid client secret" in message


def test_the_regions_are_azures(shell: Shell) -> None:
    locations = {location["name"]: location for location in shell.az("account", "list-locations")}
    assert locations["westcentralus"]["displayName"] == "West Central US"
    assert {name.lower().replace(" ", "") for name in REGIONS} < set(locations)
    assert locations["westeurope"]["metadata"]["geographyGroup"] == "Europe"
    assert float(locations["westeurope"]["metadata"]["latitude"]) == pytest.approx(52, abs=2)


def test_feature_and_provider_are_registered(shell: Shell) -> None:
    feature = ("--namespace", "Microsoft.Compute", "--name", "GalleryPreview")
    asked = shell.az("feature", "register", *feature)
    assert asked["name"] == "Microsoft.Compute/GalleryPreview"
    assert asked["properties"]["state"] in ("Registering", "Registered")
    until(lambda: shell.az("feature", "show", *feature)["properties"]["state"] == "Registered", 60)
    listed = shell.az("feature", "list", "--namespace", "Microsoft.Compute")
    assert "Microsoft.Compute/GalleryPreview" in [entry["name"] for entry in listed]
    shell.az("provider", "register", "-n", "Microsoft.Compute", "--wait")
    provider = shell.az("provider", "show", "-n", "Microsoft.Compute")
    assert provider["registrationState"] == "Registered"
    types = {entry["resourceType"]: entry for entry in provider["resourceTypes"]}
    assert "2024-03-03" in types["galleries/images/versions"]["apiVersions"]
    assert "Microsoft.Compute" in [entry["namespace"] for entry in shell.az("provider", "list")]


def test_a_group_is_created(shell: Shell) -> None:
    created = shell.az("group", "create", "-n", "myResourceGroup", "-l", "West Central US")
    assert created["location"] == "westcentralus"
    assert created["properties"]["provisioningState"] == "Succeeded"
    assert shell.az("group", "exists", "-n", "MYRESOURCEGROUP") is True
    assert shell.az("group", "exists", "-n", "another") is False
    assert [entry["name"] for entry in shell.az("group", "list")] == ["myResourceGroup"]


def test_a_gallery_is_created(shell: Shell, group: Group) -> None:
    created = shell.az("sig", "create", *GALLERY)
    assert created["id"] == group.compute("galleries", "myGallery")
    assert created["location"] == "westcentralus"
    assert created["provisioningState"] == "Succeeded"
    assert created["identifier"]["uniqueName"]
    assert shell.az("sig", "show", *GALLERY)["name"] == "myGallery"
    assert [entry["name"] for entry in shell.az("sig", "list")] == ["myGallery"]


def test_an_image_definition_is_created(shell: Shell) -> None:
    created = shell.az(
        "sig", "image-definition", "create", *DEFINITION, "--publisher", "myPublisher", "--offer", "myOffer",
        "--sku", "mySKU", "--os-type", "Linux", "--hyper-v-generation", "V1",
    )  # fmt: skip
    assert created["identifier"] == {"publisher": "myPublisher", "offer": "myOffer", "sku": "mySKU"}
    assert (created["osType"], created["osState"], created["hyperVGeneration"]) == (
        "Linux",
        "Generalized",
        "V1",
    )
    assert shell.az("sig", "image-definition", "show", *DEFINITION)["provisioningState"] == "Succeeded"
    listed = shell.az("sig", "image-definition", "list", *GALLERY)
    assert [entry["name"] for entry in listed] == ["myImageDefinition"]


def test_the_same_publisher_offer_and_sku_are_refused(shell: Shell) -> None:
    shell.refused(
        "sig", "image-definition", "create", *GALLERY, "--gallery-image-definition", "another", "--publisher",
        "myPublisher", "--offer", "myOffer", "--sku", "mySKU", "--os-type", "Linux", "--hyper-v-generation", "V1",
    )  # fmt: skip
    assert len(shell.az("sig", "image-definition", "list", *GALLERY)) == 1


def test_a_disk_is_uploaded(shell: Shell, vhd: Path) -> None:
    disk = ("-g", "myResourceGroup", "-n", "myDisk")
    created = shell.az(
        "disk", "create", *disk, "--upload-type", "Upload", "--upload-size-bytes", vhd.stat().st_size,
        "--os-type", "Linux", "--hyper-v-generation", "V1", "--sku", "standard_lrs",
    )  # fmt: skip
    assert created["creationData"]["uploadSizeBytes"] == vhd.stat().st_size
    assert created["diskState"] == "ReadyToUpload"
    granted = shell.az(
        "disk", "grant-access", *disk, "--access-level", "Write", "--duration-in-seconds", 3600
    )
    sas = granted["accessSAS"]
    assert shell.az("disk", "show", *disk)["diskState"] == "ActiveUpload"
    shell.python(Path(__file__).parent / "upload_disk.py", vhd, sas)
    shell.az("disk", "revoke-access", *disk)
    finished = shell.az("disk", "show", *disk)
    assert finished["diskState"] == "Unattached"
    assert finished["diskSizeBytes"] == BOOT_IMAGE.stat().st_size
    late = subprocess.run(
        [AZ_PYTHON, Path(__file__).parent / "upload_disk.py", vhd, sas],
        env=shell.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert late.returncode != 0, "the SAS has been revoked"


def test_a_managed_image_is_made_of_the_disk(shell: Shell, group: Group) -> None:
    image = ("-g", "myResourceGroup", "-n", "myImage")
    created = shell.az(
        "image", "create", *image, "--source", "myDisk", "--os-type", "Linux", "--hyper-v-generation", "V1"
    )
    assert created["provisioningState"] == "Succeeded"
    disk = created["storageProfile"]["osDisk"]
    assert disk["managedDisk"]["id"] == group.compute("disks", "myDisk")
    assert (disk["osType"], disk["osState"]) == ("Linux", "Generalized")
    assert shell.az("image", "show", *image)["hyperVGeneration"] == "V1"
    assert [entry["name"] for entry in shell.az("image", "list", "-g", "myResourceGroup")] == ["myImage"]


@pytest.mark.parametrize(
    ("version", "targets", "word"),
    [
        ("1.0.2", "Mars Central=1", "LocationNotAvailable"),
        ("1.0.2", "West Central US=0", "InvalidParameter"),
        ("1.0.2", "West Central US=101", "InvalidParameter"),
        ("1.0.4294967296", "West Central US=1", "Invalid"),
    ],
)
def test_a_version_that_cannot_be_is_refused(shell: Shell, version: str, targets: str, word: str) -> None:
    message = shell.refused(
        "sig", "image-version", "create", *DEFINITION, "--gallery-image-version", version,
        "--target-regions", targets, "--managed-image", "myImage",
    )  # fmt: skip
    assert word in message
    assert shell.az("sig", "image-version", "list", *DEFINITION) == []


def test_a_version_is_replicated_to_three_regions(shell: Shell, group: Group) -> None:
    shell.az(
        "sig", "image-version", "create", *VERSION, "--target-regions", "West Central US",
        "South Central US=1", "East US 2=1", "--replica-count", 5,
        "--managed-image", group.compute("images", "myImage"), "--no-wait",
    )  # fmt: skip
    seen: list[dict[str, int]] = []

    def completed() -> bool:
        version = shell.az("sig", "image-version", "show", *VERSION, "--expand", "ReplicationStatus")
        status = version["replicationStatus"]
        assert {entry["region"] for entry in status["summary"]} <= set(REGIONS)
        assert {entry["state"] for entry in status["summary"]} <= {"Unknown", "Replicating", "Completed"}
        seen.append({entry["region"]: entry["progress"] for entry in status["summary"]})
        return bool(status["aggregatedState"] == "Completed")

    until(completed)
    for earlier, later in itertools.pairwise(seen):
        assert all(later[region] >= progress for region, progress in earlier.items())
    assert seen[-1] == dict.fromkeys(REGIONS, 100)
    shell.az("sig", "image-version", "wait", *VERSION, "--created", "--interval", 1)
    version = shell.az("sig", "image-version", "show", *VERSION)
    assert version["provisioningState"] == "Succeeded"
    assert version["publishingProfile"]["publishedDate"]
    assert version["publishingProfile"]["replicaCount"] == 5
    assert [entry["name"] for entry in version["publishingProfile"]["targetRegions"]] == list(REGIONS)
    assert version["storageProfile"]["source"]["id"] == group.compute("images", "myImage")
    assert replicas(shell, group) == {"westcentralus": 5, "southcentralus": 1, "eastus2": 1}


def test_a_gallery_with_definitions_is_not_deleted(shell: Shell) -> None:
    message = shell.refused("sig", "delete", *GALLERY)
    assert "CannotDeleteResource" in message
    assert "nested resources" in message
    assert shell.az("sig", "show", *GALLERY)["provisioningState"] == "Succeeded"


def test_a_machine_boots_from_the_version(shell: Shell, group: Group) -> None:
    machine = ("-g", "myResourceGroup", "-n", "myVM")
    created = shell.az("vm", "create", *machine, "--image", group.version("1.0.2"), *USER)
    assert created["id"] == group.compute("virtualMachines", "myVM")
    assert created["powerState"] == "VM running"
    assert created["location"] == "westcentralus"
    assert created["privateIpAddress"].startswith("10.0.0.")
    assert created["macAddress"]
    assert boot_log(shell, "myVM") == f"READY myVM {CHECKSUM} version=base boots=1"
    shown = shell.az("vm", "show", *machine)
    assert shown["storageProfile"]["imageReference"]["id"] == group.version("1.0.2")
    assert shown["osProfile"]["adminUsername"] == "azureuser"
    assert "adminPassword" not in shown["osProfile"]
    detailed = shell.az("vm", "list", "-d", "-g", "myResourceGroup")
    assert [(entry["name"], entry["powerState"]) for entry in detailed] == [("myVM", "VM running")]
    assert [entry["name"] for entry in shell.az("vm", "list")] == ["myVM"]


def test_a_machine_without_a_replica_in_its_region_is_refused(shell: Shell, group: Group) -> None:
    machine = ("-g", "myResourceGroup", "-n", "farVM")
    message = shell.refused(
        "vm", "create", *machine, "--image", group.version("1.0.2"), "-l", "westeurope", *USER
    )
    assert "GalleryImageNotFound" in message
    assert "westeurope" in message.lower()
    assert "ResourceNotFound" in shell.refused("vm", "show", *machine)


def test_a_machine_is_stopped_started_and_deallocated(shell: Shell) -> None:
    machine = ("-g", "myResourceGroup", "-n", "myVM")
    shell.az("vm", "stop", *machine)
    assert power_state(shell, "myVM") == "VM stopped"
    shell.az("vm", "start", *machine)
    assert power_state(shell, "myVM") == "VM running"
    assert boot_log(shell, "myVM", boots=2) == f"READY myVM {CHECKSUM} version=base boots=2"
    shell.az("vm", "deallocate", *machine)
    assert power_state(shell, "myVM") == "VM deallocated"


def test_a_machine_boots_from_a_managed_image(shell: Shell, group: Group) -> None:
    machine = ("-g", "myResourceGroup", "-n", "plainVM")
    shell.az(
        "vm", "create", *machine, "--image", group.compute("images", "myImage"), *USER,
        "--public-ip-address", "", "--nsg", "",
    )  # fmt: skip
    assert boot_log(shell, "plainVM") == f"READY plainVM {CHECKSUM} version=base boots=1"
    shell.az("vm", "delete", *machine, "--yes")
    assert "ResourceNotFound" in shell.refused("vm", "show", *machine)


def test_ten_machines_spread_over_the_replicas(shell: Shell, group: Group) -> None:
    before = shell.gallery("replica", "list", "--version", group.version("1.0.2"))
    created = shell.az(
        "vmss", "create", "-g", "myResourceGroup", "-n", "myScaleSet", "--image", group.version("1.0.2"),
        "--instance-count", 10, *USER,
    )  # fmt: skip
    (outputs,) = created.values()
    assert outputs["provisioningState"] == "Succeeded"
    scale_set = shell.az("vmss", "show", "-g", "myResourceGroup", "-n", "myScaleSet")
    assert scale_set["sku"]["capacity"] == 10
    assert scale_set["orchestrationMode"] == "Flexible"
    assert [entry["name"] for entry in shell.az("vmss", "list", "-g", "myResourceGroup")] == ["myScaleSet"]
    instances = shell.az("vmss", "list-instances", "-g", "myResourceGroup", "-n", "myScaleSet")
    assert len({entry["instanceId"] for entry in instances}) == 10
    assert {entry["provisioningState"] for entry in instances} == {"Succeeded"}
    lines = [boot_log(shell, entry["name"]) for entry in instances]
    assert {line.split()[2] for line in lines} == {CHECKSUM}
    assert len({line.split()[1] for line in lines}) == 10, "each machine has a host name of its own"
    served = {entry["store"]: entry["bytesServed"] for entry in before}
    near = [
        entry
        for entry in shell.gallery("replica", "list", "--version", group.version("1.0.2"))
        if entry["region"] == "westcentralus"
    ]
    assert max(entry["vms"] for entry in near) - min(entry["vms"] for entry in near) <= 1
    assert sum(entry["vms"] for entry in near) >= 10
    assert all(entry["bytesServed"] > served[entry["store"]] for entry in near)


def test_a_scale_set_grows_and_shrinks(shell: Shell) -> None:
    scale_set = ("-g", "myResourceGroup", "-n", "myScaleSet")
    shell.az("vmss", "scale", *scale_set, "--new-capacity", 12)
    names = {entry["instanceId"] for entry in shell.az("vmss", "list-instances", *scale_set)}
    assert len(names) == 12
    gone = sorted(names)[:2]
    shell.az("vmss", "delete-instances", *scale_set, "--instance-ids", *gone)
    left = {entry["instanceId"] for entry in shell.az("vmss", "list-instances", *scale_set)}
    assert left == names - set(gone)
    assert shell.az("vmss", "show", *scale_set)["sku"]["capacity"] == 10
    shell.az("vmss", "scale", *scale_set, "--new-capacity", 3)
    assert len(shell.az("vmss", "list-instances", *scale_set)) == 3


def test_a_scale_set_is_deleted_with_its_machines(shell: Shell) -> None:
    shell.az("vmss", "delete", "-g", "myResourceGroup", "-n", "myScaleSet")
    assert shell.az("vmss", "list", "-g", "myResourceGroup") == []
    assert [entry["name"] for entry in shell.az("vm", "list", "-g", "myResourceGroup")] == ["myVM"]


def test_a_versions_regions_are_changed(shell: Shell, group: Group) -> None:
    def update(*words: object) -> dict[str, Any]:
        return dict(shell.az("sig", "image-version", "update", *VERSION, *words))

    added = update("--add", "publishingProfile.targetRegions", "name=westeurope", "regionalReplicaCount=2")
    assert len(added["publishingProfile"]["targetRegions"]) == 4
    source = group.compute("images", "myImage")
    assert added["storageProfile"]["source"]["id"] == source, "an update leaves the source as it is"
    assert replicas(shell, group) == {
        "westcentralus": 5, "southcentralus": 1, "eastus2": 1, "westeurope": 2,
    }  # fmt: skip
    update("--target-regions", "West Central US", "East US 2=2", "--replica-count", 3)
    assert replicas(shell, group) == {"westcentralus": 3, "eastus2": 2}
    update("--replica-count", 1)
    assert replicas(shell, group) == {"westcentralus": 1, "eastus2": 2}
    shown = shell.az("sig", "image-version", "show", *VERSION, "--expand", "ReplicationStatus")
    assert shown["replicationStatus"]["aggregatedState"] == "Completed"
    assert len(shown["replicationStatus"]["summary"]) == 2


def test_a_template_of_the_users_own_is_deployed(shell: Shell, tmp_path: Path) -> None:
    template = tmp_path / "network.json"
    template.write_text("""{
      // az sends this file as it is, comments included
      "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
      "contentVersion": "1.0.0.0",
      "parameters": {"name": {"type": "string"}},
      "variables": {"subnet": "[concat(parameters('name'), '-subnet')]"},
      "resources": [{
        "type": "Microsoft.Network/virtualNetworks", "apiVersion": "2022-01-01",
        "name": "[parameters('name')]", "location": "[resourceGroup().location]",
        "properties": {"addressSpace": {"addressPrefixes": ["10.9.0.0/16"]}, "subnets": [
          {"name": "[variables('subnet')]", "properties": {"addressPrefix": "10.9.0.0/24"}}]}
      }],
      "outputs": {"prefix": {"type": "string",
        "value": "[reference(parameters('name')).addressSpace.addressPrefixes[0]]"}}
    }""")
    words = ("-g", "myResourceGroup", "-n", "myDeployment", "--template-file", template, "--parameters")
    validated = shell.az("deployment", "group", "validate", *words, "name=myNetwork")
    assert validated["properties"]["provisioningState"] == "Succeeded"
    assert (
        shell.az("network", "vnet", "list", "-g", "myResourceGroup", "--query", "[?name=='myNetwork']") == []
    )
    created = shell.az("deployment", "group", "create", *words, "name=myNetwork")
    assert created["properties"]["outputs"]["prefix"] == {"type": "String", "value": "10.9.0.0/16"}
    assert created["properties"]["provisioningState"] == "Succeeded"
    shown = shell.az("deployment", "group", "show", "-g", "myResourceGroup", "-n", "myDeployment")
    assert shown["properties"]["parameters"]["name"]["value"] == "myNetwork"
    listed = shell.az("deployment", "group", "list", "-g", "myResourceGroup")
    assert "myDeployment" in [entry["name"] for entry in listed]
    message = shell.refused("deployment", "group", "validate", *words, "other=1")
    assert "unrecognized template parameter 'other'" in message  # az itself says so


def test_everything_is_deleted(shell: Shell, server: Server) -> None:
    held = {entry["type"].lower() for entry in shell.az("resource", "list", "-g", "myResourceGroup")}
    assert {"microsoft.compute/galleries", "microsoft.compute/virtualmachines"} <= held
    shell.az("vm", "delete", "-g", "myResourceGroup", "-n", "myVM", "--yes")
    shell.az("sig", "image-version", "delete", *VERSION)
    assert shell.az("sig", "image-version", "list", *DEFINITION) == []
    shell.az("sig", "image-definition", "delete", *DEFINITION)
    shell.az("sig", "delete", *GALLERY)
    assert shell.az("sig", "list") == []
    shell.az("image", "delete", "-g", "myResourceGroup", "-n", "myImage")
    shell.az("disk", "delete", "-g", "myResourceGroup", "-n", "myDisk", "--yes")
    assert shell.az("disk", "list", "-g", "myResourceGroup") == []
    shell.az("group", "delete", "-n", "myResourceGroup", "--yes")
    assert shell.az("group", "exists", "-n", "myResourceGroup") is False
    assert shell.az("resource", "list") == []
    assert [line for line in server.children() if "qemu" in line] == []


def test_deleting_a_group_deletes_what_is_in_it(shell: Shell) -> None:
    shell.az("group", "create", "-n", "other", "-l", "eastus2")
    shell.az("sig", "create", "-g", "other", "--gallery-name", "inside")
    shell.az(
        "sig", "image-definition", "create", "-g", "other", "--gallery-name", "inside",
        "--gallery-image-definition", "d", "--publisher", "p", "--offer", "o", "--sku", "s", "--os-type", "Linux",
    )  # fmt: skip
    shell.az("group", "delete", "-n", "other", "--yes")
    assert shell.az("sig", "list") == []
