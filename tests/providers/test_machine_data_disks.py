"""Machines from versions with data disks: each gets them by itself, with their bytes, and keeps them."""

import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from opengallery.arm import resources
from opengallery.hypervisors import HypervisorError, MachineSpec
from opengallery.hypervisors.filling import fill
from opengallery.providers.compute import machine_data_disks
from opengallery.replication.placement import readers

from .conftest import Api
from .data_disks import (
    changed,
    contents,
    file_of,
    guest_sees,
    owner,
    version_with_data_disks,
    write_mark,
)
from .images import (
    COMPUTE,
    REGION,
    definition,
    id_of,
    instance_ids,
    machine_body,
    scale_set_body,
    scale_set_in,
    version_body,
)
from .vhds import MIB, disk

GIB = 1024 * MIB


def machine_in(group: str, name: str = "vm") -> str:
    """The path of a machine of the group."""
    return f"{group}/{COMPUTE}/virtualMachines/{name}"


def with_disks(api: Api, version: str, *disks: dict[str, Any]) -> dict[str, Any]:
    """A machine that asks for these data disks."""
    body = machine_body(api, version)
    body["properties"]["storageProfile"]["dataDisks"] = list(disks)
    return body


def reading(api: Api) -> list[str]:
    """The owners of what is read now."""
    with api.services.database.read() as connection:
        return list(connection.scalars(select(readers.c.owner).where(readers.c.is_reading)))


def disk_in(api: Api, shown: dict[str, Any]) -> Any:
    """The resource of a machine's data disk."""
    return api.get(f"{shown['managedDisk']['id']}?api-version=2025-01-02")


def test_a_machine_gets_the_data_disks_of_its_version(api: Api, tmp_path: Path) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group, (REGION, 2))
    machine = machine_in(group)
    first, second = api.put(machine, machine_body(api, version))["properties"]["storageProfile"]["dataDisks"]
    assert (first["lun"], first["createOption"], first["diskSizeGB"]) == (0, "FromImage", 1)
    resource = disk_in(api, second)
    reference = resource["properties"]["creationData"]["galleryImageReference"]
    assert reference == {"id": id_of(api, version), "lun": 5}
    assert resource["properties"]["diskSizeBytes"] == 20 * MIB
    assert resource["managedBy"] == id_of(api, machine)
    assert api.get(f"{machine}/instanceView")["statuses"][1]["code"] == "PowerState/running"
    # The copy is whole, so nothing is read any more; the machine counts as told until it is deleted.
    assert owner(api, version, 0) not in reading(api)
    told = [entry["vms"] for entry in api.get(f"{version}/replicas")["value"] if entry.get("lun") == 0]
    assert sorted(told) == [0, 1]
    api.delete(version)
    api.act(f"{machine}/deallocate")
    assert guest_sees(api, machine, 0, tmp_path) == disk(2)
    assert guest_sees(api, machine, 5, tmp_path) == disk(3, 4)
    # Made once more, as `az vm resize` does, the disks stay.
    write_mark(api, machine, 0)
    body = api.get(machine)
    body["properties"]["hardwareProfile"]["vmSize"] = "Standard_D4s_v5"
    api.put(machine, body)
    assert guest_sees(api, machine, 0, tmp_path) == changed(disk(2))
    api.delete(machine)
    with api.services.database.read() as connection:
        assert not connection.execute(select(readers).where(readers.c.machine.contains("/data"))).all()
    assert api.ask("GET", f"{first['managedDisk']['id']}?api-version=2025-01-02").status_code == 404


def test_a_data_disk_that_is_missing_is_copied_when_the_machine_is_made_once_more(
    api: Api, tmp_path: Path
) -> None:
    """As a crash leaves it in the middle of a reimage: the old disk is gone, and no replica chosen for a new one."""
    group = api.group("data")
    version = version_with_data_disks(api, group)
    machine = machine_in(group)
    api.put(machine, machine_body(api, version))
    api.act(f"{machine}/deallocate")
    file_of(api, machine, 5).unlink()
    with api.services.database.write() as connection:
        found = resources.get(connection, id_of(api, machine))
        assert found is not None
        machine_data_disks.release(connection, found)
    body = api.get(machine)
    body["properties"]["hardwareProfile"]["vmSize"] = "Standard_D4s_v5"
    api.put(machine, body)
    assert guest_sees(api, machine, 5, tmp_path) == disk(3, 4)
    assert reading(api) == [id_of(api, version).lower()]


