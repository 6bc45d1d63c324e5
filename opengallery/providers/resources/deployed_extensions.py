"""Extensions in templates: a role assignment at the group, or at a resource of it.

The type of the latter is `Microsoft.Compute/galleries/providers/roleAssignments`, its name
`gallery/Microsoft.Authorization/{guid}`.
"""

from typing import Any

from opengallery.arm import extensions
from opengallery.arm.errors import ArmError
from opengallery.arm.extensions import Extension
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Registry, check_api_version
from opengallery.arm.templates.template import TemplateResource


def find(registry: Registry, resource: TemplateResource) -> Extension | None:
    """The extension that a template's resource is, None when it is none. Raises 400 for an unknown api-version."""
    extension = extensions.find(registry, "PUT", resource.id)
    if extension is not None:
        check_api_version(extension.route, resource.api_version, None)
    return extension


def put(work: Work, extension: Extension, resource: TemplateResource, body: dict[str, Any]) -> None:
    """PUT it, in one durable step."""
    work.step(f"put {resource.id}", _put, work, extension, resource.api_version, body)


def _put(work: Work, extension: Extension, api_version: str, body: dict[str, Any]) -> None:
    if work.is_canceled():
        raise ArmError("OperationPreempted", f"'{work.id}' is being deleted.", status=409)
    _refuse_other_scope(extension, body)
    with work.services.database.write() as connection:
        extensions.answer(work.call(connection), extension, body, api_version)


def _refuse_other_scope(extension: Extension, body: dict[str, Any]) -> None:
    """az names the resource above the one that --scope means: what is assigned there would reach too far."""
    named = body.get("properties", {}).get("scope")
    if isinstance(named, str) and named.rstrip("/").lower() != extension.scope.lower():
        raise ArmError(
            "InvalidCreateRoleAssignmentRequest",
            f"The role assignment lies at '{extension.scope}', but its properties name the scope '{named}'. Give that "
            "scope, or assign the role afterwards: az role assignment create --scope.",
            target="properties.scope",
        )
