"""Captures: machines, and snapshots of their disks, become images and versions of their own."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from opengallery.hypervisors import guest_agent
from opengallery.replication import placement, progress

from .conftest import Api
from .images import COMPUTE, REGION, definition, id_of, machine_body, managed_image, version_body

KIB = 1024
MARK = 0x5A
MARK_OFFSET = 5 * 1024 * KIB


@pytest.fixture(scope="module")
def published(server: Api) -> Iterator[str]:
    """A version with two replicas here."""
    group = server.group("published")
    server.groups.remove("published")
    image = managed_image(server, group, "image", 1)
    version = f"{definition(server, group)}/versions/1.0.0"
    server.put(version, version_body(server, image, (REGION, 2)))
    yield version
    server.delete(group)


@pytest.fixture
def machine(api: Api, published: str) -> str:
    """A running machine of it in the group of the test."""
    path = f"{api.group('captures')}/{COMPUTE}/virtualMachines/vm"
    api.put(path, machine_body(api, published))
    return path


def write_mark(api: Api, machine: str) -> None:
    """Write a block of the stopped machine's disk, as its guest would."""
    vm_id = api.get(machine)["properties"]["vmId"]
    overlay = api.services.settings.data / "machines" / vm_id / "os.qcow2"
    command = f"write -P {MARK} {MARK_OFFSET} 4k"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, overlay], check=True, capture_output=True)


def generalized(api: Api, machine: str) -> None:
    """Change the machine's disk, and make the machine ready for an image."""
    api.act(f"{machine}/deallocate")
    write_mark(api, machine)
    api.act(f"{machine}/generalize")


def os_disk(api: Api, machine: str) -> str:
    """The path of a machine's OS disk."""
    full = api.get(machine)["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"]
    return str(full).removeprefix(f"/subscriptions/{api.first.subscription_id}/")


def held(api: Api, path: str) -> list[progress.Replica]:
    """The replicas of a resource."""
    with api.services.database.read() as connection:
        return progress.replicas(connection, id_of(api, path).lower())


def content(api: Api, path: str) -> bytes:
    """The bytes of a resource's image."""
    replica = held(api, path)[0]
    reader = api.services.stores.open(replica.store, replica.tenant_id).open(replica.image_id)
    return reader.read(0, reader.size_bytes)


def changed(before: bytes) -> bytes:
    """What `write_mark` makes of a disk."""
    return before[:MARK_OFFSET] + bytes([MARK]) * 4096 + before[MARK_OFFSET + 4096 :]


def image_from(api: Api, machine: str) -> dict[str, Any]:
    """The body that `az image create --source VM` sends."""
    return {
        "location": REGION,
        "tags": {},
        "properties": {"sourceVirtualMachine": {"id": id_of(api, machine)}},
    }


def snapshot_body(api: Api, source: str) -> dict[str, Any]:
    """The body that `az snapshot create --source` sends."""
    creation = {"createOption": "Copy", "sourceResourceId": id_of(api, source)}
    return {
        "location": REGION,
        "sku": {"name": "Standard_LRS"},
        "properties": {"creationData": creation, "incremental": False},
    }


def version_from(api: Api, storage: dict[str, Any], *regions: str) -> dict[str, Any]:
    """The body that `az sig image-version create` sends for other sources than images."""
    body = version_body(api, None, *regions)
    body["properties"]["storageProfile"] = storage
    return body


def specialized(api: Api, group: str) -> str:
    """A definition of specialized images; its path."""
    parent = definition(api, group)
    path = f"{parent.rpartition('/')[0]}/special"
    properties = api.get(parent)["properties"]
    properties |= {"osState": "Specialized", "identifier": {"publisher": "us", "offer": "x", "sku": "y"}}
    api.put(path, {"location": REGION, "properties": properties})
    return path


def test_the_loop_closes(api: Api, published: str, machine: str) -> None:
    before = content(api, published)
    generalized(api, machine)
    image = "resourceGroups/captures/providers/Microsoft.Compute/images/golden"
    made = api.put(image, image_from(api, machine))["properties"]
    assert made["hyperVGeneration"] == "V1"
    assert made["storageProfile"]["osDisk"]["osType"] == "Linux"
    assert made["storageProfile"]["osDisk"]["osState"] == "Generalized"
    assert content(api, image) == changed(before)
    (replica,) = held(api, image)
    assert replica.store in {other.store for other in held(api, published)}
    assert replica.stored_bytes < 64 * KIB
    version = f"{definition(api, 'resourceGroups/captures')}/versions/2.0.0"
    api.put(version, version_body(api, image, (REGION, 2)))
    again = machine.replace("/vm", "/vm2")
    api.put(again, machine_body(api, version))
    # The first machine and version are needed no more.
    api.delete(machine)
    assert content(api, version) == changed(before)


