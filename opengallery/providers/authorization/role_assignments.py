"""Role assignments: `Microsoft.Authorization/roleAssignments`, at the tenant's root or any scope below it.

Source: Role Assignments REST API, api-version 2022-04-01.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta
from sqlalchemy import ColumnElement, false, or_

from opengallery.arm import access, assignments, extensions, paging
from opengallery.arm.assignments import Assignment, role_assignments
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.handling import Answer
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import ExtensionRoute, Properties
from opengallery.arm.roles import OWNER, ROOT, Role
from opengallery.arm.validation import converted, without_nulls
from opengallery.identity.directory import UUID_FORM, find_principal
from opengallery.identity.principal import Principal
from opengallery.providers.authorization import ASSIGNMENT_VERSIONS
from opengallery.providers.authorization.filters import read_filter
from opengallery.providers.authorization.role_definitions import definition_id, is_at_or_below, referred

_TYPE = "Microsoft.Authorization/roleAssignments"
_COLLECTION = f"/providers/{_TYPE}"
_ONE = _COLLECTION + "/{name}"


class AssignmentProperties(Properties):
    """What an assignment is created with. Conditions are refused, and not left out silently."""

    role_definition_id: Annotated[str, Meta(max_length=2048)]
    principal_id: Annotated[str, Meta(max_length=64)]
    principal_type: Literal["User", "Group", "ServicePrincipal", "ForeignGroup", "Device"] | None = None
    description: Annotated[str, Meta(max_length=2048)] | None = None
    condition: str | None = None
    condition_version: str | None = None
    delegated_managed_identity_resource_id: str | None = None


def _list(
    call: Call, scope: ResourceId, _parameters: dict[str, str], _body: dict[str, Any]
) -> dict[str, Any]:
    """Those at the scope, above it and, without `atScope()`, below it; all that the caller may read there."""
    below = call.assigned.below(scope)
    conditions: list[ColumnElement[bool]] = []
    if not call.may(f"{_TYPE}/read", scope):
        readable = [key for key in below if call.may(f"{_TYPE}/read", ResourceId.parse(key))]
        if not readable:
            call.authorize(f"{_TYPE}/read", scope)
        conditions.append(or_(false(), *(_at_or_below(key) for key in readable)))
    extensions.require_group(call, scope)
    clauses = read_filter(call, ("atScope", "assignedTo", "principalId"))
    places = role_assignments.c.scope.in_(scope.scopes())
    conditions.append(places if "atscope" in clauses else places | _at_or_below(scope.key))
    if "principalid" in clauses:
        conditions.append(role_assignments.c.principal_id == clauses["principalid"].lower())
    if "assignedto" in clauses:
        wanted = access.identities(call.connection, call.principal.tenant_id, clauses["assignedto"].lower())
        conditions.append(role_assignments.c.principal_id.in_(wanted))
    size = paging.page_size(call)
    found = assignments.page(
        call.connection, call.principal.tenant_id, conditions, paging.after(call), size + 1
    )
    shown = found[:size]
    answer: dict[str, Any] = {"value": [_view(one, scope) for one in shown]}
    if len(found) > size:
        path = f"{'' if str(scope) == ROOT else scope}{_COLLECTION}"
        answer["nextLink"] = paging.next_link(call, path, assignments.place(shown[-1]))
    return answer


def _at_or_below(key: str) -> ColumnElement[bool]:
    return assignments.at_or_below(role_assignments.c.scope, key)


def _show(call: Call, scope: ResourceId, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    found = assignments.find(call.connection, call.principal.tenant_id, parameters["name"])
    if found is None or found.scope != scope.key:
        raise ArmError(
            "RoleAssignmentNotFound",
            f"The role assignment '{parameters['name']}' is not found at '{scope}'. "
            "List them: az role assignment list --scope SCOPE.",
            status=404,
        )
    return _view(found, scope)


def _put(call: Call, scope: ResourceId, parameters: dict[str, str], body: dict[str, Any]) -> Answer:
    name = parameters["name"].lower()
    if not UUID_FORM.fullmatch(name):
        raise ArmError(
            "InvalidRoleAssignmentId",
            f"The role assignment ID '{name}' is not valid. The role assignment ID must be a GUID.",
        )
    given = converted(without_nulls(body.get("properties") or {}), AssignmentProperties, "properties")
    _refuse_conditions(given)
    scope = extensions.existing(call, scope)
    tenant_id, caller = call.principal.tenant_id, call.principal.object_id
    assignments.lock(call.connection, tenant_id)
    role = _assignable_role(call, given.role_definition_id, scope)
    wanted = (scope.key, given.principal_id.lower(), role.id)
    old = assignments.find(call.connection, tenant_id, name)
    if old is not None:
        if (old.scope, old.principal_id, old.role_definition_id) != wanted:
            raise ArmError(
                "RoleAssignmentUpdateNotPermitted",
                "Tenant ID, application ID, principal ID, role, and scope are not allowed to be updated. Delete the "
                f"assignment '{name}', or create one under another name.",
                status=409,
            )
        assignments.describe(call.connection, old, given.description, caller)
        changed = assignments.find(call.connection, tenant_id, name)
        assert changed is not None
        return Answer(200, _view(changed, scope))
    principal = _assignee(call, given)
    if same := assignments.find_same(call.connection, tenant_id, principal.object_id, scope.key, role.id):
        raise ArmError(
            "RoleAssignmentExists",
            "The role assignment already exists. The ID of the existing role assignment is "
            f"{same.name.replace('-', '')}.",
            status=409,
        )
    made = Assignment(
        tenant_id,
        scope.key,
        str(scope),
        principal.object_id,
        principal.kind,
        role.id,
        caller,
        caller,
        given.description,
        name,
    )
    assignments.add(call.connection, made)
    return Answer(201, _view(made, scope))


def _refuse_conditions(given: AssignmentProperties) -> None:
    for name, value in (
        ("condition", given.condition),
        ("delegatedManagedIdentityResourceId", given.delegated_managed_identity_resource_id),
    ):
        if value:
            raise ArmError(
                "RoleAssignmentConditionNotSupported",
                f"This server can't check '{name}', and makes no assignment that would allow more than was asked "
                "for. Assign a narrower role, or at a narrower scope, without it.",
                target=f"properties.{name}",
            )


def _assignable_role(call: Call, text: str, scope: ResourceId) -> Role:
    role = referred(call, text)
    if not any(is_at_or_below(scope, above) for above in role.assignable_scopes):
        raise ArmError(
            "RoleAssignmentScopeNotAssignableToRoleDefinition",
            f"The role '{role.name}' ({role.id}) can't be assigned at '{scope}'. It can be at: "
            f"{', '.join(role.assignable_scopes)}.",
        )
    return role


def _assignee(call: Call, given: AssignmentProperties) -> Principal:
    principal = find_principal(call.connection, given.principal_id)
    if principal is None or principal.tenant_id != call.principal.tenant_id:
        raise ArmError(
            "PrincipalNotFound",
            f"Principal {given.principal_id} does not exist in the directory {call.principal.tenant_id}. Check that "
            "you have the object id of a user, group or service principal.",
        )
    if given.principal_type not in (None, principal.kind):
        raise ArmError(
            "UnmatchedPrincipalType",
            f"The PrincipalId '{principal.object_id}' has type '{principal.kind}', which is different from "
            f"specified PrincipalType '{given.principal_type}'.",
        )
    return principal


def _delete(call: Call, scope: ResourceId, parameters: dict[str, str], _body: dict[str, Any]) -> Answer:
    tenant_id = call.principal.tenant_id
    assignments.lock(call.connection, tenant_id)
    found = assignments.find(call.connection, tenant_id, parameters["name"])
    if found is None or found.scope != scope.key:
        return Answer(204)
    assignments.remove(call.connection, found)
    if (found.scope, found.role_definition_id) == (ROOT, OWNER.id):
        require_owner(call)
    return Answer(200, _view(found, scope))


def require_owner(call: Call) -> None:
    """Raise 409 unless somebody is left who can sign in and is Owner of the tenant's root."""
    if not assignments.has_owner(call.connection, call.principal.tenant_id):
        raise ArmError(
            "LastOwnerCannotBeRemoved",
            "Cannot delete the last RBAC admin assignment: nobody would be Owner of the tenant's root (/) any "
            "more. Make somebody else Owner there first: az role assignment create --role Owner --scope /.",
            status=409,
        )


