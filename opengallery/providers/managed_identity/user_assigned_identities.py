"""User-assigned identities: `Microsoft.ManagedIdentity/userAssignedIdentities`.

Each is a service principal of the directory. Whoever may take `assign/action` on one gives it to machines, which
then act as it. Source: Managed Identity REST API, api-version 2023-01-31.
"""

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Pattern, Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.identity.directory_errors import TooMany
from opengallery.identity.managed_identities import create_managed_identity, delete_managed_identity

TYPE = "Microsoft.ManagedIdentity/userAssignedIdentities"


class IdentityProperties(Properties):
    """Nothing is chosen: the directory gives the ids."""


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    if old is not None:
        return
    try:
        identity = create_managed_identity(
            call.connection, call.principal.tenant_id, str(new.id), is_explicit=True
        )
    except TooMany as error:
        raise ArmError("DirectoryObjectQuotaExceeded", str(error), status=409) from error
    new.properties |= {
        "tenantId": identity.tenant_id,
        "principalId": identity.object_id,
        "clientId": identity.app_id,
    }


def _before_delete(call: Call, identity: Resource) -> None:
    delete_managed_identity(call.connection, identity.properties["principalId"])


RESOURCE_TYPE = ResourceType(
    TYPE,
    (
        "2025-05-31-preview",
        "2025-01-31-preview",
        "2024-11-30",
        "2023-07-31-preview",
        "2023-01-31",
        "2022-01-31-preview",
        "2021-09-30-preview",
        "2018-11-30",
        "2015-08-31-preview",
    ),
    IdentityProperties,
    name=Pattern(
        r"[A-Za-z0-9][A-Za-z0-9_-]{2,127}",
        "3-128 letters, digits, underscores and hyphens, the first a letter or digit",
    ),
    read_only=frozenset({"tenantId", "principalId", "clientId"}),
    check=_check,
    before_delete=_before_delete,
)
