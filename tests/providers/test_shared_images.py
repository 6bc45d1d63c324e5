"""Machines, scale sets and disks of images that are shared directly, and whose bytes these read."""

import time
from pathlib import Path
from typing import Any

import pytest

from opengallery.providers.compute.scale_sets import automatic_upgrades
from opengallery.replication import progress

from .conftest import Api
from .data_disks import guest_sees, version_with_data_disks
from .images import (
    COMPUTE,
    REGION,
    definition,
    id_of,
    machine_body,
    managed_image,
    scale_set_body,
    version_body,
)
from .shared import (
    ELSEWHERE,
    GROUP,
    GROUPS_PROFILE,
    gallery,
    groups,
    image_id,
    machine_of,
    neighbour,
    people,
    published,
    share,
    stranger,
    theirs,
    unique,
)
from .vhds import SIZE_BYTES, disk

__all__ = ["gallery", "groups", "neighbour", "people", "published", "stranger", "theirs"]


def test_a_machine_is_made_from_a_shared_version_without_a_role_on_the_gallery(
    api: Api, gallery: str, neighbour: Api, groups: Any
) -> None:
    group = groups(neighbour)
    path, body = machine_of(neighbour, group, image_id(api, "latest"))
    refusal = neighbour.refused("PUT", path, body)
    assert refusal[:2] == (404, "GalleryImageNotFound")
    assert "not shared" in refusal[2]
    share(api, Subscriptions=[neighbour.first.subscription_id])
    made = neighbour.put(path, body)
    reference = made["properties"]["storageProfile"]["imageReference"]
    assert reference == {"sharedGalleryImageId": image_id(api, "latest"), "exactVersion": "1.0.0"}
    os_disk = made["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"]
    creation = neighbour.get(os_disk)["properties"]["creationData"]
    assert creation["galleryImageReference"] == {"sharedGalleryImageId": image_id(api, "1.0.0")}
    shown = neighbour.ask("GET", f"{path}?$expand=instanceView").text + str(neighbour.get(os_disk))
    assert f"/resourceGroups/{GROUP}/".lower() not in shown.lower()

    private = machine_body(neighbour, "unused")
    version = id_of(api, f"{gallery}/images/linux/versions/1.0.0")
    private["properties"]["storageProfile"]["imageReference"] = {"id": version}
    other = f"{group}/{COMPUTE}/virtualMachines/other"
    assert neighbour.refused("PUT", other, private)[:2] == (403, "LinkedAuthorizationFailed")

    share(api, "Reset")
    path_2, body_2 = machine_of(neighbour, group, image_id(api, "1.0.0"), name="late")
    assert neighbour.refused("PUT", path_2, body_2)[1] == "GalleryImageNotFound"
    for verb in ("restart", "deallocate", "start"):
        neighbour.act(f"{path}/{verb}")
    assert neighbour.put(path, {**body, "tags": {"a": "b"}})["tags"] == {"a": "b"}


