"""Image references: which image a machine's `storageProfile.imageReference` means, in its region.

It names an image version, an image definition (its newest version there), or a managed image.
"""

from dataclasses import dataclass
from typing import Any

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resources import CREATING, DELETING, Resource
from opengallery.providers.compute import image_definitions, image_versions, managed_images, replicas
from opengallery.regions import REGIONS

TARGET = "imageReference"
UNPUBLISHED = (CREATING, DELETING)


@dataclass(frozen=True)
class ReferredImage:
    """The image a reference means: whose replicas to read, and what is on it."""

    owner: str
    exact_id: str
    size_bytes: int
    generation: str
    os_type: str


def refer(call: Call, reference: dict[str, Any], location: str) -> ReferredImage:
    """Find the image. Raises 400, 403 or 404 as Azure does; 404 `GalleryImageNotFound` for another region."""
    known = ("image", reference.get("id"), location)
    return call.once(known, lambda: _find(call, reference, location))


def _find(call: Call, reference: dict[str, Any], location: str) -> ReferredImage:
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
        found = _latest(call, found, location)
    if found.state in UNPUBLISHED:
        raise ArmError(
            "OperationNotAllowed",
            f"'{found.id.name}' is {found.state}. Wait until it is Succeeded, or give another image.",
            target=TARGET,
            status=409,
        )
    here = replicas.complete(call.connection, found.key, location)
    if not here:
        raise _not_here(found, location)
    described = image_versions.described(call, found)
    return ReferredImage(
        found.key,
        str(found.id),
        here[0].total_bytes,
        described["hyperVGeneration"] or "V1",
        described["osType"] or "Linux",
    )


def _latest(call: Call, definition: Resource, location: str) -> Resource:
    """The highest version that is published, not excluded from latest, and has a replica in the region."""
    candidates = [
        version
        for version in resources.children(call.connection, definition.id, image_versions.RESOURCE_TYPE.type)
        if image_versions.is_published(version)
        and not image_versions.is_excluded_from_latest(version, location)
        and replicas.complete(call.connection, version.key, location)
    ]
    if not candidates:
        raise _not_here(definition, location)
    return max(candidates, key=lambda version: image_versions.number(version.id.name))


def _not_here(found: Resource, location: str) -> ArmError:
    name = REGIONS[location].display_name
    return ArmError(
        "GalleryImageNotFound",
        f"The gallery image {found.id} is not available in {location} region. Please contact image owner to "
        f"replicate to this region ('{name}' as a target region), or change your requested region.",
        target=TARGET,
        status=404,
    )
