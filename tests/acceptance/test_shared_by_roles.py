"""The announcement's second promise, with the real az: images shared by roles with people of a tenant.

An administrator shares a definition with a group, then a gallery and one version with a service principal;
they make machines and scale sets of them in the second subscription, until the role is taken back.
Each test is a step; they run in this order on one server.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from .running import Shell, until
from .site import DEFINITION, IN_GROUP, REGION, USER, Site

pytestmark = pytest.mark.timeout(1800)

CAROL, PASSWORD = "carol@local", "Correct-Horse-42"
IN_CAROLS = ("-g", "carols")
GALLERY = ("--gallery-name", "gallery")
OTHER = (*IN_GROUP, *GALLERY, "--gallery-image-definition", "other")


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """What the steps made, by name, for those that follow."""
    return {}


@pytest.fixture(scope="module")
def second(shell: Shell) -> str:
    """The id of the second subscription, in which images are only used."""
    return shell.variables["GALLERY_SUBSCRIPTION_ID_2"]


def profile(shell: Shell, folder: Path, **variables: str) -> Shell:
    """A shell with a profile of its own, in which nobody is signed in."""
    other = Shell({**shell.variables, "AZURE_CONFIG_DIR": str(folder / "azure"), **variables}, folder)
    endpoint = shell.variables["GALLERY_ENDPOINT"]
    other.az("cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", endpoint)
    other.az("cloud", "set", "-n", "opengallery")
    return other


@pytest.fixture(scope="module")
def carol(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The user's shell, with a browser that fills in the sign-in page."""
    own = profile(shell, tmp_path_factory.mktemp("carol"))
    browser = f"{sys.executable} {Path(__file__).parent / 'browser.py'} %s &"
    own.environment |= {"BROWSER": browser, "USERNAME": CAROL, "PASSWORD": PASSWORD}
    return own