def test_a_machine_is_published_without_an_image_between(api: Api, published: str, machine: str) -> None:
    before = content(api, published)
    generalized(api, machine)
    parent = definition(api, "resourceGroups/captures")
    for number, source in enumerate(({"virtualMachineId": id_of(api, machine)}, {"id": id_of(api, machine)})):
        version = f"{parent}/versions/1.0.{number}"
        api.put(version, version_from(api, {"source": source}, REGION, "westeurope"))
        assert content(api, version) == changed(before)
        assert {replica.region for replica in held(api, version)} == {REGION, "westeurope"}
    away = f"{parent}/versions/1.0.9"
    api.put(away, version_from(api, {"source": {"id": id_of(api, machine)}}, "westeurope"))
    assert [replica.region for replica in held(api, away)] == ["westeurope"]
    assert not [*(api.services.settings.data / "uploads").glob("*.qcow2")]


def test_a_snapshot_of_a_running_machine(api: Api, published: str, machine: str) -> None:
    before = content(api, published)
    snapshot = "resourceGroups/captures/providers/Microsoft.Compute/snapshots/snap"
    made = api.put(snapshot, snapshot_body(api, os_disk(api, machine)))
    assert made["properties"]["osType"] == "Linux"
    assert made["properties"]["diskSizeBytes"] == len(before)
    assert content(api, snapshot) == before
    assert api.get(f"{machine}/instanceView")["statuses"][1]["code"] == "PowerState/running"
    api.act(f"{machine}/deallocate")
    write_mark(api, machine)
    assert content(api, snapshot) == before
    special = specialized(api, "resourceGroups/captures")
    sources = {
        "1.0.0": {"osDiskImage": {"source": {"id": id_of(api, snapshot)}}},
        "1.0.1": {"osDiskImage": {"source": {"id": id_of(api, os_disk(api, machine))}}},
        "1.0.2": {"source": {"virtualMachineId": id_of(api, machine)}},
        "1.0.3": {"source": {"id": id_of(api, f"{special}/versions/1.0.0")}},
    }
    for number, storage in sources.items():
        api.put(f"{special}/versions/{number}", version_from(api, storage))
    found = [content(api, f"{special}/versions/{number}") for number in sources]
    assert found == [before, changed(before), changed(before), before]


def test_snapshots_and_disks_are_made_of_each_other(api: Api, published: str, machine: str) -> None:
    before = content(api, published)
    group = "resourceGroups/captures/providers/Microsoft.Compute"
    api.put(f"{group}/snapshots/a", snapshot_body(api, os_disk(api, machine)))
    api.put(f"{group}/snapshots/b", snapshot_body(api, f"{group}/snapshots/a"))
    api.put(f"{group}/disks/c", snapshot_body(api, f"{group}/snapshots/b"))
    api.put(f"{group}/disks/d", snapshot_body(api, os_disk(api, machine)))
    api.delete(machine)
    api.delete(f"{group}/snapshots/a")
    for path in (f"{group}/snapshots/b", f"{group}/disks/c", f"{group}/disks/d"):
        assert content(api, path) == before
    body = {
        "location": REGION,
        "properties": {
            "storageProfile": {
                "osDisk": {"osType": "Linux", "snapshot": {"id": id_of(api, f"{group}/snapshots/b")}}
            }
        },
    }
    assert content(api, api.put(f"{group}/images/e", body) and f"{group}/images/e") == before
    url = api.act(f"{group}/snapshots/b/beginGetAccess", {"access": "Read", "durationInSeconds": 60})
    read = api.client.get(url["accessSAS"])
    assert read.content[: len(before)] == before
    api.act(f"{group}/snapshots/b/endGetAccess")
    assert api.client.get(url["accessSAS"]).status_code == 403


