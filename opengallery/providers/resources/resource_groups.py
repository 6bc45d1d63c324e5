"""Resource groups: `Microsoft.Resources/resourceGroups`. Deleting one deletes what is in it.

Source: Resource Manager REST API, Resource Groups, api-version 2024-11-01.
"""

from opengallery.arm import nested, resources
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Pattern, ResourceType
from opengallery.providers.resources import RESOURCE_VERSIONS

_PAGE = 1000


def _remove(work: Work) -> None:
    """Delete the contents in passes: what another resource still uses goes in a later pass."""
    while True:
        left = work.step("list", _contents, work)
        if not left:
            return
        refusals = [refusal for key in left if (refusal := _delete(work, key)) is not None]
        if len(refusals) == len(left):
            raise ArmError(
                "ResourceGroupDeletionBlocked",
                f"Deletion of resource group '{work.id.name}' failed: {refusals[0]} Mend that, and delete it again.",
                status=409,
            )


def _contents(work: Work) -> list[str]:
    """Keys of what is in the group, the most deeply nested first."""
    with work.services.database.read() as connection:
        found = resources.page(connection, None, work.id, "", _PAGE)
    return [resource.key for resource in sorted(found, key=lambda resource: -len(resource.id.types))]


def _delete(work: Work, key: str) -> str | None:
    """Delete one resource and wait for it. Returns why it was refused, None when it is gone."""
    try:
        nested.wait(work, nested.delete(work, key))
    except ArmError as refusal:
        return f"{key}: {refusal.message}"
    return None


RESOURCE_TYPE = ResourceType(
    "Microsoft.Resources/resourceGroups",
    RESOURCE_VERSIONS,
    name=Pattern(r"[\w().-]{0,89}[\w()-]", "1-90 letters, digits, underscores, hyphens, dots or parentheses"),
    envelope={"managedBy": str},
    remove=_remove,
)