def test_a_machine_may_want_larger_and_more_data_disks(api: Api, tmp_path: Path) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group)
    larger = {"lun": 5, "createOption": "fromImage", "diskSizeGB": 2, "caching": "ReadOnly", "name": "mine"}
    empty = {"lun": 1, "createOption": "empty", "diskSizeGB": 1}
    made = api.put(machine_in(group), with_disks(api, version, larger, empty))["properties"]
    shown = {entry["lun"]: entry for entry in made["storageProfile"]["dataDisks"]}
    assert sorted(shown) == [0, 1, 5]
    assert (shown[5]["name"], shown[5]["caching"], shown[5]["diskSizeGB"]) == ("mine", "ReadOnly", 2)
    api.act(f"{machine_in(group)}/deallocate")
    content = guest_sees(api, machine_in(group), 5, tmp_path)
    assert len(content) == 2 * GIB
    assert content[: 20 * MIB] == disk(3, 4)
    assert not any(content[20 * MIB :])
    assert len(guest_sees(api, machine_in(group), 1, tmp_path)) == GIB
    # Sparse: two MiB of data, whatever the size.
    assert file_of(api, machine_in(group), 5).stat().st_blocks * 512 < 4 * MIB


def test_impossible_wishes_are_refused(api: Api) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group)

    def refused(*disks: dict[str, Any], **hardware: str) -> tuple[int, str]:
        body = with_disks(api, version, *disks)
        body["properties"]["hardwareProfile"] |= hardware
        status, _, message = api.refused("PUT", machine_in(group), body)
        assert api.ask("GET", machine_in(group)).status_code == 404
        return status, message

    status, message = refused({"lun": 3, "createOption": "FromImage"})
    assert status == 400
    assert "no data disk of lun 3. Its luns: 0, 5" in message
    status, message = refused({"lun": 5, "createOption": "Empty", "diskSizeGB": 4})
    assert status == 400
    assert "is that of a data disk of the image" in message
    assert refused({"lun": 1, "createOption": "Attach"})[0] == 400
    empty = [{"lun": lun, "createOption": "Empty", "diskSizeGB": 1} for lun in (1, 2, 3)]
    status, message = refused(*empty)
    assert status == 409
    assert "maximum number of data disks" in message


def test_what_a_machine_wrote_on_its_data_disk_is_in_the_next_version(api: Api, tmp_path: Path) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group)
    golden = machine_in(group, "golden")
    api.put(golden, machine_body(api, version))
    api.act(f"{golden}/deallocate")
    write_mark(api, golden, 5)
    api.act(f"{golden}/generalize")
    parent = definition(api, group)
    image = f"{group}/{COMPUTE}/images/golden"
    made = api.put(
        image, {"location": REGION, "properties": {"sourceVirtualMachine": {"id": id_of(api, golden)}}}
    )
    disks = made["properties"]["storageProfile"]["dataDisks"]
    assert [(entry["lun"], entry["diskSizeGB"]) for entry in disks] == [(0, 1), (5, 1)]
    api.put(f"{parent}/versions/2.0.0", version_body(api, image, (REGION, 2)))
    direct = version_body(api, None)
    direct["properties"]["storageProfile"] = {"source": {"virtualMachineId": id_of(api, golden)}}
    api.put(f"{parent}/versions/3.0.0", direct)
    single = version_body(api, None)
    disk_id = api.get(golden)["properties"]["storageProfile"]["dataDisks"][1]["managedDisk"]["id"]
    single["properties"]["storageProfile"] = {
        "osDiskImage": {"source": {"id": id_of(api, f"{group}/{COMPUTE}/snapshots/os")}},
        "dataDiskImages": [{"lun": 9, "source": {"id": disk_id}}],
    }
    api.put(f"{parent}/versions/4.0.0", single)
    api.delete(golden)
    assert contents(api, f"{parent}/versions/2.0.0", 5) == [changed(disk(3, 4))] * 2
    assert contents(api, f"{parent}/versions/3.0.0", 0) == [disk(2)]
    assert contents(api, f"{parent}/versions/4.0.0", 9) == [changed(disk(3, 4))]
    again = machine_in(group, "again")
    api.put(again, machine_body(api, f"{parent}/versions/3.0.0"))
    api.act(f"{again}/deallocate")
    assert guest_sees(api, again, 5, tmp_path) == changed(disk(3, 4))
    from_image = machine_in(group, "from-image")
    shown = api.put(from_image, machine_body(api, image))["properties"]["storageProfile"]["dataDisks"]
    assert disk_in(api, shown[0])["properties"]["creationData"]["imageReference"]["lun"] == 0
    assert list((api.services.settings.data / "uploads").glob("*.qcow2")) == []


