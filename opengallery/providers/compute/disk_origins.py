"""Where a disk's bytes come from: its `creationData`."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from opengallery.arm.call import Call
from opengallery.arm.errors import invalid_parameter
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.providers.compute import image_data_disks, sources

_WHERE = "properties.creationData"


class ImageDiskReference(Properties):
    """An image version that a disk is made from: its OS disk, or its data disk of a lun."""

    id: str | None = None
    lun: Annotated[int, Meta(ge=0, le=image_data_disks.LUN_MAX)] | None = None


class CreationData(Properties):
    """Where a disk's bytes come from."""

    create_option: Literal["Upload", "Copy", "FromImage"]
    upload_size_bytes: int | None = None
    source_resource_id: str | None = None
    gallery_image_reference: ImageDiskReference | None = None
    image_reference: ImageDiskReference | None = None


def check(call: Call, new: Resource) -> None:
    """Take over what a new disk is made from by Copy or FromImage. Raises 400, 403 and 404."""
    data = new.properties["creationData"]
    text = _source_id(data)
    if not text:
        raise invalid_parameter(
            _WHERE, f"createOption {data['createOption']} needs a source. Give --source ID."
        )
    source = call.linked(text, _WHERE, sources.DISK, sources.SNAPSHOT, sources.VERSION)
    if source.id.type in (sources.DISK, sources.SNAPSHOT):
        # A copy gives its owner the bytes: that takes the right to export them, as on Azure.
        call.linked(text, _WHERE, source.id.type, action="beginGetAccess/action")
    lun = _reference(data).get("lun")
    data_disk = None if lun is None else image_data_disks.require(source, lun, _WHERE)
    sources.describe_copy(call, new, source, _WHERE, data_disk)


def source_key(disk: Resource) -> str:
    """Whose image a disk gets that is made by Copy or FromImage."""
    data = disk.properties["creationData"]
    key, lun = (_source_id(data) or "").lower(), _reference(data).get("lun")
    return key if lun is None else image_data_disks.owner_key(key, lun)


def _source_id(data: dict[str, Any]) -> str | None:
    reference = _reference(data)
    found = reference.get("id") if reference else data.get("sourceResourceId")
    return str(found) if found else None


def _reference(data: dict[str, Any]) -> dict[str, Any]:
    """The version that FromImage names."""
    found: dict[str, Any] = data.get("galleryImageReference") or data.get("imageReference") or {}
    return found