def test_a_shared_reference_obeys_the_rules_of_others(
    api: Api, gallery: str, neighbour: Api, groups: Any
) -> None:
    group = groups(neighbour)
    share(api, Subscriptions=[neighbour.first.subscription_id])

    def refused(image: str, region: str = REGION, **more: str) -> tuple[int, str, str]:
        path, body = machine_of(neighbour, group, image, region)
        body["properties"]["storageProfile"]["imageReference"] |= more
        found = neighbour.refused("PUT", path, body)
        assert neighbour.ask("GET", path).status_code == 404
        return found

    status, code, message = refused(image_id(api, "3.0.0"))
    assert (status, code) == (404, "GalleryImageNotFound")
    assert "is not available in westcentralus region" in message and GROUP not in message
    assert refused(image_id(api, "latest"), "japaneast")[1] == "GalleryImageNotFound"
    assert refused(image_id(api, "9.9.9"))[1] == "GalleryImageNotFound"
    assert refused(image_id(api, "1.0.0", name="windows"))[1] == "GalleryImageNotFound"
    for malformed in (
        "/SharedGalleries/x",
        f"{image_id(api, '1.0.0')}/more",
        image_id(api, "1.0.0").replace("Shared", "Community"),
        image_id(api, ""),
        f"/SharedGalleries/{'x' * 2000}/Images/a/Versions/1.0.0",
        id_of(api, f"{gallery}/images/linux/versions/1.0.0"),
    ):
        assert refused(malformed)[0] == 400, malformed
    both = image_id(api, "1.0.0").replace("Shared", "Community")
    assert refused(image_id(api, "1.0.0"), communityGalleryImageId=both)[0] == 400
    path, body = machine_of(neighbour, group, image_id(api, "2.0.0"))
    made = neighbour.put(path, body)["properties"]["storageProfile"]["imageReference"]
    assert made["exactVersion"] == "2.0.0"
    body["properties"]["storageProfile"]["imageReference"] = {"sharedGalleryImageId": image_id(api, "1.0.0")}
    assert neighbour.refused("PUT", path, body)[:2] == (409, "PropertyChangeNotAllowed")
    path, body = machine_of(neighbour, group, image_id(api, "latest"), ELSEWHERE, "there")
    made = neighbour.put(path, body)["properties"]["storageProfile"]["imageReference"]
    assert made["exactVersion"] == "3.0.0"


@pytest.mark.parametrize("mode", ["Flexible", "Uniform"])
def test_a_scale_set_does_not_grow_under_a_revoked_share(
    api: Api, gallery: str, neighbour: Api, groups: Any, mode: str
) -> None:
    group = groups(neighbour)
    path = f"{group}/{COMPUTE}/virtualMachineScaleSets/set"
    body = scale_set_body(neighbour, "unused", 2, mode=mode)
    storage = body["properties"]["virtualMachineProfile"]["storageProfile"]
    storage["imageReference"] = {"sharedGalleryImageId": image_id(api, "latest")}
    assert neighbour.refused("PUT", path, body)[1] == "GalleryImageNotFound"
    share(api, Subscriptions=[neighbour.first.subscription_id])
    neighbour.put(path, body)
    share(api, "Reset")
    status, code, message = neighbour.refused("PUT", path, {**body, "sku": {**body["sku"], "capacity": 3}})
    assert (status, code) == (404, "GalleryImageNotFound")
    assert "not shared (any more)" in message
    assert len(neighbour.get(f"{path}/virtualMachines")["value"]) == 2
    neighbour.put(path, {**body, "sku": {**body["sku"], "capacity": 1}})
    neighbour.act(f"{path}/restart")


def test_another_tenants_machine_reads_our_bytes_and_keeps_its_own_apart(
    api: Api, gallery: str, stranger: Api, theirs: Any, groups: Any
) -> None:
    group = groups(stranger)
    share(api, AADTenants=[theirs[0]])
    exported = f"{group}/{COMPUTE}/disks/exported"
    creation = {
        "createOption": "FromImage",
        "galleryImageReference": {"sharedGalleryImageId": image_id(api, "latest")},
    }
    made = stranger.put(exported, {"location": REGION, "properties": {"creationData": creation}})
    assert made["properties"]["creationData"] == creation
    url = stranger.act(f"{exported}/beginGetAccess", {"access": "Read", "durationInSeconds": 600})[
        "accessSAS"
    ]
    assert stranger.client.get(url).content[:SIZE_BYTES] == disk(1, 2)

    machine, body = machine_of(stranger, group, image_id(api, "1.0.0"))
    stranger.put(machine, body)
    for verb in ("deallocate", "generalize"):
        stranger.act(f"{machine}/{verb}")
    image = f"{group}/{COMPUTE}/images/captured"
    source = {"sourceVirtualMachine": {"id": id_of(stranger, machine)}}
    stranger.put(image, {"location": REGION, "tags": {}, "properties": source})
    with api.services.database.read() as connection:
        (captured,) = progress.replicas(connection, id_of(stranger, image).lower())
        shared = progress.replicas(connection, id_of(stranger, exported).lower())
    assert captured.tenant_id == theirs[0]
    assert {replica.tenant_id for replica in shared} == {api.first.tenant_id}
    reader = api.services.stores.open(captured.store, theirs[0]).open(captured.image_id)
    assert reader.read(0, reader.size_bytes) == disk(1, 2)

    share(api, "Reset")
    late = exported.replace("exported", "late")
    refusal = stranger.refused("PUT", late, {"location": REGION, "properties": {"creationData": creation}})
    assert refusal[:2] == (404, "GalleryImageNotFound")


