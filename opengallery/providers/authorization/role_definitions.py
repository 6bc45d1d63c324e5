"""Role definitions: `Microsoft.Authorization/roleDefinitions`. The built-in ones, and a tenant's own.

Who may do anything at a scope or below it may see the roles there. A custom role is written by who may do so at
each scope at which it can be assigned.
Source: Role Definitions REST API, api-version 2022-05-01-preview.
"""

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from opengallery.arm import assignments, extensions, roles
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.handling import Answer
from opengallery.arm.resource_id import RESOURCE_GROUPS, SUBSCRIPTIONS, ResourceId
from opengallery.arm.resource_type import ExtensionRoute, Properties
from opengallery.arm.roles import ROOT, Permissions, Role
from opengallery.arm.validation import converted, without_nulls
from opengallery.database import now
from opengallery.identity.directory import UUID_FORM
from opengallery.providers.authorization import AUTHORIZATION_VERSIONS, DEFINITIONS
from opengallery.providers.authorization.filters import read_filter

CUSTOM_MAX = 5000
_TYPE = "Microsoft.Authorization/roleDefinitions"
_ACTION = r"^[A-Za-z0-9*][A-Za-z0-9*._/-]{0,255}\Z"
_REFERENCE = re.compile(rf".*{DEFINITIONS}/(?P<id>[^/]+)", re.IGNORECASE)

Action = Annotated[str, Meta(pattern=_ACTION)]
Actions = Annotated[list[Action], Meta(max_length=2000)]


class PermissionProperties(Properties):
    """What a custom role allows."""

    actions: Actions = []
    not_actions: Actions = []
    data_actions: Actions = []
    not_data_actions: Actions = []


class RoleProperties(Properties):
    """What a custom role is written with."""

    role_name: Annotated[str, Meta(min_length=1, max_length=512)]
    permissions: Annotated[list[PermissionProperties], Meta(min_length=1, max_length=1)]
    assignable_scopes: Annotated[list[str], Meta(min_length=1, max_length=2000)]
    description: Annotated[str, Meta(max_length=2048)] = ""


def definition_id(role_id: str, scope: ResourceId) -> str:
    """The id of a role as it is shown at a scope: below its subscription, if it has one."""
    above = f"/subscriptions/{scope.subscription.lower()}" if scope.subscription else ""
    return f"{above}{DEFINITIONS}/{role_id}"


def referred(call: Call, text: str) -> Role:
    """The role that the id of a role definition means. Raises 400 and 404."""
    found = _REFERENCE.fullmatch(text)
    if found is None or not UUID_FORM.fullmatch(found["id"]):
        raise ArmError(
            "InvalidRoleDefinitionId",
            f"'{text}' is no id of a role definition. Give {DEFINITIONS}/{{id}}; az role definition list shows them.",
            target="properties.roleDefinitionId",
        )
    return _require(call, found["id"])


def is_at_or_below(scope: ResourceId, above: str) -> bool:
    """Whether a scope is, or lies below, the one that `above` is the id of."""
    return above == ROOT or above.lower() in scope.scopes()


def _require(call: Call, role_id: str) -> Role:
    found = roles.find(call.connection, call.principal.tenant_id, role_id)
    if found is None:
        raise ArmError(
            "RoleDefinitionDoesNotExist",
            f"The specified role definition with ID '{role_id}' does not exist. List them: az role definition list.",
            status=404,
        )
    return found


def _authorize_reading(call: Call, scope: ResourceId) -> None:
    """Who has any role at the scope or below sees what roles there are; the built-in ones are no secret."""
    action = f"{_TYPE}/read"
    if not (call.may(action, scope) or call.assigned.permissions(scope) or call.assigned.below(scope)):
        call.authorize(action, scope)
    extensions.require_group(call, scope)


def _list(
    call: Call, scope: ResourceId, _parameters: dict[str, str], _body: dict[str, Any]
) -> dict[str, Any]:
    _authorize_reading(call, scope)
    clauses = read_filter(call, ("roleName", "type", "atScopeAndBelow"))
    with_below = "atscopeandbelow" in clauses
    found = [
        *sorted(roles.BUILT_IN.values(), key=lambda role: role.name),
        *(
            role
            for role in roles.custom(call.connection, call.principal.tenant_id)
            if _is_offered(call, role, scope, with_below)
        ),
    ]
    wanted_name, wanted_type = clauses.get("rolename"), clauses.get("type")
    return {
        "value": [
            _view(role, scope)
            for role in found
            if (wanted_name is None or role.name.lower() == wanted_name.lower())
            and (wanted_type is None or _kind(role).lower() == wanted_type.lower())
        ]
    }


def _is_offered(call: Call, role: Role, scope: ResourceId, with_below: bool) -> bool:
    """Whether a custom role can be assigned at the scope (or below it, where the caller may look)."""
    for text in role.assignable_scopes:
        above = extensions.parse_scope(text)
        if is_at_or_below(scope, text):
            return True
        if with_below and is_at_or_below(above, str(scope)) and call.may(f"{_TYPE}/read", above):
            return True
    return False