def test_a_machines_disk_is_shown_and_goes_with_it(api: Api, published: str, machine: str) -> None:
    disk = os_disk(api, machine)
    shown = api.get(disk)
    assert shown["managedBy"] == id_of(api, machine)
    assert shown["properties"]["diskState"] == "Attached"
    assert shown["properties"]["creationData"]["galleryImageReference"]["id"] == id_of(api, published)
    status, code, message = api.refused("DELETE", disk)
    assert (status, code) == (409, "OperationNotAllowed")
    assert "attached to VM" in message
    assert api.refused("POST", f"{disk}/beginGetAccess", {"access": "Read"})[0] == 409
    api.put(disk, {**shown, "tags": {"a": "b"}})
    assert held(api, disk) == []
    api.act(f"{machine}/deallocate")
    assert api.get(disk)["properties"]["diskState"] == "Reserved"
    taken = machine_body(api, published)
    taken["properties"]["storageProfile"]["osDisk"]["name"] = disk.rsplit("/", 1)[-1]
    status, code, message = api.refused("PUT", machine.replace("/vm", "/other"), taken)
    assert (status, code) == (409, "Conflict")
    assert "already exists" in message
    api.delete(machine)
    assert api.ask("GET", disk).status_code == 404


def test_only_a_generalized_machine_becomes_an_image(
    api: Api, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = "resourceGroups/captures/providers/Microsoft.Compute/images/early"
    status, code, message = api.refused("PUT", image, image_from(api, machine))
    assert (status, code) == (409, "OperationNotAllowed")
    assert "requires the Virtual Machine 'vm' to be Generalized" in message
    version = f"{definition(api, 'resourceGroups/captures')}/versions/1.0.0"
    body = version_from(api, {"source": {"virtualMachineId": id_of(api, machine)}})
    status, code, message = api.refused("PUT", version, body)
    assert (status, code) == (400, "BadRequest")
    assert (
        "different OS state ['Specialized'] than the parent gallery image OS state ['Generalized']" in message
    )
    status, code, message = api.refused("POST", f"{machine}/generalize")
    assert (status, code) == (409, "OperationNotAllowed")
    assert "since the VM is running" in message
    command = {"commandId": "RunShellScript", "script": ["true"]}
    monkeypatch.setattr(guest_agent, "ANSWER_S", 1)
    ended = api.operation(api.ask("POST", f"{machine}/runCommand", command))
    assert ended["error"]["code"] == "VMAgentStatusCommunicationError"
    assert "SSH" in ended["error"]["message"]
    generalized(api, machine)
    status, code, message = api.refused("POST", f"{machine}/runCommand", command)
    assert (status, code) == (409, "OperationNotAllowed")
    assert "since it does not run" in message
    view = api.get(f"{machine}/instanceView")
    assert "OSState/generalized" in [status["code"] for status in view["statuses"]]
    for action in ("start", "restart"):
        status, code, message = api.refused("POST", f"{machine}/{action}")
        assert (status, code) == (409, "OperationNotAllowed")
        assert "since the VM is generalized" in message
    special = specialized(api, "resourceGroups/captures")
    assert api.refused("PUT", f"{special}/versions/1.0.0", body)[1] == "BadRequest"
    elsewhere = {**image_from(api, machine), "location": "westeurope"}
    assert api.refused("PUT", image, elsewhere)[0] == 400


def test_a_capture_outlives_its_machine_and_version(
    api: Api, published: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machine and version are deleted while the machine's disk is taken in: the image is whole."""
    before = content(api, published)
    image = "resourceGroups/captures/providers/Microsoft.Compute/images/late"
    own = f"{definition(api, 'resourceGroups/captures')}/versions/1.0.0"
    api.put(own, version_body(api, published))
    other = machine.replace("/vm", "/other")
    api.put(other, machine_body(api, own))
    generalized(api, other)
    copy: Callable[[str, Mapping[int | None, Path]], None] = api.services.hypervisor.copy_disks

    def copy_then_delete(machine_id: str, targets: Mapping[int | None, Path]) -> None:
        copy(machine_id, targets)
        monkeypatch.undo()
        # A thread of its own, as another client has: this one is inside of a step.
        deletion = threading.Thread(target=lambda: (api.delete(other), api.delete(own)))
        deletion.start()
        deletion.join()

    monkeypatch.setattr(api.services.hypervisor, "copy_disks", copy_then_delete)
    api.put(image, image_from(api, other))
    assert content(api, image) == changed(before)
    with api.services.database.read() as connection:
        assert placement.read_plan(connection, f"{id_of(api, image).lower()}/capture") is None