def test_the_data_disks_of_a_shared_version_come_with_it(
    api: Api, stranger: Api, theirs: Any, groups: Any, tmp_path: Path
) -> None:
    theirs_group, ours = groups(stranger), api.group("disks")
    path = f"{ours}/{COMPUTE}/galleries/gallery"
    api.put(path, {"location": REGION})
    api.put(path, GROUPS_PROFILE)
    version_with_data_disks(api, ours, REGION)
    image = f"/SharedGalleries/{unique(api)}/Images/linux/Versions/1.0.0"
    share(api, gallery=path, AADTenants=[theirs[0]])
    machine, body = machine_of(stranger, theirs_group, image)
    disks = stranger.put(machine, body)["properties"]["storageProfile"]["dataDisks"]
    five = next(one for one in disks if one["lun"] == 5)
    creation = stranger.get(five["managedDisk"]["id"])["properties"]["creationData"]
    assert creation["galleryImageReference"] == {"sharedGalleryImageId": image, "lun": 5}
    stranger.act(f"{machine}/deallocate")
    assert guest_sees(stranger, machine, 5, tmp_path)[:SIZE_BYTES] == disk(3, 4)
    single = f"{theirs_group}/{COMPUTE}/disks/zero"
    reference = {"sharedGalleryImageId": image, "lun": 0}
    source = {"createOption": "FromImage", "galleryImageReference": reference}
    stranger.put(single, {"location": REGION, "properties": {"creationData": source}})
    url = stranger.act(f"{single}/beginGetAccess", {"access": "Read", "durationInSeconds": 600})["accessSAS"]
    assert stranger.client.get(url).content[:SIZE_BYTES] == disk(2)
    source["galleryImageReference"]["lun"] = 7
    other = single.replace("zero", "seven")
    assert (
        stranger.refused("PUT", other, {"location": REGION, "properties": {"creationData": source}})[0] == 404
    )
    share(api, "Reset", gallery=path)


def test_a_new_version_of_a_shared_image_rolls_out_by_itself(api: Api, neighbour: Api, groups: Any) -> None:
    ours, group = api.group("rolling"), groups(neighbour)
    path = f"{ours}/{COMPUTE}/galleries/gallery"
    api.put(path, GROUPS_PROFILE)
    source = managed_image(api, ours, "image", 1)
    parent = definition(api, ours)
    api.put(f"{parent}/versions/1.0.9", version_body(api, source, REGION))
    share(api, gallery=path, Subscriptions=[neighbour.first.subscription_id])
    scale_set = f"{group}/{COMPUTE}/virtualMachineScaleSets/set"
    body = scale_set_body(neighbour, "unused", 1, mode="Uniform")
    body["properties"]["upgradePolicy"] = {"automaticOSUpgradePolicy": {"enableAutomaticOSUpgrade": True}}
    storage = body["properties"]["virtualMachineProfile"]["storageProfile"]
    storage["imageReference"] = {"sharedGalleryImageId": image_id(api, "latest")}
    neighbour.put(scale_set, body)

    def version() -> str:
        (instance,) = neighbour.get(f"{scale_set}/virtualMachines")["value"]
        return str(instance["properties"]["storageProfile"]["imageReference"]["exactVersion"])

    assert version() == "1.0.9"
    api.put(f"{parent}/versions/1.0.10", version_body(api, source, REGION))
    deadline = time.monotonic() + 60
    while version() != "1.0.10" and time.monotonic() < deadline:
        automatic_upgrades.begin_due(api.services)
        time.sleep(0.2)
    assert version() == "1.0.10"
    upgrade = f"{scale_set}/rollingUpgrades/latest"
    while neighbour.get(upgrade)["properties"]["runningStatus"]["code"] == "RollingForward":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    share(api, "Reset", gallery=path)
