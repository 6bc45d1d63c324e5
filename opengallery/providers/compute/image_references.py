"""Image references: which image a machine's `storageProfile.imageReference` means, in its region.

It names an image version, an image definition (its newest version there), a managed image, or a version that is
shared beside roles.
"""

from dataclasses import dataclass
from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resources import CREATING, DELETING, Resource
from opengallery.providers.compute import (
    image_data_disks,
    image_definitions,
    image_versions,
    latest_version,
    managed_images,
    replicas,
    version_sources,
)
from opengallery.providers.compute.image_data_disks import ImageDataDisk
from opengallery.providers.compute.sharing import references

TARGET = "imageReference"
UNPUBLISHED = (CREATING, DELETING)


@dataclass(frozen=True)
class ReferredImage:
    """The image a reference means: whose replicas to read, and what is on it.

    `exact_id` names it as its user may see it; `owner` is a key that only this server knows of what is shared.
    """

    owner: str
    exact_id: str
    size_bytes: int
    generation: str
    os_type: str
    data_disks: tuple[ImageDataDisk, ...] = ()


def refer(call: Call, reference: dict[str, Any], location: str, subscription: str) -> ReferredImage:
    """Find the image for a machine of `subscription`.

    Raises 400, 403 or 404 as Azure does; 404 `GalleryImageNotFound` for another region.
    """
    known = ("image", *(reference.get(name) for name in ("id", *references.MEMBERS)), location, subscription)
    return call.once(known, lambda: _find(call, reference, location, subscription))


def _find(call: Call, reference: dict[str, Any], location: str, subscription: str) -> ReferredImage:
    if references.is_shared(reference):
        shared = references.find(call, reference, subscription, location, TARGET)
        return _referred(call, shared.version, shared.exact_id, location)
    text = reference.get("id")
    if not text:
        raise invalid_parameter(
            TARGET,
            "This server has no marketplace. Give the id of an image version, definition or managed image.",
        )
    found = call.linked(
        text,
        TARGET,
        image_versions.RESOURCE_TYPE.type,
        image_definitions.RESOURCE_TYPE.type,
        managed_images.RESOURCE_TYPE.type,
    )
    if found.id.type == image_definitions.RESOURCE_TYPE.type:
        latest = latest_version.find(call.connection, found, location)
        if latest is None:
            raise references.not_here(str(found.id), location, TARGET)
        found = latest
    if found.state in UNPUBLISHED:
        raise ArmError(
            "OperationNotAllowed",
            f"'{found.id.name}' is {found.state}. Wait until it is Succeeded, or give another image.",
            target=TARGET,
            status=409,
        )
    if not image_data_disks.is_complete(call.connection, found, location):
        raise references.not_here(str(found.id), location, TARGET)
    return _referred(call, found, str(found.id), location)


def _referred(call: Call, found: Resource, exact_id: str, location: str) -> ReferredImage:
    here = replicas.complete(call.connection, found.key, location)
    described = version_sources.described(call, found)
    return ReferredImage(
        found.key,
        exact_id,
        here[0].total_bytes,
        described["hyperVGeneration"] or "V1",
        described["osType"] or "Linux",
        image_data_disks.find(call.connection, found, location),
    )
