"""Scale sets with the real az: both orchestration modes, and each way in which a new version reaches them."""

from typing import Any

import pytest

from .running import Shell, until
from .site import IN_GROUP, USER, Site, ssh_place

pytestmark = pytest.mark.timeout(1800)
UNIFORM, FLEXIBLE = (*IN_GROUP, "-n", "uniform"), (*IN_GROUP, "-n", "flexible")


def create(shell: Shell, site: Site, scale_set: tuple[str, ...], count: int, *words: object) -> None:
    """A scale set of the latest version."""
    model = ("--image", site.definition, "--instance-count", count, "--upgrade-policy-mode", "Manual", *USER)
    shell.az("vmss", "create", *scale_set, *model, *words)


def instances(shell: Shell, scale_set: tuple[str, ...]) -> dict[str, tuple[str, bool]]:
    """Each instance's version, and whether it has the latest model."""

    def version(instance: Any) -> str:
        return str(instance["storageProfile"]["imageReference"]["exactVersion"])

    listed = shell.az("vmss", "list-instances", *scale_set)
    return {one["instanceId"]: (version(one), one["latestModelApplied"]) for one in listed}


def upgraded(shell: Shell, scale_set: tuple[str, ...], version: str) -> bool:
    """Whether all instances have a version, and the rolling upgrade has ended well."""
    if set(instances(shell, scale_set).values()) != {(version, True)}:
        return False
    latest = shell.az("vmss", "rolling-upgrade", "get-latest", *scale_set)
    return bool(latest["runningStatus"]["code"] == "Completed")


def test_each_port_of_a_uniform_set_leads_to_its_instance(shell: Shell, site: Site) -> None:
    create(shell, site, UNIFORM, 2, "--orchestration-mode", "Uniform")
    assert shell.az("vmss", "show", *UNIFORM)["orchestrationMode"] == "Uniform"
    assert instances(shell, UNIFORM) == {"0": ("1.0.0", True), "1": ("1.0.0", True)}
    places = shell.az("vmss", "list-instance-connection-info", *UNIFORM)
    assert len(places) == 2
    names = {site.ssh(*ssh_place(place), "hostname") for place in places.values()}
    computers = {
        shell.az("vmss", "show", *UNIFORM, "--instance-id", number)["osProfile"]["computerName"]
        for number in "01"
    }
    assert names == computers
    summary = shell.az("vmss", "get-instance-view", *UNIFORM)["virtualMachine"]["statusesSummary"]
    assert {"code": "PowerState/running", "count": 2} in summary
    view = shell.az("vmss", "get-instance-view", *UNIFORM, "--instance-id", "1")
    assert "PowerState/running" in [status["code"] for status in view["statuses"]]


def test_a_new_version_waits_for_update_instances(shell: Shell, site: Site) -> None:
    site.publish("1.1.0", "--image-version", f"{site.definition}/versions/1.0.0")
    assert instances(shell, UNIFORM) == {"0": ("1.0.0", False), "1": ("1.0.0", False)}
    shell.az("vmss", "update-instances", *UNIFORM, "--instance-ids", "1")
    assert instances(shell, UNIFORM) == {"0": ("1.0.0", False), "1": ("1.1.0", True)}
    shell.az("vmss", "reimage", *UNIFORM, "--instance-ids", "0")
    assert instances(shell, UNIFORM) == {"0": ("1.1.0", True), "1": ("1.1.0", True)}


def test_a_new_version_rolls_out_by_itself(shell: Shell, site: Site) -> None:
    shell.az(
        "vmss",
        "update",
        *UNIFORM,
        "--set",
        "upgradePolicy.automaticOSUpgradePolicy.enableAutomaticOSUpgrade=true",
    )
    site.publish("1.2.0", "--image-version", f"{site.definition}/versions/1.0.0")
    until(lambda: upgraded(shell, UNIFORM, "1.2.0"), every_s=3)
    shell.az("vmss", "delete", *UNIFORM)
    assert shell.az("vmss", "list", *IN_GROUP) == []


def test_a_flexible_set_rolls_to_a_new_version_when_asked(shell: Shell, site: Site) -> None:
    create(shell, site, FLEXIBLE, 1)
    (name,) = instances(shell, FLEXIBLE)
    assert shell.az("vm", "show", *IN_GROUP, "-n", name)["provisioningState"] == "Succeeded"
    assert "Flex" in shell.refused("vmss", "list-instance-connection-info", *FLEXIBLE)
    site.publish("1.3.0", "--image-version", f"{site.definition}/versions/1.0.0")
    assert instances(shell, FLEXIBLE) == {name: ("1.2.0", False)}
    shell.az("vmss", "rolling-upgrade", "start", *FLEXIBLE)
    until(lambda: upgraded(shell, FLEXIBLE, "1.3.0"), every_s=3)
    assert site.ready(name).endswith(" boots=1")


def test_an_automatic_set_follows_its_model_at_once(shell: Shell, site: Site) -> None:
    (name,) = instances(shell, FLEXIBLE)
    shell.az("vmss", "update", *FLEXIBLE, "--set", "upgradePolicy.mode=Automatic")
    older = f"virtualMachineProfile.storageProfile.imageReference.id={site.definition}/versions/1.1.0"
    shell.az("vmss", "update", *FLEXIBLE, "--set", older)
    assert instances(shell, FLEXIBLE) == {name: ("1.1.0", True)}
    shell.az("vmss", "delete", *FLEXIBLE)
    assert shell.az("vm", "list", *IN_GROUP) == []