def _view(assignment: Assignment, asked_at: ResourceId) -> dict[str, Any]:
    above = "" if assignment.scope_id == ROOT else assignment.scope_id
    return {
        "id": f"{above}{_COLLECTION}/{assignment.name}",
        "type": _TYPE,
        "name": assignment.name,
        "properties": {
            "roleDefinitionId": definition_id(assignment.role_definition_id, asked_at),
            "principalId": assignment.principal_id,
            "principalType": assignment.principal_type,
            "scope": assignment.scope_id,
            "description": assignment.description,
            "condition": None,
            "conditionVersion": None,
            "createdOn": assignment.created_at.isoformat(),
            "updatedOn": assignment.updated_at.isoformat(),
            "createdBy": assignment.created_by,
            "updatedBy": assignment.updated_by,
            "delegatedManagedIdentityResourceId": None,
        },
    }


EXTENSION_ROUTES = (
    ExtensionRoute("GET", _COLLECTION, ASSIGNMENT_VERSIONS, None, _list),
    ExtensionRoute("GET", _ONE, ASSIGNMENT_VERSIONS, f"{_TYPE}/read", _show),
    ExtensionRoute("PUT", _ONE, ASSIGNMENT_VERSIONS, f"{_TYPE}/write", _put),
    ExtensionRoute("DELETE", _ONE, ASSIGNMENT_VERSIONS, f"{_TYPE}/delete", _delete),
)
