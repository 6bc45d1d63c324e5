"""Data disks: empty ones that a machine is made with, and what can be made of them."""

from typing import Any

import pytest

from .conftest import Api
from .images import COMPUTE, REGION, definition, id_of, machine_body, managed_image, version_body


@pytest.fixture
def version(api: Api) -> str:
    """A version in the group of the test."""
    group = api.group("data-disks")
    path = f"{definition(api, group)}/versions/1.0.0"
    api.put(path, version_body(api, managed_image(api, group, "image", 1), REGION))
    return path


def with_disks(api: Api, version: str, *disks: dict[str, Any]) -> dict[str, Any]:
    """The machine that `az vm create --data-disk-sizes-gb` puts into its template."""
    body = machine_body(api, version)
    body["properties"]["storageProfile"]["dataDisks"] = [{"createOption": "empty", **disk} for disk in disks]
    return body


def test_a_machine_has_empty_data_disks(api: Api, version: str) -> None:
    machine = f"resourceGroups/data-disks/{COMPUTE}/virtualMachines/vm"
    disks = (
        {"lun": 0, "diskSizeGB": 1, "managedDisk": {"storageAccountType": None}},
        {"lun": 3, "diskSizeGB": 2},
    )
    made = api.put(machine, with_disks(api, version, *disks))["properties"]
    first, second = made["storageProfile"]["dataDisks"]
    assert (first["lun"], second["lun"]) == (0, 3)
    folder = api.services.settings.data / "machines" / made["vmId"]
    assert {path.name for path in folder.glob("*.qcow2")} == {"os.qcow2", "data-0.qcow2", "data-3.qcow2"}
    assert api.get(f"{machine}/instanceView")["statuses"][1]["code"] == "PowerState/running"
    shown = api.get(f"resourceGroups/data-disks/{COMPUTE}/disks/{second['name']}")
    assert shown["managedBy"] == id_of(api, machine)
    assert shown["properties"]["diskSizeGB"] == 2
    assert shown["properties"]["diskState"] == "Attached"
    snapshot = f"resourceGroups/data-disks/{COMPUTE}/snapshots/snap"
    creation = {"createOption": "Copy", "sourceResourceId": first["managedDisk"]["id"]}
    taken = api.services.settings.images.max_size_bytes
    assert taken < 2**30
    answer = api.ask("PUT", snapshot, {"location": REGION, "properties": {"creationData": creation}})
    # It is larger than this server's limit on images, and the limit holds for captures too.
    assert "more than the" in str(api.operation(answer))
    api.act(f"{machine}/deallocate")
    api.act(f"{machine}/generalize")
    image = f"resourceGroups/data-disks/{COMPUTE}/images/whole"
    source = {"sourceVirtualMachine": {"id": id_of(api, machine)}}
    answer = api.ask("PUT", image, {"location": REGION, "properties": source})
    assert "more than the" in str(api.operation(answer))
    assert api.get(image)["properties"]["provisioningState"] == "Failed"
    assert list((api.services.settings.data / "uploads").glob("*.qcow2")) == []
    api.delete(machine)
    assert api.ask("GET", f"resourceGroups/data-disks/{COMPUTE}/disks/{first['name']}").status_code == 404


def test_impossible_data_disks_are_refused(api: Api, version: str) -> None:
    machine = f"resourceGroups/data-disks/{COMPUTE}/virtualMachines/vm"

    def refused(*disks: dict[str, Any]) -> int:
        status = api.refused("PUT", machine, with_disks(api, version, *disks))[0]
        assert api.ask("GET", machine).status_code == 404
        return status

    assert refused({"lun": 0, "diskSizeGB": 1}, {"lun": 0, "diskSizeGB": 1}) == 400
    assert refused({"lun": 0}) == 400
    assert refused({"lun": 0, "diskSizeGB": 1, "createOption": "FromImage"}) == 400
    assert refused({"lun": 64, "diskSizeGB": 1}) == 400
    assert refused(*({"lun": lun, "diskSizeGB": 1} for lun in range(5))) == 409
