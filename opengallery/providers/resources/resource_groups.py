"""Resource groups: `Microsoft.Resources/resourceGroups`. Deleting one deletes what is in it.

Source: Resource Manager REST API, Resource Groups, api-version 2024-11-01.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from opengallery.arm import nested, resources
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Pattern, ResourceType
from opengallery.providers.resources import RESOURCE_VERSIONS

T = TypeVar("T")
_PAGE = 1000


def _remove(work: Work) -> None:
    """Delete the contents in passes, all at once: what another resource still uses goes in a later pass."""
    while True:
        left = work.step("list", _contents, work)
        if not left:
            return
        refusals: list[str] = []
        started = {key: _tried(refusals, key, nested.delete, work, key) for key in left}
        for key, operation_id in started.items():
            _tried(refusals, key, nested.wait, work, operation_id)
        if len(refusals) == len(left):
            raise ArmError(
                "ResourceGroupDeletionBlocked",
                f"Deletion of resource group '{work.id.name}' failed: {refusals[0]} Mend that, and delete it again.",
                status=409,
            )


def _contents(work: Work) -> list[str]:
    """Keys of what is in the group, the most deeply nested first."""
    own = [declared.type for declared in work.registry.types() if not declared.goes_with_parent]
    with work.services.database.read() as connection:
        found = resources.page(connection, own, work.id, "", _PAGE)
    return [resource.key for resource in sorted(found, key=lambda resource: -len(resource.id.types))]


def _tried(refusals: list[str], key: str, function: Callable[..., T], *arguments: Any) -> T | None:
    """What the function returns; None when it is refused, which is noted."""
    try:
        return function(*arguments)
    except ArmError as refusal:
        refusals.append(f"{key}: {refusal.message}")
        return None


RESOURCE_TYPE = ResourceType(
    "Microsoft.Resources/resourceGroups",
    RESOURCE_VERSIONS,
    name=Pattern(r"[\w().-]{0,89}[\w()-]", "1-90 letters, digits, underscores, hyphens, dots or parentheses"),
    envelope={"managedBy": str},
    remove=_remove,
    permitted_as="Microsoft.Resources/subscriptions/resourceGroups",
)
