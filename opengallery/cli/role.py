"""`gallery role`: role assignments and definitions. Principals are named by their object ids."""

import uuid
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.options import GroupOrNone, check_name

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

_PROVIDER = "/providers/Microsoft.Authorization"
_VERSION = "2022-04-01"
COLUMNS = {"Name": "name", "PrincipalId": "principalId", "Role": "roleDefinitionName", "Scope": "scope"}
DEFINITION_COLUMNS = {"Name": "roleName", "Type": "type", "Description": "description"}

Assignee = Annotated[
    str, typer.Option("--assignee-object-id", metavar="ID", help="User, group or service principal.")
]
AssigneeOrNone = Annotated[
    str | None,
    typer.Option("--assignee-object-id", metavar="ID", help="Only this principal's."),
]
PrincipalType = Annotated[
    Literal["User", "Group", "ServicePrincipal"] | None,
    typer.Option("--assignee-principal-type", case_sensitive=False, help="What the principal is."),
]
Role = Annotated[str, typer.Option("--role", metavar="NAME", help="Role: its name or id.")]
RoleOrNone = Annotated[str | None, typer.Option("--role", metavar="NAME", help="Only this role.")]
Scope = Annotated[str, typer.Option("--scope", metavar="ID", help="/, or the id of what it holds for.")]
ScopeOrNone = Annotated[
    str | None, typer.Option("--scope", metavar="ID", help="Scope; by default the subscription.")
]
Description = Annotated[str | None, typer.Option("--description", help="What the assignment is for.")]
All = Annotated[bool, typer.Option("--all", help="All of the subscription.")]
Inherited = Annotated[bool, typer.Option("--include-inherited", help="Those above the scope too.")]
Groups = Annotated[bool, typer.Option("--include-groups", help="Those of the principal's groups too.")]
CustomOnly = Annotated[bool, typer.Option("--custom-role-only", help="Only custom roles.")]
RoleName = Annotated[str | None, typer.Option("--name", "-n", metavar="NAME", help="Only this role.")]

app = new_app("Role assignments and definitions.")
assignment_app = new_app("Who has which role at which scope.")
definition_app = new_app("What roles there are.")
app.add_typer(assignment_app, name="assignment")
app.add_typer(definition_app, name="definition")

_EXAMPLE = "--assignee-object-id $ID --role Reader --scope $GALLERY_ID"


@verb(assignment_app, "create", [f"gallery role assignment create {_EXAMPLE}"], columns=COLUMNS)
def create(
    arm: "ArmClient",
    assignee_object_id: Assignee,
    role: Role,
    scope: Scope,
    assignee_principal_type: PrincipalType = None,
    description: Description = None,
) -> Any:
    """Give a role."""
    properties = {
        "roleDefinitionId": _definition(arm, scope, role)["id"],
        "principalId": assignee_object_id,
        "principalType": assignee_principal_type,
        "description": description,
    }
    url = _url(arm, scope, f"/roleAssignments/{uuid.uuid4()}")
    return arm.request("PUT", url, {"properties": properties}).json()


@verb(assignment_app, "list", ["gallery role assignment list --scope $GALLERY_ID"], columns=COLUMNS)
def list_assignments(
    arm: "ArmClient",
    scope: ScopeOrNone = None,
    resource_group: GroupOrNone = None,
    assignee_object_id: AssigneeOrNone = None,
    role: RoleOrNone = None,
    include_inherited: Inherited = False,
    include_groups: Groups = False,
    all: All = False,
) -> Any:
    """List assignments: those at the scope, or with --all those of the whole subscription."""
    place = _scope(arm, scope, resource_group)
    query = [] if all else ["atScope()"]
    if assignee_object_id and include_groups:
        query.append(f"assignedTo('{check_name(assignee_object_id)}')")
    url = _url(arm, place, "/roleAssignments") + (f"&$filter={' and '.join(query)}" if query else "")
    names = {one["id"]: one["properties"]["roleName"] for one in _definitions(arm, place)}
    wanted = _definition(arm, place, role)["id"] if role else None
    found = []
    for one in arm.pages(url):
        properties = one["properties"]
        properties["roleDefinitionName"] = names.get(properties["roleDefinitionId"])
        is_here = all or include_inherited or properties["scope"].lower() == place.lower()
        is_his = include_groups or assignee_object_id in (None, properties["principalId"])
        if is_here and is_his and wanted in (None, properties["roleDefinitionId"]):
            found.append(one)
    return found


@verb(assignment_app, "delete", [f"gallery role assignment delete {_EXAMPLE}"])
def delete(
    arm: "ArmClient",
    assignee_object_id: AssigneeOrNone = None,
    role: RoleOrNone = None,
    scope: ScopeOrNone = None,
    resource_group: GroupOrNone = None,
) -> None:
    """Take roles back that were given at a scope."""
    if not any((assignee_object_id, role, scope, resource_group)):
        raise Misuse("give at least one of --assignee-object-id, --role, --resource-group, --scope.")
    found = list_assignments(arm, scope, resource_group, assignee_object_id, role)
    if not found:
        raise CommandFailed("No matched assignments were found to delete.")
    for one in found:
        arm.request("DELETE", arm.url(one["id"], _VERSION))


@verb(
    definition_app,
    "list",
    ["gallery role definition list --name Reader"],
    columns=DEFINITION_COLUMNS,
)
def list_definitions(
    arm: "ArmClient",
    name: RoleName = None,
    scope: ScopeOrNone = None,
    resource_group: GroupOrNone = None,
    custom_role_only: CustomOnly = False,
) -> Any:
    """List the roles that can be assigned at a scope."""
    return [
        one
        for one in _definitions(arm, _scope(arm, scope, resource_group))
        if (name is None or name in (one["name"], one["properties"]["roleName"]))
        and (not custom_role_only or one["properties"]["type"] == "CustomRole")
    ]


def _scope(arm: "ArmClient", scope: str | None, resource_group: str | None) -> str:
    if scope and resource_group:
        raise Misuse("give --scope or --resource-group, not both.")
    if scope:
        return scope
    above = f"/subscriptions/{arm.subscription}"
    return f"{above}/resourceGroups/{check_name(resource_group)}" if resource_group else above


def _url(arm: "ArmClient", scope: str, rest: str) -> str:
    return arm.url(f"{scope.rstrip('/')}{_PROVIDER}{rest}", _VERSION)


def _definitions(arm: "ArmClient", scope: str) -> list[Any]:
    return [*arm.pages(_url(arm, scope, "/roleDefinitions"))]


def _definition(arm: "ArmClient", scope: str, role: str) -> Any:
    for one in _definitions(arm, scope):
        if role.lower() in (one["name"], one["properties"]["roleName"].lower(), one["id"].lower()):
            return one
    raise CommandFailed(f"Role '{role}' doesn't exist. List them: gallery role definition list.")
