"""Bringing an image in over HTTPS, and publishing it, by one server's client."""

import random
from pathlib import Path
from typing import Any

from opengallery.imagestore.vhd import fixed_footer

from .serving import Gallery

REGION = "westcentralus"
COMPUTE = "providers/Microsoft.Compute"
GROUP = "resourceGroups/group"
PIECE_BYTES = 4 * 1024**2
MIB = 1024**2


def random_image(path: Path, size_mib: int, data_mib: int, seed: int = 1) -> Path:
    """A sparse file with that much random data, spread over it."""
    numbers = random.Random(seed)
    with path.open("wb") as file:
        for index in range(data_mib):
            file.seek(index * size_mib // data_mib * MIB)
            file.write(numbers.randbytes(MIB))
        file.truncate(size_mib * MIB)
    return path


def upload(gallery: Gallery, path: Path, name: str, generation: str = "V1") -> str:
    """Make a managed image of a raw file; its path."""
    size_bytes = path.stat().st_size
    creation = {"createOption": "Upload", "uploadSizeBytes": size_bytes + 512}
    disk = f"{GROUP}/{COMPUTE}/disks/{name}"
    gallery.put(disk, {"location": REGION, "properties": {"osType": "Linux", "creationData": creation}})
    sas = gallery.act("POST", f"{disk}/beginGetAccess", {"access": "Write", "durationInSeconds": 600})[
        "accessSAS"
    ]
    with path.open("rb") as file:
        for offset in range(0, size_bytes, PIECE_BYTES):
            _put_page(gallery, sas, offset, file.read(PIECE_BYTES))
    _put_page(gallery, sas, size_bytes, fixed_footer(size_bytes))
    gallery.act("POST", f"{disk}/endGetAccess")
    image = f"{GROUP}/{COMPUTE}/images/{name}"
    os_disk = {"osType": "Linux", "osState": "Generalized", "managedDisk": {"id": id_of(gallery, disk)}}
    gallery.put(
        image,
        {
            "location": REGION,
            "properties": {"hyperVGeneration": generation, "storageProfile": {"osDisk": os_disk}},
        },
    )
    return image


def _put_page(gallery: Gallery, sas: str, offset: int, content: bytes) -> None:
    if content.count(0) == len(content):
        return
    headers = {"x-ms-page-write": "update", "x-ms-range": f"bytes={offset}-{offset + len(content) - 1}"}
    answer = gallery.client.put(sas.replace("?", "?comp=page&"), content=content, headers=headers)
    assert answer.status_code == 201, answer.text


def id_of(gallery: Gallery, path: str) -> str:
    """The full id of a path."""
    return f"/subscriptions/{gallery.variables['AZURE_SUBSCRIPTION_ID']}/{path}"


def definition(gallery: Gallery, name: str = "linux", generation: str = "V1") -> str:
    """A group, a gallery and a definition; the path of this one."""
    gallery.put("resourcegroups/group", {"location": REGION})
    gallery.put(f"{GROUP}/{COMPUTE}/galleries/gallery", {"location": REGION})
    path = f"{GROUP}/{COMPUTE}/galleries/gallery/images/{name}"
    properties = {
        "identifier": {"publisher": "us", "offer": name, "sku": generation},
        "osType": "Linux",
        "osState": "Generalized",
        "hyperVGeneration": generation,
    }
    gallery.put(path, {"location": REGION, "properties": properties})
    return path


def version_body(gallery: Gallery, source: str, **targets: int) -> dict[str, Any]:
    """A version of `source` with so many replicas in these regions."""
    regions = [{"name": name, "regionalReplicaCount": count} for name, count in targets.items()]
    return {
        "location": REGION,
        "properties": {
            "publishingProfile": {"targetRegions": regions},
            "storageProfile": {"source": {"id": id_of(gallery, source)}},
        },
    }


def machine_profile(gallery: Gallery, image: str, name: str | None = None) -> dict[str, Any]:
    """The profiles that a machine and a scale set have in common."""
    keys = {
        "ssh": {
            "publicKeys": [{"keyData": "ssh-ed25519 AAAA me", "path": "/home/azureuser/.ssh/authorized_keys"}]
        }
    }
    os_profile = {"adminUsername": "azureuser", "linuxConfiguration": keys}
    if name is not None:
        os_profile["computerName"] = name
    return {
        "storageProfile": {
            "imageReference": {"id": id_of(gallery, image)},
            "osDisk": {"createOption": "FromImage"},
        },
        "osProfile": os_profile,
    }


def machine_body(gallery: Gallery, image: str, name: str) -> dict[str, Any]:
    """A virtual machine of an image."""
    properties = {"hardwareProfile": {"vmSize": "Standard_D2s_v5"}, **machine_profile(gallery, image, name)}
    return {"location": REGION, "properties": properties}
