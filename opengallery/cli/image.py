"""`gallery image`: managed images, from which versions are published."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.arguments import parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.options import (
    Generation,
    Group,
    Location,
    Name,
    OsTypeOption,
    OsTypeOrNone,
    Tags,
    parse_id,
    resource_id,
)
from opengallery.cli.single import add_delete, add_list, add_show

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

IMAGES = "Microsoft.Compute/images"
DISKS = "Microsoft.Compute/disks"
SNAPSHOTS = "Microsoft.Compute/snapshots"
MACHINES = "Microsoft.Compute/virtualMachines"

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "HyperVGeneration": "hyperVGeneration",
    "OsType": "storageProfile.osDisk.osType",
    "ProvisioningState": "provisioningState",
}

StorageSku = Annotated[
    str | None, typer.Option("--storage-sku", "--sku", metavar="SKU", help="Storage type.")
]

app = new_app("Managed images.")
add_show(app, "image", IMAGES, COLUMNS)
add_list(app, "image", IMAGES, COLUMNS)
add_delete(app, "image", IMAGES, asks=False)


@verb(
    app,
    "create",
    [
        "gallery image create -g myRG -n myImage --source myDisk --os-type Linux",
        "gallery image create -g myRG -n myImage --source https://example.com/disk.vhd --os-type Linux",
    ],
    columns=COLUMNS,
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    name: Name,
    source: Annotated[
        str, typer.Option("--source", metavar="URL|ID|NAME", help="Image file, VM, disk or snapshot.")
    ],
    os_type: OsTypeOrNone = None,
    data_disk_sources: Annotated[
        list[str] | None,
        typer.Option("--data-disk-sources", metavar="URL|ID|NAME...", help="Data disks, of luns 0, 1, 2."),
    ] = None,
    hyper_v_generation: Generation = None,
    storage_sku: StorageSku = None,
    location: Location = None,
    tags: Tags = None,
) -> Any:
    """Create a managed image from URLs that the server fetches, disks, snapshots or a VM."""
    key, value = _source(arm, resource_group, source)
    properties: dict[str, Any] = {"hyperVGeneration": hyper_v_generation or "V1"}
    if key == "sourceVirtualMachine":
        if data_disk_sources:
            raise Misuse("--data-disk-sources: a VM brings its data disks by itself.")
        # It knows its own generation.
        properties = {key: value, **({"hyperVGeneration": hyper_v_generation} if hyper_v_generation else {})}
    elif os_type is None:
        raise Misuse("Missing --os-type: only a VM knows its own.")
    else:
        profile = _storage_profile(os_type, storage_sku, {key: value})
        for lun, text in enumerate(data_disk_sources or ()):
            key, value = _source(arm, resource_group, text)
            if key == "sourceVirtualMachine":
                raise Misuse(f"--data-disk-sources: '{text}' is a VM. Give disks, snapshots or URLs.")
            profile["dataDisks"].append({"lun": lun, key: value})
        properties["storageProfile"] = profile
    body = {
        "location": location or arm.location(resource_group),
        "tags": parse_tags(tags) or {},
        "properties": properties,
    }
    return arm.put(resource_id(arm.subscription, resource_group, IMAGES, name), body)


@verb(
    app,
    "import",
    [
        "gallery image import disk.raw -g myRG -n myImage --os-type Linux --hyper-v-generation V2",
        "gallery image import cloud.qcow2 -g myRG -n myImage --os-type Linux --sha256 HEX",
    ],
    columns=COLUMNS,
)
def import_file(
    arm: "ArmClient",
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Raw, VHD, VHDX, qcow2 or VMDK image.")],
    resource_group: Group,
    name: Name,
    os_type: OsTypeOption,
    hyper_v_generation: Generation = None,
    storage_sku: StorageSku = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="HEX", help="Send nothing unless this is the file's.")
    ] = None,
    location: Location = None,
    tags: Tags = None,
) -> Any:
    """Make a managed image of a file here. After a break, the same command goes on where it stopped."""
    from opengallery.cli.image_import import import_image

    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise Misuse("--sha256 has to be 64 hexadecimal digits.")
    location = location or arm.location(resource_group)
    body = {
        "location": location,
        "tags": parse_tags(tags) or {},
        "properties": {
            "hyperVGeneration": hyper_v_generation or "V1",
            "storageProfile": _storage_profile(os_type, storage_sku, {}),
        },
    }
    image = resource_id(arm.subscription, resource_group, IMAGES, name)
    disk = resource_id(arm.subscription, resource_group, DISKS, name)
    return import_image(arm, file, image, disk, location, body, sha256)


def _storage_profile(os_type: str, sku: str | None, source: dict[str, Any]) -> dict[str, Any]:
    os_disk = {"osType": os_type, "osState": "Generalized", **source}
    if sku:
        os_disk["storageAccountType"] = sku
    return {"osDisk": os_disk, "dataDisks": []}


def _source(arm: "ArmClient", group: str, source: str) -> tuple[str, Any]:
    """The property that names the source, and its value."""
    if source.lower().startswith(("http://", "https://")):
        return "blobUri", source
    properties = {
        MACHINES.lower(): "sourceVirtualMachine",
        DISKS.lower(): "managedDisk",
        SNAPSHOTS.lower(): "snapshot",
    }
    if source.startswith("/"):
        identity = parse_id(source, "--source")
        if identity.type.lower() not in properties:
            raise Misuse(f"--source: {identity.type} is neither VM nor disk nor snapshot.")
        return properties[identity.type.lower()], {"id": str(identity)}
    identity = find_by_name(arm, group, (MACHINES, DISKS, SNAPSHOTS), source)
    return properties[identity.type.lower()], {"id": str(identity)}


def find_by_name(arm: "ArmClient", group: str, resource_types: tuple[str, ...], name: str) -> ResourceId:
    """The first resource of this name, in the order of the types."""
    for resource_type in resource_types:
        identity = resource_id(arm.subscription, group, resource_type, name)
        if arm.find(identity) is not None:
            return identity
    kinds = " or ".join(resource_type.split("/")[1] for resource_type in resource_types)
    raise CommandFailed(f"Resource group '{group}' has no {kinds} named '{name}'.", code="ResourceNotFound")