def _show(call: Call, scope: ResourceId, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    _authorize_reading(call, scope)
    role = _require(call, parameters["name"])
    if role.is_custom and not _is_seen(call, role, scope):
        raise ArmError(
            "RoleDefinitionDoesNotExist",
            f"The specified role definition with ID '{role.id}' does not exist at '{scope}'.",
            status=404,
        )
    return _view(role, scope)


def _is_seen(call: Call, role: Role, scope: ResourceId) -> bool:
    """Whether a custom role is shown: the whole tenant's at its root, others where they can be assigned."""
    return _is_offered(call, role, scope, with_below=True)


def _put(call: Call, scope: ResourceId, parameters: dict[str, str], body: dict[str, Any]) -> Answer:
    role_id = parameters["name"].lower()
    if not UUID_FORM.fullmatch(role_id):
        raise ArmError(
            "InvalidRoleDefinitionId",
            f"The role definition ID '{role_id}' is not valid. The role definition ID must be a GUID.",
        )
    given = converted(without_nulls(body.get("properties") or {}), RoleProperties, "properties")
    tenant_id, caller = call.principal.tenant_id, call.principal.object_id
    call.lock(f"role definitions of {tenant_id}")
    old = roles.find(call.connection, tenant_id, role_id)
    _refuse_built_in(old)
    if old is not None:
        _authorize_everywhere(call, old.assignable_scopes, "write")
    elif len(roles.custom(call.connection, tenant_id)) >= CUSTOM_MAX:
        raise ArmError(
            "RoleDefinitionLimitExceeded",
            f"Role definition limit exceeded: a tenant has {CUSTOM_MAX} at most. Delete one that is not used.",
        )
    scopes = _assignable(call, given.assignable_scopes)
    if roles.has_name(call.connection, tenant_id, given.role_name, besides=role_id):
        raise ArmError(
            "RoleDefinitionWithSameNameExists",
            f"A role with the name '{given.role_name}' already exists in this directory. Use a different name.",
            status=409,
        )
    for used in assignments.of_role(call.connection, tenant_id, role_id):
        if not any(is_at_or_below(extensions.parse_scope(used), text) for text in scopes):
            raise _in_use(given.role_name, used)
    permissions = msgspec.convert(msgspec.to_builtins(given.permissions[0]), Permissions)
    role = Role(
        id=role_id,
        name=given.role_name,
        description=given.description,
        permissions=permissions,
        assignable_scopes=scopes,
        created_at=old.created_at if old else now(),
        created_by=old.created_by if old else caller,
        updated_at=now(),
        updated_by=caller,
    )
    roles.save(call.connection, tenant_id, role)
    return Answer(201, _view(role, scope))


def _delete(call: Call, scope: ResourceId, parameters: dict[str, str], _body: dict[str, Any]) -> Answer:
    tenant_id = call.principal.tenant_id
    call.lock(f"role definitions of {tenant_id}")
    role = roles.find(call.connection, tenant_id, parameters["name"])
    if role is None:
        return Answer(204)
    _refuse_built_in(role)
    _authorize_everywhere(call, role.assignable_scopes, "delete")
    if used := assignments.of_role(call.connection, tenant_id, role.id):
        raise _in_use(role.name, used[0])
    roles.forget(call.connection, tenant_id, role.id)
    return Answer(200, _view(role, scope))


def _refuse_built_in(role: Role | None) -> None:
    if role is not None and not role.is_custom:
        raise ArmError(
            "RoleDefinitionCannotBeModified",
            f"'{role.name}' is a built-in role, which stays as it is. Create a custom one: az role definition create.",
            status=403,
        )


def _in_use(name: str, scope: str) -> ArmError:
    return ArmError(
        "RoleDefinitionHasAssignments",
        f"There are existing role assignments referencing role '{name}', one at '{scope}'. Delete them first: "
        "az role assignment delete --role ROLE --scope SCOPE.",
        status=409,
    )


def _authorize_everywhere(call: Call, scopes: tuple[str, ...], verb: str) -> None:
    for text in scopes:
        call.authorize(f"{_TYPE}/{verb}", extensions.parse_scope(text))


def _assignable(call: Call, texts: list[str]) -> tuple[str, ...]:
    """The scopes of a custom role, as they were created; the caller has to have the right to write roles at each."""
    found: dict[str, str] = {}
    for text in texts:
        scope = extensions.parse_scope(text.rstrip("/"))
        if str(scope) != ROOT and scope.type not in (SUBSCRIPTIONS, RESOURCE_GROUPS):
            raise invalid_parameter(
                "properties.assignableScopes",
                f"'{text}' can't be an assignable scope. Give /, subscriptions or resource groups.",
            )
        call.authorize(f"{_TYPE}/write", scope)
        scope = extensions.existing(call, scope)
        found[scope.key] = str(scope)
    return tuple(found.values())


def _kind(role: Role) -> str:
    return "CustomRole" if role.is_custom else "BuiltInRole"


def _view(role: Role, scope: ResourceId) -> dict[str, Any]:
    return {
        "id": definition_id(role.id, scope),
        "type": _TYPE,
        "name": role.id,
        "properties": {
            "roleName": role.name,
            "type": _kind(role),
            "description": role.description,
            "assignableScopes": list(role.assignable_scopes),
            "permissions": [msgspec.to_builtins(role.permissions)],
            "createdOn": role.created_at.isoformat() if role.created_at else None,
            "updatedOn": role.updated_at.isoformat() if role.updated_at else None,
            "createdBy": role.created_by,
            "updatedBy": role.updated_by,
        },
    }


_ONE = DEFINITIONS + "/{name}"

EXTENSION_ROUTES = (
    ExtensionRoute("GET", DEFINITIONS, AUTHORIZATION_VERSIONS, None, _list),
    ExtensionRoute("GET", _ONE, AUTHORIZATION_VERSIONS, None, _show),
    ExtensionRoute("PUT", _ONE, AUTHORIZATION_VERSIONS, f"{_TYPE}/write", _put),
    ExtensionRoute("DELETE", _ONE, AUTHORIZATION_VERSIONS, f"{_TYPE}/delete", _delete),
)
