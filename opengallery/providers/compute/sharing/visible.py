"""What of a shared gallery is seen in a region: its image definitions, and the versions that have a replica there."""

from sqlalchemy import Connection, select

from opengallery.arm import resources
from opengallery.arm.resources import CREATING, DELETING, Resource
from opengallery.providers.compute import image_data_disks
from opengallery.replication.progress import replicas_table

DEFINITIONS = "Microsoft.Compute/galleries/images"
VERSIONS = "Microsoft.Compute/galleries/images/versions"
_UNPUBLISHED = (CREATING, DELETING)


def regions(connection: Connection, gallery: Resource) -> list[str]:
    """Where the gallery is seen: at home, and where one of its versions has a complete replica."""
    definition, version = resources.resources.alias(), resources.resources.alias()
    query = (
        select(replicas_table.c.region)
        .join(version, version.c.key == replicas_table.c.owner)
        .join(definition, definition.c.key == version.c.parent)
        .where(definition.c.type == DEFINITIONS.lower(), definition.c.parent == gallery.key)
        .where(version.c.type == VERSIONS.lower(), version.c.state.not_in(_UNPUBLISHED))
        .where(replicas_table.c.state == "Completed")
        .distinct()
    )
    return sorted({gallery.location or "", *connection.scalars(query)})


def is_published(version: Resource) -> bool:
    """Whether the version can be used anywhere."""
    return version.state not in _UNPUBLISHED


def is_visible(connection: Connection, version: Resource, region: str) -> bool:
    """Whether the version can be used in the region."""
    return is_published(version) and image_data_disks.is_complete(connection, version, region)


def versions(connection: Connection, definition: Resource, region: str) -> list[Resource]:
    """The definition's versions that can be used in the region."""
    found = resources.children(connection, definition.id, VERSIONS)
    return [version for version in found if is_visible(connection, version, region)]


def definitions(connection: Connection, gallery: Resource, region: str) -> list[Resource]:
    """The gallery's image definitions that are seen in the region."""
    return [
        definition
        for definition in resources.children(connection, gallery.id, DEFINITIONS)
        if is_seen(connection, definition, region)
    ]


def is_seen(connection: Connection, definition: Resource, region: str) -> bool:
    """Whether a definition is seen in the region: it is at home there, or has a version there."""
    return definition.location == region or any(
        is_visible(connection, version, region)
        for version in resources.children(connection, definition.id, VERSIONS)
    )
