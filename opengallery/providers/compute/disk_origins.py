"""Where a disk's bytes come from: its `creationData`."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.providers.compute import image_data_disks, sources
from opengallery.providers.compute.sharing import references

_WHERE = "properties.creationData"


class ImageDiskReference(Properties):
    """An image version that a disk is made from: its OS disk, or its data disk of a lun."""

    id: str | None = None
    shared_gallery_image_id: str | None = None
    community_gallery_image_id: str | None = None
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
    reference = data.get("galleryImageReference", {})
    if data["createOption"] == "FromImage" and references.is_shared(reference):
        _take_shared(call, new, reference)
        return
    text = _source_id(data)
    if not text:
        raise invalid_parameter(
            _WHERE, f"createOption {data['createOption']} needs a source. Give --source ID."
        )
    source = sources.linked(call, text, _WHERE, sources.DISK, sources.SNAPSHOT, sources.VERSION)
    lun = _reference(data).get("lun")
    data_disk = None if lun is None else image_data_disks.require(source, lun, _WHERE)
    sources.describe_copy(call, new, source, _WHERE, data_disk)


def _take_shared(call: Call, new: Resource, reference: dict[str, Any]) -> None:
    """The same for a version that is shared beside roles. Its key stays out of sight."""
    subscription, region = new.id.subscription or "", new.location or ""
    source = references.find(call, reference, subscription, region, _WHERE).version
    lun = reference.get("lun")
    data_disk = None if lun is None else image_data_disks.require(source, lun, _WHERE)
    sources.describe_copy(call, new, source, _WHERE, data_disk)
    new.private["origin"] = data_disk or source.key


def bring(work: Work) -> None:
    """Give a disk that is made by Copy or FromImage its image. Raises `ArmError`."""
    disk = work.resource()
    try:
        sources.bring(work, source_key(disk))
    except ArmError as error:
        if "origin" not in disk.private:
            raise
        raise ArmError(  # without the publisher's own names
            "GalleryImageNotFound",
            "The version that the disk is made from was deleted meanwhile. Make the disk from another one.",
            target=_WHERE,
            status=404,
        ) from error


def source_key(disk: Resource) -> str:
    """Whose image a disk gets that is made by Copy or FromImage."""
    if "origin" in disk.private:
        return str(disk.private["origin"])
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
