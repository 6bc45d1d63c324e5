"""Versions with data disks: published, replicated, changed and deleted as one with their OS disk."""

from typing import Any

import pytest
from sqlalchemy import select

from opengallery.replication.leftovers import leftovers
from opengallery.replication.progress import replicas_table

from .conftest import NAMED_REGION, Api
from .data_disks import body_of, contents, held, owner, snapshot, storage, version_with_data_disks
from .files import FileServer
from .images import (
    COMPUTE,
    REGION,
    definition,
    full_disk,
    id_of,
    machine_body,
    managed_image,
    open_disk,
    version_body,
)
from .vhds import MIB, disk, fixed_vhd

TARGETS = ((REGION, 2), (NAMED_REGION, 1))


def regions(api: Api, version: str) -> dict[Any, dict[str, int]]:
    """How many complete replicas each disk has, by lun (None for the OS disk) and region."""
    counts: dict[Any, dict[str, int]] = {}
    for entry in api.get(f"{version}/replicas")["value"]:
        assert entry["state"] == "Completed", entry
        of_disk = counts.setdefault(entry.get("lun"), {})
        of_disk[entry["region"]] = of_disk.get(entry["region"], 0) + 1
    return counts


def test_every_disk_gets_the_same_replicas(api: Api) -> None:
    version = version_with_data_disks(api, api.group("data"), *TARGETS)
    first, second = api.get(version)["properties"]["storageProfile"]["dataDiskImages"]
    assert (first["lun"], first["sizeInGB"], first["hostCaching"]) == (0, 1, "None")
    assert second["source"]["id"].endswith("/snapshots/five")
    both = {REGION: 2, NAMED_REGION: 1}
    assert regions(api, version) == {None: both, 0: both, 5: both}
    assert contents(api, version, 0) == [disk(2)] * 3
    assert contents(api, version, 5) == [disk(3, 4)] * 3
    (replica,) = [
        entry
        for entry in api.get(f"{version}/replicas")["value"]
        if entry["region"] != REGION and entry.get("lun") == 5
    ]
    assert replica["bytes"] == 20 * MIB
    status = api.get(f"{version}?$expand=ReplicationStatus")["properties"]["replicationStatus"]
    assert status["aggregatedState"] == "Completed"
    assert [(entry["state"], entry["progress"]) for entry in status["summary"]] == [("Completed", 100)] * 2
    os_bytes = {
        entry.region: entry.moved_bytes + entry.saved_bytes
        for entry in held(api, id_of(api, version).lower())
    }
    for entry in status["summary"]:
        assert entry["bytesMoved"] + entry["bytesSaved"] > os_bytes[entry["region"].replace(" ", "").lower()]


def test_other_regions_are_those_of_every_disk(api: Api) -> None:
    version = version_with_data_disks(api, api.group("data"), *TARGETS)
    body = api.get(version)
    profile = body["properties"]["publishingProfile"]
    profile["targetRegions"] = [{"name": "westeurope", "regionalReplicaCount": 1}, {"name": REGION}]
    # az takes the source out, and sends the rest as it got it.
    after = api.put(version, body)
    only = {REGION: 1, "westeurope": 1}
    assert regions(api, version) == {None: only, 0: only, 5: only}
    assert after["properties"]["storageProfile"] == body["properties"]["storageProfile"]
    body["properties"]["storageProfile"] = {}
    assert api.put(version, body)["properties"]["storageProfile"] == after["properties"]["storageProfile"]
    body["properties"]["storageProfile"] = {
        "dataDiskImages": after["properties"]["storageProfile"]["dataDiskImages"][:1]
    }
    assert api.refused("PUT", version, body)[:2] == (409, "PropertyChangeNotAllowed")


