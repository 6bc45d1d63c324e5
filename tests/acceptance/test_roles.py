"""Roles with the real az: definitions and assignments, at every scope, for a principal by its object id."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, insert

from opengallery.database import Database
from opengallery.identity.directory import principals

from .running import Server, Shell

GROUP = "roles"
OWNER = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"


@pytest.fixture(scope="module")
def somebody(server: Server, shell: Shell, signed_in: None) -> Iterator[str]:
    """A user of the directory; the object id."""
    database = Database(f"sqlite:///{server.data / 'gallery.sqlite'}")
    object_id = str(uuid.uuid4())
    row: dict[str, Any] = {"object_id": object_id, "tenant_id": shell.variables["AZURE_TENANT_ID"]}
    with database.write() as connection:
        connection.execute(
            insert(principals).values(**row, kind="User", display_name="somebody", enabled=True)
        )
    yield object_id
    with database.write() as connection:
        connection.execute(delete(principals).where(principals.c.object_id == object_id))
    database.close()


@pytest.fixture(scope="module")
def group(shell: Shell, signed_in: None) -> str:
    """The id of a resource group."""
    return str(shell.az("group", "create", "-n", GROUP, "-l", "westcentralus")["id"])


def _assign(shell: Shell, who: str, role: str, scope: str) -> Any:
    words = (
        "--assignee-object-id",
        who,
        "--assignee-principal-type",
        "User",
        "--role",
        role,
        "--scope",
        scope,
    )
    return shell.az("role", "assignment", "create", *words)


def _listed(shell: Shell, *words: str) -> list[Any]:
    found: list[Any] = shell.az("role", "assignment", "list", *words, "--fill-principal-name", "false")
    return found


def test_the_built_in_roles_are_found_by_name(shell: Shell, signed_in: None) -> None:
    listed = shell.az("role", "definition", "list", "--name", "Owner")
    assert [one["name"] for one in listed] == [OWNER]
    names = {one["roleName"] for one in shell.az("role", "definition", "list")}
    assert {"Contributor", "Compute Gallery Sharing Admin", "Virtual Machine Contributor"} <= names
    assert [one["name"] for one in shell.gallery("role", "definition", "list", "-n", "Owner")] == [OWNER]
    kinds = {
        one["resourceType"]
        for one in shell.az("provider", "show", "-n", "Microsoft.Authorization")["resourceTypes"]
    }
    assert "roleAssignments" in kinds


def test_roles_are_assigned_listed_and_taken_back(shell: Shell, group: str, somebody: str) -> None:
    shell.az("sig", "create", "-g", GROUP, "--gallery-name", "shared")
    gallery = f"{group}/providers/Microsoft.Compute/galleries/shared"
    made = _assign(shell, somebody, "Reader", gallery)
    assert made["principalType"] == "User" and made["scope"] == gallery
    assert _assign(shell, somebody, "Reader", gallery)["name"] == made["name"], (
        "the second is the first again"
    )
    _assign(shell, somebody, "Contributor", group)
    assert [one["name"] for one in _listed(shell, "--scope", gallery)] == [made["name"]]
    inherited = _listed(shell, "--scope", gallery, "--include-inherited")
    assert {one["roleDefinitionName"] for one in inherited} == {"Reader", "Contributor", "Owner"}
    everywhere = _listed(shell, "--all", "--assignee-object-id", somebody)
    assert {one["scope"] for one in everywhere} == {gallery, group}
    with_groups = _listed(shell, "--scope", gallery, "--include-groups", "--assignee-object-id", somebody)
    assert [one["name"] for one in with_groups] == [made["name"]]
    ours = shell.gallery("role", "assignment", "list", "--scope", gallery, "--include-inherited")
    assert {one["name"] for one in ours} == {one["name"] for one in inherited}
    words = ("role", "assignment", "delete", "--assignee-object-id", somebody)
    shell.az(*words, "--role", "Reader", "--scope", gallery)
    shell.az(*words, "--resource-group", GROUP)
    assert _listed(shell, "--all", "--assignee-object-id", somebody) == []


def test_a_custom_role_is_made_used_and_deleted(
    shell: Shell, group: str, somebody: str, tmp_path: Path
) -> None:
    file = tmp_path / "role.json"
    role = {"Name": "Gallery keeper", "Description": "d", "AssignableScopes": [group]}
    file.write_text(json.dumps(role | {"Actions": ["Microsoft.Compute/galleries/*"], "NotActions": []}))
    made = shell.az("role", "definition", "create", "--role-definition", file)
    assert made["roleType"] == "CustomRole" and made["roleName"] == "Gallery keeper"
    file.write_text(json.dumps(role | {"Actions": ["Microsoft.Compute/galleries/read"], "NotActions": []}))
    changed = shell.az("role", "definition", "update", "--role-definition", file)
    assert changed["permissions"][0]["actions"] == ["Microsoft.Compute/galleries/read"]
    shown = shell.az("role", "definition", "show", "--name", made["name"], "--scope", group)
    assert shown["name"] == made["name"]
    _assign(shell, somebody, "Gallery keeper", group)
    deletion = ("role", "definition", "delete", "--name", "Gallery keeper", "--resource-group", GROUP)
    assert "RoleDefinitionHasAssignments" in shell.refused(*deletion)
    shell.az("role", "assignment", "delete", "--role", "Gallery keeper", "--scope", group)
    shell.az(*deletion)
    listed = shell.az("role", "definition", "list", "-g", GROUP, "--custom-role-only")
    assert listed == []


def test_az_says_why_an_assignment_is_refused(shell: Shell, group: str, somebody: str) -> None:
    nobody = ("--assignee-object-id", uuid.uuid4(), "--assignee-principal-type", "User")
    create = ("role", "assignment", "create", "--role", "Reader")
    assert "PrincipalNotFound" in shell.refused(*create, *nobody, "--scope", group)
    somebody_else = ("--assignee-object-id", somebody, "--assignee-principal-type", "Group")
    assert "UnmatchedPrincipalType" in shell.refused(*create, *somebody_else, "--scope", group)
    owners = _listed(shell, "--scope", "/", "--role", "Owner")
    refusal = shell.refused("role", "assignment", "delete", "--ids", owners[0]["id"])
    assert "az role assignment create --role Owner" in refusal
