"""Permissions: what the caller's role assignments allow at a scope.

Source: Permissions REST API, api-version 2022-04-01.
"""

from typing import Any

import msgspec

from opengallery.arm.call import Call
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import ExtensionRoute
from opengallery.providers.authorization import AUTHORIZATION_VERSIONS


def _list(
    call: Call, scope: ResourceId, _parameters: dict[str, str], _body: dict[str, Any]
) -> dict[str, Any]:
    return {"value": [msgspec.to_builtins(each) for each in call.assigned.permissions(scope)]}


EXTENSION_ROUTES = (
    ExtensionRoute(
        "GET",
        "/providers/Microsoft.Authorization/permissions",
        AUTHORIZATION_VERSIONS,
        "Microsoft.Authorization/permissions/read",
        _list,
    ),
)
