"""The latest version of an image definition, in a region."""

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.resources import Resource
from opengallery.providers.compute import image_data_disks, image_versions


def find(connection: Connection, definition: Resource, region: str) -> Resource | None:
    """The highest version that is published, not excluded from latest, and has a replica in the region."""
    candidates = [
        version
        for version in resources.children(connection, definition.id, image_versions.RESOURCE_TYPE.type)
        if image_versions.is_published(version)
        and not image_versions.is_excluded_from_latest(version, region)
        and image_data_disks.is_complete(connection, version, region)
    ]
    return max(candidates, key=lambda version: image_versions.number(version.id.name), default=None)
