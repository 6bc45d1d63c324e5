"""The way of an image to a version, as az goes it: disk, upload, managed image, definition, version."""

from typing import Any

from opengallery.replication import placement

from .conftest import Api
from .vhds import UPLOAD_BYTES, fixed_vhd

REGION = "westcentralus"
PIECE_BYTES = 4 * 1024**2
COMPUTE = "providers/Microsoft.Compute"


def put_page(api: Api, sas: str, offset: int, content: bytes, **headers: str) -> Any:
    """Put Page of these bytes; the answer."""
    sent = {
        "x-ms-page-write": "update",
        "x-ms-range": f"bytes={offset}-{offset + len(content) - 1}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return api.client.put(sas.replace("?", "?comp=page&"), content=content, headers=sent)


def write(api: Api, sas: str, content: bytes) -> None:
    """Upload what is not zero, as azure-storage-blob would."""
    for offset in range(0, len(content), PIECE_BYTES):
        piece = content[offset : offset + PIECE_BYTES]
        if piece.strip(b"\0"):
            answer = put_page(api, sas, offset, piece)
            assert answer.status_code == 201, answer.text


def disk_body(size_bytes: int = UPLOAD_BYTES, generation: str | None = None) -> dict[str, Any]:
    """The body that `az disk create --upload-type Upload` sends."""
    return {
        "location": REGION,
        "properties": {
            "osType": "Linux",
            "hyperVGeneration": generation,
            "creationData": {"createOption": "Upload", "uploadSizeBytes": size_bytes},
        },
    }


def grant(api: Api, disk: str, seconds: int = 3600) -> str:
    """The SAS URL of a disk."""
    return str(
        api.act(f"{disk}/beginGetAccess", {"access": "Write", "durationInSeconds": seconds})["accessSAS"]
    )


def open_disk(
    api: Api, group: str, name: str, size_bytes: int = UPLOAD_BYTES, **more: Any
) -> tuple[str, str]:
    """A disk that waits for its bytes: its path, and its SAS URL."""
    disk = f"{group}/{COMPUTE}/disks/{name}"
    api.put(disk, disk_body(size_bytes, **more))
    return disk, grant(api, disk)


def full_disk(api: Api, group: str, name: str, *seeds: int, size_mib: int = 20, **more: Any) -> str:
    """A disk with the bytes of these seeds, its upload ended; its path."""
    content = fixed_vhd(*seeds, size_mib=size_mib)
    disk, sas = open_disk(api, group, name, len(content), **more)
    write(api, sas, content)
    api.act(f"{disk}/endGetAccess")
    return disk


def id_of(api: Api, path: str) -> str:
    """The full id of a path."""
    return f"/subscriptions/{api.first.subscription_id}/{path}"


def image_body(api: Api, disk: str | None, generation: str = "V1", **os_disk: Any) -> dict[str, Any]:
    """The body that `az image create --source DISK` sends."""
    if disk is not None:
        os_disk["managedDisk"] = {"id": id_of(api, disk)}
    return {
        "location": REGION,
        "properties": {
            "hyperVGeneration": generation,
            "storageProfile": {
                "osDisk": {"osType": "Linux", "osState": "Generalized", **os_disk},
                "dataDisks": [],
            },
        },
    }


def managed_image(
    api: Api, group: str, name: str, *seeds: int, generation: str = "V1", size_mib: int = 20
) -> str:
    """A managed image with the bytes of these seeds; its path."""
    disk = full_disk(api, group, f"{name}-disk", *seeds, size_mib=size_mib)
    image = f"{group}/{COMPUTE}/images/{name}"
    api.put(image, image_body(api, disk, generation))
    return image


def definition(api: Api, group: str, name: str = "linux", generation: str = "V1") -> str:
    """An image definition in the gallery `gallery` of the group, which is made; its path."""
    gallery = f"{group}/{COMPUTE}/galleries/gallery"
    api.put(gallery, {"location": REGION})
    path = f"{gallery}/images/{name}"
    api.put(
        path,
        {
            "location": REGION,
            "properties": {
                "identifier": {"publisher": "us", "offer": name, "sku": generation},
                "osType": "Linux",
                "osState": "Generalized",
                "hyperVGeneration": generation,
            },
        },
    )
    return path


def version_body(api: Api, source: str | None, *targets: Any, **profile: Any) -> dict[str, Any]:
    """The body that `az sig image-version create` sends. A target is a name, or a name and a count."""
    regions = [
        {"name": target}
        if isinstance(target, str)
        else {"name": target[0], "regionalReplicaCount": target[1]}
        for target in targets
    ]
    storage = {} if source is None else {"source": {"id": id_of(api, source)}}
    return {
        "location": REGION,
        "tags": {},
        "properties": {
            "publishingProfile": {**({"targetRegions": regions} if regions else {}), **profile},
            "storageProfile": storage,
        },
    }


def replica_regions(api: Api, version: str) -> dict[str, int]:
    """How many replicas a version has, by region; all of them complete."""
    counts: dict[str, int] = {}
    for replica in api.get(f"{version}/replicas")["value"]:
        assert replica["state"] == "Completed", replica
        counts[replica["region"]] = counts.get(replica["region"], 0) + 1
    return counts


def machine_body(api: Api, image: str, location: str = REGION, **profile: Any) -> dict[str, Any]:
    """The virtual machine that `az vm create` puts into its template, without a network."""
    os_profile = {
        "computerName": "vm",
        "adminUsername": "azureuser",
        "linuxConfiguration": {
            "ssh": {
                "publicKeys": [
                    {"keyData": "ssh-ed25519 AAAA me", "path": "/home/azureuser/.ssh/authorized_keys"}
                ]
            }
        },
        **profile,
    }
    return {
        "location": location,
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_D2s_v5"},
            "storageProfile": {
                "imageReference": {"id": id_of(api, image)},
                "osDisk": {"createOption": "fromImage", "caching": "ReadWrite"},
            },
            "osProfile": {name: value for name, value in os_profile.items() if value is not None},
        },
    }


def scale_set_body(
    api: Api, image: str, capacity: int, location: str = REGION, mode: str = "Flexible", **profile: Any
) -> dict[str, Any]:
    """The scale set that `az vmss create` puts into its template, without a network."""
    machine = machine_body(api, image, location, computerName=None, **profile)["properties"]
    return {
        "location": location,
        "sku": {"name": "Standard_D2s_v5", "capacity": capacity},
        "properties": {
            "orchestrationMode": mode,
            "upgradePolicy": {"mode": "manual"},
            "virtualMachineProfile": {
                "storageProfile": machine["storageProfile"],
                "osProfile": machine["osProfile"],
            },
        },
    }


def instances(api: Api, scale_set: str) -> list[dict[str, Any]]:
    """All instances of a scale set, page by page as az reads them."""
    found, page = [], api.get(f"{scale_set}/virtualMachines")
    while True:
        found += page["value"]
        if "nextLink" not in page:
            return found
        page = api.get(page["nextLink"].split("testserver")[1])


def instance_ids(api: Api, scale_set: str) -> list[str]:
    """The ids of all instances."""
    return [str(found["instanceId"]) for found in instances(api, scale_set)]


def told(api: Api, version: str) -> list[int]:
    """How many machines were told to read each store first, in order."""
    with api.services.database.read() as connection:
        return sorted(placement.readers_per_store(connection, id_of(api, version).lower()).values())


def scale_set_in(group: str, name: str = "set") -> str:
    """The path of a scale set of the group."""
    return f"{group}/{COMPUTE}/virtualMachineScaleSets/{name}"
