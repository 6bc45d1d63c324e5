"""Identities of machines with the real az, and a guest that acts as one."""

import json
import ssl
import urllib.request
from urllib.error import HTTPError

import pytest

from .running import Shell
from .site import IN_GROUP, USER, Site

pytestmark = pytest.mark.timeout(1800)
VM = (*IN_GROUP, "-n", "who")
SET = (*IN_GROUP, "-n", "whose")
TOKEN = (
    "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01"
    "&resource=https%3A%2F%2Fmanagement.azure.com%2F"
)
SCRIPT = (
    r"""sed -n 's/^ *"\(for card.*done\)"$/\1/p' /seed/user-data | sh""",  # as cloud-init does
    f"wget -q -O - --header 'Metadata: true' '{TOKEN}'",
)


def status(shell: Shell, token: str, resource_id: str) -> int:
    """What a read with a token is answered."""
    url = f"{shell.variables['GALLERY_ENDPOINT']}{resource_id}?api-version=2024-03-03"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    trusted = ssl.create_default_context(cafile=shell.variables["REQUESTS_CA_BUNDLE"])
    try:
        with urllib.request.urlopen(request, context=trusted) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_a_guest_reads_by_the_role_that_its_machine_was_made_with(shell: Shell, site: Site) -> None:
    gallery = site.definition.rpartition("/images/")[0]
    role = ("--assign-identity", "[system]", "--role", "Reader", "--scope")
    create = ("vm", "create", *VM, "--image", f"{site.definition}/versions/1.0.0", *USER)
    # az would assign it for the whole gallery.
    assert "az role assignment create" in shell.refused(*create, *role, site.definition)
    shell.az("vm", "delete", *VM, "--yes")
    shell.az(*create, *role, gallery)
    identity = shell.az("vm", "identity", "show", *VM)
    assert identity["type"] == "SystemAssigned"
    given = shell.az("role", "assignment", "list", "--assignee", identity["principalId"], "--all")
    assert [(one["scope"], one["roleDefinitionName"]) for one in given] == [(gallery, "Reader")]
    words = ("--command-id", "RunShellScript", "--scripts", *SCRIPT)
    (said,) = shell.az("vm", "run-command", "invoke", *VM, *words)["value"]
    token = json.loads(said["message"].partition("[stdout]\n")[2].partition("\n[stderr]")[0])["access_token"]
    assert status(shell, token, site.definition) == 200
    assert status(shell, token, f"{gallery}2") == 403


def test_identities_are_assigned_and_removed(shell: Shell, site: Site) -> None:
    worker = shell.az("identity", "create", *IN_GROUP, "-n", "worker")
    assert shell.az("identity", "show", *IN_GROUP, "-n", "worker") == worker
    assert [one["name"] for one in shell.az("identity", "list", *IN_GROUP)] == ["worker"]
    shell.az("vm", "identity", "assign", *VM, "--identities", "worker")
    identity = shell.az("vm", "identity", "show", *VM)
    assert identity["type"] == "SystemAssigned, UserAssigned"
    assert identity["userAssignedIdentities"] == {
        worker["id"]: {name: worker[name] for name in ("clientId", "principalId")}
    }
    shell.az("vm", "identity", "remove", *VM)
    assert shell.az("vm", "identity", "show", *VM)["type"] == "UserAssigned"
    shell.az("vm", "identity", "remove", *VM, "--identities", "worker")
    assert not shell.az("vm", "identity", "show", *VM)
    shell.refused("ad", "sp", "show", "--id", identity["principalId"])


def test_a_scale_set_has_identities_too(shell: Shell, site: Site) -> None:
    uniform = ("--orchestration-mode", "Uniform", "--instance-count", "0", "--load-balancer", "")
    image = f"{site.definition}/versions/1.0.0"
    created = shell.az(
        "vmss", "create", *SET, "--image", image, *USER, *uniform, "--assign-identity", "worker"
    )
    assert created["vmss"]
    assert shell.az("vmss", "identity", "show", *SET)["type"] == "UserAssigned"
    shell.az("vmss", "identity", "assign", *SET)
    identity = shell.az("vmss", "identity", "show", *SET)
    assert identity["type"] == "SystemAssigned, UserAssigned"
    shell.az("vmss", "identity", "remove", *SET, "--identities", "worker")
    assert shell.az("vmss", "identity", "show", *SET)["type"] == "SystemAssigned"
    shell.az("vmss", "delete", *SET)
    shell.refused("ad", "sp", "show", "--id", identity["principalId"])
    shell.az("identity", "delete", *IN_GROUP, "-n", "worker")
    assert shell.az("identity", "list", *IN_GROUP) == []
    shell.az("vm", "delete", *VM, "--yes")
