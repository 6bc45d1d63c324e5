"""Users, groups, applications and tenants with the real az: made, found, changed and deleted.

Each test is a step; they run in this order on one server.
"""

from pathlib import Path
from typing import Any

import pytest

from .running import Server, Shell

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("signed_in")]

PASSWORD = "Zebra-Crossing-17"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What the steps made, by name, for those that follow."""
    return {}


def sign_in(shell: Shell, folder: Path, tenant: str, client_id: str, *proof: str) -> Shell:
    """A shell with a profile of its own, signed in as another service principal."""
    other = Shell({**shell.variables, "AZURE_CONFIG_DIR": str(folder)}, folder)
    other.az("cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", _endpoint(shell))
    other.az("cloud", "set", "-n", "opengallery")
    principal = ("--service-principal", "-u", client_id, *proof, "--tenant", tenant)
    other.az("login", *principal, "--allow-no-subscriptions")
    return other


def _endpoint(shell: Shell) -> str:
    return shell.variables["GALLERY_ENDPOINT"]


def test_a_user_is_created_and_found(shell: Shell, made: dict[str, Any]) -> None:
    bob = ("--user-principal-name", "bob@local", "--display-name", "Bob", "--password", PASSWORD)
    made["bob"] = shell.az("ad", "user", "create", *bob)["id"]
    assert shell.az("ad", "user", "show", "--id", "BOB@local")["id"] == made["bob"]
    shell.az(
        "ad", "user", "update", "--id", "bob@local", "--display-name", "Bob B", "--account-enabled", "true"
    )
    assert shell.az("ad", "user", "show", "--id", made["bob"])["displayName"] == "Bob B"
    for options in (
        ("--upn", "bob@local"),
        ("--display-name", "bob"),
        ("--filter", "startswith(displayName,'Bo') and accountEnabled eq true"),
    ):
        assert [user["id"] for user in shell.az("ad", "user", "list", *options)] == [made["bob"]], options
    assert "already exists" in shell.refused("ad", "user", "create", *bob)
    short = ("--user-principal-name", "eve@local", "--display-name", "Eve", "--password", "short")
    assert "at least 8 and at most 256" in shell.refused("ad", "user", "create", *short)


def test_groups_hold_users_and_groups(shell: Shell, made: dict[str, Any]) -> None:
    for name in ("builders", "everybody"):
        group = ("--display-name", name, "--mail-nickname", name)
        made[name] = shell.az("ad", "group", "create", *group)["id"]
    assert shell.az("ad", "group", "create", *group)["id"] == made["everybody"]
    shell.az("ad", "group", "member", "add", "-g", "builders", "--member-id", made["bob"])
    shell.az("ad", "group", "member", "add", "-g", made["everybody"], "--member-id", made["builders"])
    for name in ("builders", "everybody"):
        check = shell.az("ad", "group", "member", "check", "-g", name, "--member-id", made["bob"])
        assert check == {"value": True}
    members = shell.az("ad", "group", "member", "list", "-g", "everybody")
    assert [(entry["id"], entry["@odata.type"]) for entry in members] == [
        (made["builders"], "#microsoft.graph.group")
    ]
    groups = shell.az("ad", "user", "get-member-groups", "--id", "bob@local")
    assert {(group["id"], group["displayName"]) for group in groups} == {
        (made["builders"], "builders"),
        (made["everybody"], "everybody"),
    }
    assert shell.az("ad", "group", "get-member-groups", "-g", "builders") == [made["everybody"]]
    circle = ("-g", "builders", "--member-id", made["everybody"])
    assert "can't be a member of itself" in shell.refused("ad", "group", "member", "add", *circle)
    assert shell.az("ad", "group", "show", "-g", "builders")["securityEnabled"] is True
    shell.az("ad", "group", "owner", "add", "-g", "builders", "--owner-object-id", made["bob"])
    owners = shell.az("ad", "group", "owner", "list", "-g", "builders")
    assert [owner["userPrincipalName"] for owner in owners] == ["bob@local"]


def test_a_service_principal_is_created_and_signs_in(
    shell: Shell, made: dict[str, Any], tmp_path: Path
) -> None:
    robot = shell.az("ad", "sp", "create-for-rbac", "-n", "robot")
    assert robot["tenant"] == shell.variables["AZURE_TENANT_ID"]
    made["robot"] = robot["appId"]
    shown = shell.az("ad", "sp", "show", "--id", robot["appId"])
    assert (shown["displayName"], shown["servicePrincipalType"]) == ("robot", "Application")
    made["robot object"] = shown["id"]
    assert shell.az("ad", "sp", "list", "--display-name", "rob")[0]["id"] == shown["id"]
    its = sign_in(shell, tmp_path, robot["tenant"], robot["appId"], "-p", robot["password"])
    assert its.az("ad", "sp", "show", "--id", shown["id"])["appId"] == robot["appId"]
    assert "Insufficient privileges" in its.refused("ad", "user", "delete", "--id", "bob@local")
    assert "valid with delegated authentication" in its.refused("ad", "signed-in-user", "show")
    again = shell.az("ad", "sp", "create-for-rbac", "-n", "robot")
    assert again["appId"] == robot["appId"] and again["password"] != robot["password"]
    assert len(shell.az("ad", "app", "credential", "list", "--id", robot["appId"])) == 1


def test_credentials_are_reset_listed_and_deleted(shell: Shell, made: dict[str, Any]) -> None:
    app = ("--id", made["robot"])
    more = shell.az("ad", "app", "credential", "reset", *app, "--append", "--display-name", "second")
    assert more["appId"] == made["robot"] and more["password"]
    listed = shell.az("ad", "app", "credential", "list", *app)
    assert {entry["displayName"] for entry in listed} == {"rbac", "second"}
    assert all(entry["secretText"] is None and len(entry["hint"]) == 3 for entry in listed)
    second = next(entry["keyId"] for entry in listed if entry["displayName"] == "second")
    shell.az("ad", "app", "credential", "delete", *app, "--key-id", second)
    assert shell.az("ad", "sp", "credential", "reset", *app)["password"]
    for number in (1, 2):
        made_file = shell.az("ad", "app", "credential", "reset", *app, "--create-cert", "--append")
        assert Path(made_file["fileWithCertAndPrivateKey"]).exists()
        certificates = shell.az("ad", "app", "credential", "list", *app, "--cert")
        assert len(certificates) == number and all(entry["key"] is None for entry in certificates)
    key_id = certificates[0]["keyId"]
    shell.az("ad", "sp", "credential", "delete", *app, "--cert", "--key-id", key_id)
    assert len(shell.az("ad", "sp", "credential", "list", *app, "--cert")) == 1


def test_an_application_with_a_certificate_and_a_name(shell: Shell, made: dict[str, Any]) -> None:
    certain = shell.az("ad", "sp", "create-for-rbac", "-n", "certain", "--create-cert")
    assert certain["password"] is None and Path(certain["fileWithCertAndPrivateKey"]).exists()
    shell.az("ad", "app", "update", "--id", certain["appId"], "--identifier-uris", "api://certain")
    shown = shell.az("ad", "app", "show", "--id", "api://certain")
    assert (shown["appId"], len(shown["keyCredentials"])) == (certain["appId"], 1)
    assert shell.az("ad", "sp", "show", "--id", "api://certain")["appId"] == certain["appId"]
    shell.az("ad", "app", "owner", "add", "--id", certain["appId"], "--owner-object-id", made["bob"])
    owners = shell.az("ad", "app", "owner", "list", "--id", certain["appId"])
    assert [owner["id"] for owner in owners] == [made["bob"]]
    shell.az("ad", "sp", "update", "--id", certain["appId"], "--set", "accountEnabled=false")
    listed = shell.az("ad", "sp", "list", "--filter", "accountEnabled eq false")
    assert [entry["appId"] for entry in listed] == [certain["appId"]]
    refused = ("--id", certain["appId"], "--parameters", '{"name": "x", "issuer": "y", "subject": "z"}')
    assert "not supported here" in shell.refused("ad", "app", "federated-credential", "create", *refused)
    shell.az("ad", "app", "delete", "--id", certain["appId"])
    assert shell.refused("ad", "sp", "show", "--id", certain["appId"])


def test_everything_is_deleted(shell: Shell, made: dict[str, Any]) -> None:
    shell.az("ad", "group", "member", "remove", "-g", "builders", "--member-id", made["bob"])
    check = ("-g", "everybody", "--member-id", made["bob"])
    assert shell.az("ad", "group", "member", "check", *check) == {"value": False}
    shell.az("ad", "group", "delete", "-g", "builders")
    assert shell.az("ad", "group", "member", "list", "-g", "everybody") == []
    shell.az("ad", "group", "delete", "-g", "everybody")
    shell.az("ad", "sp", "delete", "--id", made["robot"])
    shell.az("ad", "app", "delete", "--id", made["robot"])
    shell.az("ad", "user", "delete", "--id", "bob@local")
    assert "does not exist" in shell.refused("ad", "user", "show", "--id", made["bob"])
    assert shell.az("ad", "user", "list") == shell.az("ad", "group", "list") == []


def test_another_tenant_is_made_beside_the_server(
    server: Server, shell: Shell, made: dict[str, Any], tmp_path: Path
) -> None:
    new = shell.gallery("tenant", "create", "--name", "Contoso", "--data", server.data)
    more = shell.gallery(
        "subscription", "create", "--name", "Two", "--tenant", "contoso", "--data", server.data
    )
    names = {entry["name"] for entry in shell.gallery("tenant", "list", "--data", server.data)}
    assert "Contoso" in names
    theirs = sign_in(shell, tmp_path, new["tenantId"], new["clientId"], "-p", new["clientSecret"])
    subscriptions = {entry["id"] for entry in theirs.az("account", "list", "--refresh")}
    assert subscriptions == {new["subscriptionId"], more["subscriptionId"]}
    principals = theirs.az("ad", "sp", "list", "--all")
    assert [entry["id"] for entry in principals] == [new["objectId"]]
    carol = ("--user-principal-name", "carol@contoso", "--display-name", "C", "--password", PASSWORD)
    user = theirs.az("ad", "user", "create", *carol)
    assert "does not exist" in shell.refused("ad", "user", "show", "--id", user["id"])
    theirs.az("ad", "user", "delete", "--id", user["id"])
