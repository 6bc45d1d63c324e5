"""`kill -9` of the server in the middle of its work: the next server brings it to its end."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from opengallery.database import Database
from opengallery.imagestore import ImageStore, verify
from opengallery.imagestore.vhd import fixed_footer
from opengallery.replication.progress import replicas_table
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

from .publishing import (
    COMPUTE,
    GROUP,
    MIB,
    definition,
    id_of,
    machine_profile,
    random_image,
    upload,
    version_body,
)
from .serving import Gallery, until

KILLS = 5
NETWORK = "providers/Microsoft.Network"


def replicas(gallery: Gallery, version: str) -> Any:
    """Our own list of a version's replicas."""
    return gallery.get(f"{version}/replicas")["value"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_publishing_goes_on_after_each_kill(gallery: Gallery, tmp_path: Path) -> None:
    parent = definition(gallery)
    source = random_image(tmp_path / "image.raw", 1024, 200)
    image = upload(gallery, source, "image")
    version = f"{parent}/versions/1.0.0"
    answer = gallery.ask(
        "PUT", version, version_body(gallery, image, westcentralus=1, westeurope=2, eastus2=1)
    )
    assert answer.status_code == 201
    moved: list[int] = []
    states: list[str] = []
    for number in range(KILLS):
        time.sleep(0.2 + 0.35 * number)
        gallery.kill()
        gallery.serve()
        states.append(gallery.get(version)["properties"]["provisioningState"])
        moved.append(sum(done["progress"] for done in summary(gallery, version)))
    assert moved == sorted(moved)
    assert states.count("Creating") >= 3, (states, moved)
    operation = gallery.ended(answer)
    assert operation["status"] == "Succeeded", operation
    assert gallery.get(version)["properties"]["provisioningState"] == "Succeeded"
    found = replicas(gallery, version)
    assert sorted(replica["region"] for replica in found) == [
        "eastus2",
        "westcentralus",
        "westeurope",
        "westeurope",
    ]
    assert {replica["state"] for replica in found} == {"Completed"}
    assert gallery.terminate() == 0
    check_replicas(gallery, version, source)


def summary(gallery: Gallery, version: str) -> Any:
    """The replication status by region."""
    return gallery.get(f"{version}?$expand=ReplicationStatus")["properties"]["replicationStatus"]["summary"]


def check_replicas(gallery: Gallery, version: str, source: Path) -> None:
    """Every replica reads as the file that was published, and verifies."""
    settings = Settings(data=gallery.data)
    database = Database(settings.database)
    stores = Stores(settings, database)
    with database.read() as connection:
        owner = id_of(gallery, version).lower()
        rows = connection.execute(select(replicas_table).where(replicas_table.c.owner == owner)).all()
    assert len(rows) == 4
    for row in rows:
        store: ImageStore = stores.open(row.store, row.tenant_id)
        assert verify(store, row.image_id).bad == []
        reader = store.open(row.image_id)
        with source.open("rb") as file:
            for offset in range(0, reader.size_bytes, 16 * MIB):
                assert bytes(reader.read(offset, 16 * MIB)) == file.read(16 * MIB), (row.store, offset)
    database.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_upload_and_an_image_are_taken_in_after_a_kill(gallery: Gallery, tmp_path: Path) -> None:
    definition(gallery)
    source = random_image(tmp_path / "image.raw", 256, 120)
    first = upload(gallery, source, "first")
    for number, pause_s in enumerate((0.05, 0.6)):
        disk = f"{GROUP}/{COMPUTE}/disks/d{number}"
        creation = {
            "createOption": "Copy",
            "sourceResourceId": id_of(gallery, f"{GROUP}/{COMPUTE}/disks/first"),
        }
        answer = gallery.ask(
            "PUT", disk, {"location": "westcentralus", "properties": {"creationData": creation}}
        )
        time.sleep(pause_s)
        gallery.kill()
        gallery.serve()
        assert gallery.ended(answer)["status"] == "Succeeded"
    assert gallery.get(first)["properties"]["provisioningState"] == "Succeeded"
    image = f"{GROUP}/{COMPUTE}/images/late"
    size_bytes = source.stat().st_size + 512
    disk = f"{GROUP}/{COMPUTE}/disks/late"
    creation = {"createOption": "Upload", "uploadSizeBytes": size_bytes}
    gallery.put(
        disk, {"location": "westcentralus", "properties": {"osType": "Linux", "creationData": creation}}
    )
    gallery.act("POST", f"{disk}/beginGetAccess", {"access": "Write", "durationInSeconds": 600})
    (staged,) = (gallery.data / "uploads").glob("*.vhd")
    with (
        staged.open("r+b") as file,
        random_image(tmp_path / "other.raw", 256, 120, seed=2).open("rb") as other,
    ):
        file.write(other.read())
        file.write(fixed_footer(size_bytes - 512))
    os_disk = {"osType": "Linux", "managedDisk": {"id": id_of(gallery, disk)}}
    body = {"location": "westcentralus", "properties": {"storageProfile": {"osDisk": os_disk}}}
    answer = gallery.ask("PUT", image, body)
    assert answer.status_code == 201, answer.text
    for _ in range(3):
        time.sleep(0.3)
        gallery.kill()
        gallery.serve()
    operation = gallery.ended(answer)
    assert operation["status"] == "Succeeded", operation
    assert gallery.get(disk)["properties"]["diskState"] == "Unattached"
    assert list((gallery.data / "uploads").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["Flexible", "Uniform"])
def test_a_scale_set_has_its_number_of_machines_after_kills(
    gallery: Gallery, tmp_path: Path, mode: str
) -> None:
    parent = definition(gallery)
    image = upload(gallery, random_image(tmp_path / "small.raw", 24, 1), "small")
    version = f"{parent}/versions/1.0.0"
    gallery.put(version, version_body(gallery, image, westcentralus=2))
    scale_set = f"{GROUP}/{COMPUTE}/virtualMachineScaleSets/set"
    profile = {**machine_profile(gallery, version), "networkProfile": network_profile(gallery)}
    properties = {"orchestrationMode": mode, "virtualMachineProfile": profile}
    body = {
        "location": "westcentralus",
        "sku": {"name": "Standard_D2s_v5", "capacity": 5},
        "properties": properties,
    }
    answer = gallery.ask("PUT", scale_set, body)
    assert answer.status_code == 201, answer.text
    for pause_s in (0.3, 0.8, 0.5):
        time.sleep(pause_s)
        gallery.kill()
        gallery.serve()
    operation = gallery.ended(answer)
    assert operation["status"] == "Succeeded", operation
    names = [found["instanceId"] for found in gallery.get(f"{scale_set}/virtualMachines")["value"]]
    assert len(names) == 5
    machines = [f"{scale_set}/virtualMachines/{name}" for name in names]
    until(lambda: all(gallery.power(machine) == "running" for machine in machines), 30)
    folders = sorted(path.name for path in (gallery.data / "machines").iterdir())
    assert folders == sorted(gallery.get(machine)["properties"]["vmId"] for machine in machines)
    spread = sorted(replica["vms"] for replica in replicas(gallery, version))
    assert spread == [2, 3]
    interfaces = gallery.get(f"{GROUP}/{NETWORK}/networkInterfaces")["value"]
    addresses = [one["properties"]["ipConfigurations"][0]["properties"] for one in interfaces]
    assert len({address["privateIPAddress"] for address in addresses}) == len(addresses) == 5
    holders = {one["properties"]["virtualMachine"]["id"] for one in interfaces}
    assert holders == {gallery.get(machine)["id"] for machine in machines}
    assert gallery.terminate() == 0
    assert gallery.pids() == []


def network_profile(gallery: Gallery) -> Any:
    """One interface for each machine, in a network that is made."""
    network = f"{GROUP}/{NETWORK}/virtualNetworks/network"
    subnet = {"name": "subnet", "properties": {"addressPrefix": "10.0.0.0/24"}}
    properties = {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}, "subnets": [subnet]}
    gallery.put(network, {"location": "westcentralus", "properties": properties})
    address = {"name": "ip", "properties": {"subnet": {"id": f"{id_of(gallery, network)}/subnets/subnet"}}}
    interface = {"primary": True, "ipConfigurations": [address]}
    return {"networkInterfaceConfigurations": [{"name": "nic", "properties": interface}]}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_is_ended_leaves_its_work_to_the_next(gallery: Gallery, tmp_path: Path) -> None:
    parent = definition(gallery)
    image = upload(gallery, random_image(tmp_path / "image.raw", 128, 60), "image")
    version = f"{parent}/versions/1.0.0"
    gallery.put(version, version_body(gallery, image, westcentralus=2))
    publishing = gallery.ask(
        "PUT", f"{parent}/versions/1.0.1", version_body(gallery, image, westeurope=2, eastus2=2)
    )
    profile = machine_profile(gallery, version)
    scale_set = f"{GROUP}/{COMPUTE}/virtualMachineScaleSets/set"
    properties = {"orchestrationMode": "Flexible", "virtualMachineProfile": profile}
    body = {
        "location": "westcentralus",
        "sku": {"name": "Standard_D2s_v5", "capacity": 4},
        "properties": properties,
    }
    starting = gallery.ask("PUT", scale_set, body)
    for pause_s in (0.4, 0.8):
        time.sleep(pause_s)
        assert gallery.terminate() == 0
        assert gallery.pids() == []
        gallery.serve()
    for answer in (publishing, starting):
        operation = gallery.ended(answer)
        assert operation["status"] == "Succeeded", operation
    assert len(replicas(gallery, f"{parent}/versions/1.0.1")) == 4
    assert len(gallery.get(f"{scale_set}/virtualMachines")["value"]) == 4