def test_instances_have_their_own_data_disks_and_new_ones_after_a_reimage(api: Api, tmp_path: Path) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group, (REGION, 2))
    scale_set = scale_set_in(group)
    body = scale_set_body(api, version, 2, mode="Uniform")
    # As az writes it: the luns of the version.
    profile = body["properties"]["virtualMachineProfile"]["storageProfile"]
    profile["dataDisks"] = [
        {"lun": 0, "createOption": "fromImage", "managedDisk": {"storageAccountType": None}}
    ]
    api.put(scale_set, body)
    instances = [f"{scale_set}/virtualMachines/{name}" for name in instance_ids(api, scale_set)]
    before = [api.get(one)["properties"]["storageProfile"]["dataDisks"] for one in instances]
    assert [[entry["lun"] for entry in disks] for disks in before] == [[0, 5]] * 2
    api.act(f"{scale_set}/deallocate")
    write_mark(api, instances[0], 5)
    assert guest_sees(api, instances[1], 5, tmp_path) == disk(3, 4)
    api.act(f"{scale_set}/reimage")
    after = [api.get(one)["properties"]["storageProfile"]["dataDisks"] for one in instances]
    assert after == before
    assert guest_sees(api, instances[0], 5, tmp_path) == disk(3, 4)
    assert disk_in(api, after[0][1])["managedBy"] == id_of(api, instances[0])
    assert owner(api, version, 5) not in reading(api)
    api.delete(scale_set)
    with api.services.database.read() as connection:
        assert not connection.execute(select(readers).where(readers.c.owner == owner(api, version, 0))).all()


def test_the_version_may_be_deleted_while_data_disks_are_copied(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group, (REGION, 2))
    create = api.services.hypervisor.create

    def delete_then_create(spec: MachineSpec) -> None:
        monkeypatch.undo()
        assert owner(api, version, 5) in reading(api)
        # A thread of its own, as another client has: this one is inside of a step.
        deletion = threading.Thread(target=api.delete, args=(version,))
        deletion.start()
        deletion.join()
        create(spec)

    monkeypatch.setattr(api.services.hypervisor, "create", delete_then_create)
    api.put(machine_in(group), machine_body(api, version))
    api.act(f"{machine_in(group)}/deallocate")
    assert guest_sees(api, machine_in(group), 5, tmp_path) == disk(3, 4)
    assert owner(api, version, 5) not in reading(api)


def test_a_machine_whose_copy_failed_is_created_again(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group)

    def fail_at_five(path: Path, machine_id: str, data_disk: Any, is_wanted: Any) -> None:
        if data_disk.lun == 5:
            raise HypervisorError("The replica is gone.")
        fill(path, machine_id, data_disk, is_wanted)

    monkeypatch.setattr("opengallery.hypervisors.folder.fill", fail_at_five)
    body = machine_body(api, version)
    operation = api.operation(api.ask("PUT", machine_in(group), body))
    assert operation["error"]["code"] == "AllocationFailed"
    assert operation["error"]["message"].startswith("The replica is gone. Mend what it says")
    assert owner(api, version, 5) in reading(api)
    monkeypatch.undo()
    # As az sends it once more: the luns alone.
    asked = {"createOption": "fromImage", "managedDisk": {"storageAccountType": None}}
    body = with_disks(api, version, {"lun": 0, **asked})
    made = api.put(machine_in(group), body)["properties"]["storageProfile"]["dataDisks"]
    assert [entry["lun"] for entry in made] == [0, 5]
    assert owner(api, version, 5) not in reading(api)
    for disks in ([{"lun": 0, **asked}], [{"lun": 0, **asked}, {"lun": 5, **asked, "diskSizeGB": 9}]):
        other = with_disks(api, version, *disks)
        assert api.refused("PUT", machine_in(group), other)[:2] == (409, "PropertyChangeNotAllowed")
    api.act(f"{machine_in(group)}/deallocate")
    assert guest_sees(api, machine_in(group), 0, tmp_path) == disk(2)
    assert guest_sees(api, machine_in(group), 5, tmp_path) == disk(3, 4)
