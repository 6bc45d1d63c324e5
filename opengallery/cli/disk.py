"""`gallery disk`: managed disks, and the URLs to upload and download them."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.cli.arguments import parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import Misuse
from opengallery.cli.image import DISKS, SNAPSHOTS, find_by_name
from opengallery.cli.options import (
    Generation,
    Group,
    GroupOrNone,
    Ids,
    Location,
    Name,
    NameOrNone,
    NoWait,
    OsTypeOrNone,
    Tags,
    named,
    parse_id,
    resource_id,
)
from opengallery.cli.published import is_shared, member
from opengallery.cli.single import add_action, add_delete, add_list, add_show, one_or_all

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "Sku": "sku.name",
    "OsType": "osType",
    "SizeGb": "diskSizeGB",
    "DiskState": "diskState",
    "ProvisioningState": "provisioningState",
}

Source = Annotated[
    str | None, typer.Option("--source", metavar="URL|ID|NAME", help="Image file, disk or snapshot to copy.")
]
Sku = Annotated[str, typer.Option("--sku", metavar="SKU", help="Storage type.")]
SizeGb = Annotated[int | None, typer.Option("--size-gb", "-z", min=1, help="Size in GiB.")]
AccessLevel = Annotated[
    Literal["Read", "Write"],
    typer.Option("--access-level", "--access", case_sensitive=False, help="For what."),
]
Duration = Annotated[
    int, typer.Option("--duration-in-seconds", min=60, metavar="SECONDS", help="How long the URL is good.")
]

app = new_app("Managed disks.")
add_show(app, "disk", DISKS, COLUMNS)
add_list(app, "disk", DISKS, COLUMNS)
add_delete(app, "disk", DISKS, asks=True)
add_action(
    app, "disk", "revoke-access", DISKS, "endGetAccess", "End the access by URL; an upload is complete then."
)


@verb(
    app,
    "create",
    [
        "gallery disk create -g myRG -n myDisk --upload-type Upload --upload-size-bytes 2147484160",
        "gallery disk create -g myRG -n myDisk --source mySnapshot",
        "gallery disk create -g myRG -n d --gallery-image-reference $VERSION_ID --gallery-image-reference-lun 0",
    ],
    columns=COLUMNS,
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    name: Name,
    source: Source = None,
    upload_type: Annotated[
        Literal["Upload"] | None,
        typer.Option("--upload-type", case_sensitive=False, help="The disk's content will be uploaded."),
    ] = None,
    upload_size_bytes: Annotated[
        int | None,
        typer.Option("--upload-size-bytes", metavar="BYTES", help="Size of the VHD with its footer."),
    ] = None,
    gallery_image_reference: Annotated[
        str | None,
        typer.Option("--gallery-image-reference", metavar="ID", help="Image version to make the disk of."),
    ] = None,
    gallery_image_reference_lun: Annotated[
        int | None,
        typer.Option("--gallery-image-reference-lun", metavar="LUN", help="Its data disk, not its OS disk."),
    ] = None,
    size_gb: SizeGb = None,
    sku: Sku = "Premium_LRS",
    os_type: OsTypeOrNone = None,
    hyper_v_generation: Generation = None,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create a disk: for an upload, as a copy, from an image version, from a URL, or empty."""
    if (upload_type is None) != (upload_size_bytes is None):
        raise Misuse("--upload-type and --upload-size-bytes go together.")
    if gallery_image_reference_lun is not None and gallery_image_reference is None:
        raise Misuse("--gallery-image-reference-lun goes with --gallery-image-reference.")
    if upload_type:
        creation: dict[str, Any] = {"createOption": "Upload", "uploadSizeBytes": upload_size_bytes}
    elif gallery_image_reference:
        if not is_shared(gallery_image_reference):
            parse_id(gallery_image_reference, "--gallery-image-reference")
        reference: dict[str, Any] = {member(gallery_image_reference): gallery_image_reference}
        if gallery_image_reference_lun is not None:
            reference["lun"] = gallery_image_reference_lun
        creation = {"createOption": "FromImage", "galleryImageReference": reference}
    else:
        creation = creation_data(arm, resource_group, source, size_gb)
    return put_disk(
        arm,
        DISKS,
        resource_group,
        name,
        creation,
        size_gb,
        sku,
        os_type,
        hyper_v_generation,
        location,
        tags,
        no_wait,
    )


@verb(
    app,
    "grant-access",
    ["gallery disk grant-access -g myRG -n myDisk --access-level Write --duration-in-seconds 86400"],
)
def grant_access(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    name: NameOrNone = None,
    ids: Ids = None,
    access_level: AccessLevel = "Read",
    duration_in_seconds: Duration = 3600,
) -> Any:
    """Print a URL to upload (Write) or download (Read) the disk."""
    return one_or_all(
        [
            arm.act(
                disk, "beginGetAccess", {"access": access_level, "durationInSeconds": duration_in_seconds}
            )
            for disk in named(arm.subscription, DISKS, ids, resource_group, name=name)
        ]
    )


def creation_data(arm: "ArmClient", group: str, source: str | None, size_gb: int | None) -> dict[str, Any]:
    """How a disk or snapshot comes into being."""
    if source is None:
        if size_gb is None:
            raise Misuse("Give --source, or --size-gb for an empty disk.")
        return {"createOption": "Empty"}
    if source.lower().startswith(("http://", "https://")):
        return {"createOption": "Import", "sourceUri": source}
    if not source.startswith("/"):
        source = str(find_by_name(arm, group, (SNAPSHOTS, DISKS), source))
    return {"createOption": "Copy", "sourceResourceId": source}


def put_disk(
    arm: "ArmClient",
    resource_type: str,
    group: str,
    name: str,
    creation: dict[str, Any],
    size_gb: int | None,
    sku: str,
    os_type: str | None,
    generation: str | None,
    location: str | None,
    tags: list[str] | None,
    no_wait: bool,
) -> Any:
    """Create a disk or a snapshot."""
    properties: dict[str, Any] = {"creationData": creation}
    optional = {"diskSizeGB": size_gb, "osType": os_type, "hyperVGeneration": generation}
    properties.update({key: value for key, value in optional.items() if value is not None})
    body = {
        "location": location or arm.location(group),
        "tags": parse_tags(tags) or {},
        "sku": {"name": sku},
        "properties": properties,
    }
    return arm.put(resource_id(arm.subscription, group, resource_type, name), body, wait=not no_wait)