def test_a_deleted_version_leaves_nothing_of_its_data_disks(api: Api) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group, *TARGETS)
    owners = [id_of(api, version).lower(), owner(api, version, 0), owner(api, version, 5)]
    places = [(entry.store, entry.tenant_id, entry.image_id) for key in owners for entry in held(api, key)]
    for name in ("os", "zero", "five"):
        api.delete(f"{group}/{COMPUTE}/snapshots/{name}")
        api.delete(f"{group}/{COMPUTE}/disks/{name}-disk")
    assert all(api.services.stores.open(store, tenant).has(image) for store, tenant, image in places)
    api.delete(version)
    with api.services.database.read() as connection:
        assert not connection.execute(select(replicas_table).where(replicas_table.c.owner.in_(owners))).all()
        assert not connection.execute(select(leftovers)).all()
    assert not any(api.services.stores.open(store, tenant).has(image) for store, tenant, image in places)


def test_a_version_of_a_version_and_of_a_managed_image_has_their_data_disks(api: Api) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group)
    again = version.replace("1.0.0", "1.0.1")
    api.put(again, version_body(api, version, (REGION, 2)))
    shown = api.get(again)["properties"]["storageProfile"]["dataDiskImages"]
    assert [(entry["lun"], entry["sizeInGB"], "source" in entry) for entry in shown] == [
        (0, 1, False),
        (5, 1, False),
    ]
    api.delete(version)
    assert contents(api, again, 5) == [disk(3, 4)] * 2

    image = f"{group}/{COMPUTE}/images/whole"
    waiting, _ = open_disk(api, group, "waiting")
    body: dict[str, Any] = {
        "location": REGION,
        "properties": {
            "storageProfile": {
                "osDisk": {
                    "osType": "Linux",
                    "snapshot": {"id": id_of(api, f"{group}/{COMPUTE}/snapshots/os")},
                },
                "dataDisks": [
                    {"lun": 0, "snapshot": {"id": id_of(api, f"{group}/{COMPUTE}/snapshots/zero")}},
                    {"lun": 1, "managedDisk": {"id": id_of(api, f"{group}/{COMPUTE}/disks/five-disk")}},
                ],
            }
        },
    }
    api.put(image, body)
    assert contents(api, image, 1) == [disk(3, 4)]
    api.put(version, version_body(api, image))
    assert regions(api, version) == {None: {REGION: 1}, 0: {REGION: 1}, 1: {REGION: 1}}
    api.delete(image)
    assert held(api, owner(api, image, 0)) == []
    assert contents(api, version, 0) == [disk(2)]
    # A disk whose upload is not ended has no bytes.
    body["properties"]["storageProfile"]["dataDisks"][1]["managedDisk"]["id"] = id_of(api, waiting)
    assert api.refused("PUT", image, body)[0] == 400


def test_a_managed_image_fetches_the_files_of_its_data_disks(api: Api, file_server: FileServer) -> None:
    group = api.group("data")
    os_url, data_url = f"{file_server.url}/allowed/os.vhd", f"{file_server.url}/allowed/data.vhd"
    file_server.files |= {"/allowed/os.vhd": fixed_vhd(6), "/allowed/data.vhd": fixed_vhd(7)}
    image = f"{group}/{COMPUTE}/images/fetched"
    properties = {
        "storageProfile": {
            "osDisk": {"osType": "Linux", "blobUri": os_url},
            "dataDisks": [{"lun": 2, "blobUri": data_url}],
        }
    }
    api.put(image, {"location": REGION, "properties": properties})
    assert contents(api, image, 2) == [disk(7)]