@pytest.fixture(scope="module")
def pipeline(shell: Shell, made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """The service principal's shell, signed in."""
    robot = made["pipeline"]
    proof = {"AZURE_CLIENT_ID": robot["appId"], "AZURE_CLIENT_SECRET": robot["password"]}
    other = profile(shell, tmp_path_factory.mktemp("pipeline"), **proof)
    who = ("-u", robot["appId"], "-p", robot["password"], "--tenant", robot["tenant"])
    other.az("login", "--service-principal", *who)
    return other


def share(shell: Shell, who: str, role: str, scope: str) -> None:
    """Assign a role, to whom az looks up by name or id."""
    shell.az("role", "assignment", "create", "--assignee", who, "--role", role, "--scope", scope)


def unshare(shell: Shell, who: str, role: str, scope: str) -> None:
    """Take the assignment back."""
    shell.az("role", "assignment", "delete", "--assignee", who, "--role", role, "--scope", scope)


def power_state(shell: Shell, machine: str) -> str:
    return str(shell.az("vm", "show", "-d", *IN_CAROLS, "-n", machine)["powerState"])


def test_the_administrator_makes_a_user_a_group_and_a_service_principal(
    shell: Shell, site: Site, made: dict[str, Any], second: str
) -> None:
    user = ("--user-principal-name", CAROL, "--display-name", "Carol", "--password", PASSWORD)
    made["carol"] = shell.az("ad", "user", "create", *user)["id"]
    group = ("--display-name", "image users", "--mail-nickname", "image-users")
    made["group"] = shell.az("ad", "group", "create", *group)["id"]
    shell.az("ad", "group", "member", "add", "-g", made["group"], "--member-id", made["carol"])
    made["pipeline"] = shell.az("ad", "sp", "create-for-rbac", "-n", "pipeline")
    shell.gallery(
        "sig", "image-definition", "create", *OTHER, "--publisher", "p", "--offer", "o", "--sku", "t",
        "--os-type", "Linux", "--hyper-v-generation", "V1",
    )  # fmt: skip
    share(shell, CAROL, "Contributor", f"/subscriptions/{second}")
    share(shell, made["pipeline"]["appId"], "Contributor", f"/subscriptions/{second}")


def test_one_definition_is_shared_with_the_group(
    shell: Shell, carol: Shell, site: Site, made: dict[str, Any], second: str
) -> None:
    share(shell, made["group"], "Reader", site.definition)
    listed = shell.az("role", "assignment", "list", "--scope", site.definition)
    assert [(one["principalId"], one["roleDefinitionName"]) for one in listed] == [(made["group"], "Reader")]
    seen = carol.az("login")
    assert second in {one["id"] for one in seen}
    assert carol.az("account", "show")["user"] == {"name": CAROL, "type": "user"}
    carol.az("account", "set", "-s", second)
    carol.az("group", "create", "-n", "carols", "-l", REGION)


def test_the_user_makes_machines_of_it_in_the_second_subscription(carol: Shell, site: Site) -> None:
    version = f"{site.definition}/versions/1.0.0"
    carol.az("vm", "create", *IN_CAROLS, "-n", "vm", "--image", version, *USER)
    carol.az(
        "vmss", "create", *IN_CAROLS, "-n", "set", "--image", site.definition, "--instance-count", 1, *USER
    )
    assert power_state(carol, "vm") == "VM running"
    until(
        lambda: "READY vm " in carol.az("vm", "boot-diagnostics", "get-boot-log", *IN_CAROLS, "-n", "vm"),
        every_s=3,
    )


def test_the_user_sees_nothing_else_and_changes_nothing(carol: Shell, site: Site) -> None:
    there = ("--subscription", str(site.id.subscription))
    listed = carol.az("sig", "image-definition", "list", *IN_GROUP, *GALLERY, *there)
    assert [one["name"] for one in listed] == ["linux"]
    assert carol.az("sig", "image-version", "list", *DEFINITION, *there)
    hidden = "AuthorizationFailed"
    assert hidden in carol.refused("sig", "image-definition", "show", *OTHER, *there)
    assert hidden in carol.refused("sig", "show", *IN_GROUP, *GALLERY, *there)
    assert hidden in carol.refused("image", "show", *IN_GROUP, "-n", "boot", *there)
    one = (*DEFINITION, "--gallery-image-version", "1.0.0", *there)
    assert hidden in carol.refused("sig", "image-version", "delete", *one)
    assert hidden in carol.refused(
        "sig", "image-definition", "update", *DEFINITION, *there, "--set", "tags.a=b"
    )
    grant = ("--assignee-object-id", carol.az("ad", "signed-in-user", "show")["id"])
    owner = ("--assignee-principal-type", "User", "--role", "Owner", "--scope", site.definition)
    assert hidden in carol.refused("role", "assignment", "create", *grant, *owner)


def test_what_is_taken_back_makes_no_new_machine_and_stops_none(
    shell: Shell, carol: Shell, site: Site, made: dict[str, Any]
) -> None:
    unshare(shell, made["group"], "Reader", site.definition)
    again = ("vm", "create", *IN_CAROLS, "-n", "late", *USER, "--image")
    assert "AuthorizationFailed" in carol.refused(*again, f"{site.definition}/versions/1.0.0")
    assert power_state(carol, "vm") == "VM running"
    (instance,) = carol.az("vmss", "list-instances", *IN_CAROLS, "-n", "set")
    assert power_state(carol, instance["name"]) == "VM running"
    carol.az("vmss", "delete", *IN_CAROLS, "-n", "set")
    carol.az("vm", "delete", *IN_CAROLS, "-n", "vm", "--yes")


def test_a_gallery_is_shared_with_a_service_principal(
    shell: Shell, pipeline: Shell, site: Site, made: dict[str, Any], second: str
) -> None:
    gallery = str(site.id.child("Microsoft.Compute/galleries", "gallery"))
    robot = made["pipeline"]["appId"]
    share(shell, robot, "Reader", gallery)
    pipeline.az("account", "list", "--refresh")
    there = ("--subscription", str(site.id.subscription))
    listed = pipeline.az("sig", "image-definition", "list", *IN_GROUP, *GALLERY, *there)
    assert {one["name"] for one in listed} == {"linux", "other"}
    assert "AuthorizationFailed" in pipeline.refused("image", "show", *IN_GROUP, "-n", "boot", *there)
    pipeline.az("account", "set", "-s", second)
    create = ("vm", "create", *IN_CAROLS, *USER, "--image", f"{site.definition}/versions/1.0.0", "-n")
    pipeline.az(*create, "robots")
    assert power_state(pipeline, "robots") == "VM running"
    unshare(shell, robot, "Reader", gallery)
    assert "AuthorizationFailed" in pipeline.refused(*create, "late")
    assert power_state(pipeline, "robots") == "VM running"


def test_one_version_is_shared_and_used_by_the_sdk(
    shell: Shell, pipeline: Shell, site: Site, made: dict[str, Any], second: str
) -> None:
    version = f"{site.definition}/versions/1.0.0"
    network = pipeline.az("network", "vnet", "list", *IN_CAROLS)[0]
    subnet = network["subnets"][0]["id"]
    nic = pipeline.az("network", "nic", "create", *IN_CAROLS, "-n", "byid", "--subnet", subnet)["NewNIC"][
        "id"
    ]
    script = Path(__file__).parent / "use_version.py"
    words = (version, second, "carols", nic, subnet)
    pipeline.python(script, "refused", *words)
    share(shell, made["pipeline"]["appId"], "Reader", version)
    pipeline.python(script, "allowed", *words)
    unshare(shell, made["pipeline"]["appId"], "Reader", version)
    pipeline.python(script, "refused", *words)
    pipeline.az("group", "delete", "-n", "carols", "--yes")
