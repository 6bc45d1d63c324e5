"""What a caller with rights on one image version alone does with it, by azure-mgmt-compute on az's own Python.

use_version.py allowed|refused VERSION-ID SUBSCRIPTION GROUP NIC-ID SUBNET-ID

Signs in by azure-identity with AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID. Makes a machine and a
scale set of one instance from the version, or finds that both are refused with LinkedAuthorizationFailed.
"""

import os
import sys
from typing import Any

from azure.core.exceptions import HttpResponseError  # type: ignore[import-not-found]
from azure.identity import ClientSecretCredential  # type: ignore[import-not-found]
from azure.mgmt.compute import ComputeManagementClient  # type: ignore[import-not-found]

REGION = "westcentralus"
KEY = {"path": "/home/azureuser/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA acceptance"}
LINUX = {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [KEY]}}


def machine(version: str, nic: str) -> dict[str, Any]:
    """The body of a machine from the version, on a network interface that is there."""
    return {
        "location": REGION,
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_B1s"},
            "storageProfile": storage(version),
            "osProfile": {"computerName": "byid", "adminUsername": "azureuser", "linuxConfiguration": LINUX},
            "networkProfile": {"networkInterfaces": [{"id": nic}]},
        },
    }


def scale_set(version: str, subnet: str) -> dict[str, Any]:
    """The body of a scale set of one machine from the version, in a subnet that is there."""
    address = {"name": "ip", "properties": {"subnet": {"id": subnet}}}
    nic = {"name": "nic", "properties": {"primary": True, "ipConfigurations": [address]}}
    profile = {
        "storageProfile": storage(version),
        "osProfile": {
            "computerNamePrefix": "byid",
            "adminUsername": "azureuser",
            "linuxConfiguration": LINUX,
        },
        "networkProfile": {"networkInterfaceConfigurations": [nic]},
    }
    return {
        "location": REGION,
        "sku": {"name": "Standard_B1s", "capacity": 1},
        "properties": {
            "orchestrationMode": "Uniform",
            "upgradePolicy": {"mode": "Manual"},
            "virtualMachineProfile": profile,
        },
    }


def storage(version: str) -> dict[str, Any]:
    """An OS disk from the version."""
    return {"imageReference": {"id": version}, "osDisk": {"createOption": "FromImage"}}


def main(outcome: str, version: str, subscription: str, group: str, nic: str, subnet: str) -> None:
    """Try both; fail when the outcome is another one."""
    endpoint = os.environ["GALLERY_ENDPOINT"]
    credential = ClientSecretCredential(
        os.environ["AZURE_TENANT_ID"],
        os.environ["AZURE_CLIENT_ID"],
        os.environ["AZURE_CLIENT_SECRET"],
        authority=endpoint,
        disable_instance_discovery=True,
    )
    compute = ComputeManagementClient(
        credential, subscription, base_url=endpoint, credential_scopes=[f"{endpoint}/.default"]
    )
    attempts = (
        (compute.virtual_machines, "byid", machine(version, nic)),
        (compute.virtual_machine_scale_sets, "byidset", scale_set(version, subnet)),
    )
    for kind, name, body in attempts:
        try:
            made = kind.begin_create_or_update(group, name, body).result()
        except HttpResponseError as error:
            assert outcome == "refused", error
            assert error.status_code == 403, error
            assert error.error is not None and error.error.code == "LinkedAuthorizationFailed", error
            assert "Microsoft.Compute/galleries/images/versions/read" in str(error), error
        else:
            assert outcome == "allowed", f"{name} was made"
            assert made.provisioning_state == "Succeeded"
            kind.begin_delete(group, name).result()


if __name__ == "__main__":
    main(*sys.argv[1:])