def test_a_disk_is_made_of_a_data_disk_and_read(api: Api) -> None:
    group = api.group("data")
    version = version_with_data_disks(api, group)

    def body(lun: int) -> dict[str, Any]:
        creation = {
            "createOption": "FromImage",
            "galleryImageReference": {"id": id_of(api, version), "lun": lun},
        }
        return {"location": REGION, "properties": {"creationData": creation}}

    path = f"{group}/{COMPUTE}/disks/from-five"
    made = api.put(path, body(5))["properties"]
    assert made["diskSizeGB"] == 1
    assert "osType" not in made
    snapshot_body = {
        "location": REGION,
        "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": id_of(api, path)}},
    }
    copy = f"{group}/{COMPUTE}/snapshots/of-it"
    api.put(copy, snapshot_body)
    api.delete(version)
    for resource in (path, copy):
        url = api.act(f"{resource}/beginGetAccess", {"access": "Read", "durationInSeconds": 60})["accessSAS"]
        assert api.client.get(url).content[: 20 * MIB] == disk(3, 4)
    api.put(version, version_body(api, managed_image(api, group, "plain", 1)))
    status, code, message = api.refused("PUT", path.replace("five", "six"), body(5))
    assert (status, code) == (404, "NotFound")
    assert "no data disk of lun 5. Its luns: none" in message


def test_sources_of_data_disks_that_can_not_be_used_are_refused(api: Api) -> None:
    group = api.group("data")
    parent = definition(api, group)
    version = f"{parent}/versions/1.0.0"
    system, data = snapshot(api, group, "os", 1), snapshot(api, group, "data", 2)
    image = managed_image(api, group, "image", 1)
    waiting, _ = open_disk(api, group, "waiting")
    full_disk(api, group, "here", 3)

    def refused(profile: dict[str, Any], **more: Any) -> tuple[int, str]:
        status, code, _ = api.refused("PUT", version, {**body_of(api, profile), **more})
        assert api.ask("GET", version).status_code == 404
        return status, code

    twice = storage(api, system, lun0=data)
    twice["dataDiskImages"] *= 2
    assert refused(twice) == (400, "InvalidParameter")
    assert refused(storage(api, system, lun64=data)) == (400, "InvalidParameter")
    assert refused(storage(api, system, lun0=image)) == (400, "InvalidParameter")
    assert refused(storage(api, system, lun0=f"{group}/{COMPUTE}/snapshots/gone"))[0] == 404
    assert refused(storage(api, system, lun0=waiting)) == (409, "OperationNotAllowed")
    many = {f"lun{lun}": data for lun in range(17)}
    assert refused(storage(api, system, **many)) == (400, "InvalidParameter")
    unnamed = storage(api, system, lun0=data)
    del unnamed["dataDiskImages"][0]["source"]
    assert refused(unnamed) == (400, "InvalidParameter")
    beside = {**storage(api, system, lun0=data), "source": {"id": id_of(api, image)}}
    del beside["osDiskImage"]
    assert refused(beside) == (400, "InvalidParameter")
    elsewhere = f"{group}/{COMPUTE}/disks/elsewhere"
    far = version_body(api, image, "westeurope")
    api.put(f"{parent}/versions/0.0.1", far)
    creation = {
        "createOption": "FromImage",
        "galleryImageReference": {"id": id_of(api, f"{parent}/versions/0.0.1")},
    }
    api.put(elsewhere, {"location": "westeurope", "properties": {"creationData": creation}})
    assert refused(storage(api, system, lun0=elsewhere)) == (400, "InvalidParameter")


@pytest.mark.parametrize("lun", [0, 5])
def test_a_region_is_not_complete_before_every_data_disk_is(api: Api, lun: int) -> None:
    """One data disk's replica is bad: the region is not usable, and the version says so."""
    group = api.group("data")
    version = version_with_data_disks(api, group)
    with api.services.database.write() as connection:
        columns = replicas_table.c
        connection.execute(
            replicas_table.update()
            .where(columns.owner == owner(api, version, lun))
            .values(state="Replicating", done_bytes=0)
        )
    status = api.get(f"{version}?$expand=ReplicationStatus")["properties"]["replicationStatus"]
    assert status["aggregatedState"] == "InProgress"
    (region,) = status["summary"]
    assert (region["state"], region["progress"]) == ("Replicating", 66)
    machine = f"{group}/{COMPUTE}/virtualMachines/vm"
    assert api.refused("PUT", machine, machine_body(api, version))[:2] == (404, "GalleryImageNotFound")
