"""Upgrades of scale sets: a new image comes to the instances when, and as far as, the policy says."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from opengallery.hypervisors.machine import HypervisorError
from opengallery.providers.compute.scale_sets import automatic_upgrades

from .conftest import Api
from .images import (
    COMPUTE,
    REGION,
    definition,
    id_of,
    instance_ids,
    instances,
    managed_image,
    scale_set_body,
    scale_set_in,
    told,
    version_body,
)

DEADLINE_S = 60
ONE_BY_ONE = {"maxBatchInstancePercent": 5}


@pytest.fixture(scope="module")
def image(server: Api) -> Iterator[str]:
    """A managed image that versions are published from."""
    group = server.group("sources")
    server.groups.remove("sources")
    yield managed_image(server, group, "image", 1)
    server.delete(group)


@pytest.fixture
def publish(api: Api, image: str) -> Callable[..., str]:
    """Publishes a version of the test's own definition; its path."""
    parent = definition(api, api.group("upgraded"))

    def make(number: str, *targets: Any, **profile: Any) -> str:
        path = f"{parent}/versions/{number}"
        api.put(path, version_body(api, image, *(targets or (REGION,)), **profile))
        return path

    return make


@pytest.fixture(params=["Flexible", "Uniform"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both orchestration modes."""
    return str(request.param)


def make_set(api: Api, image: str, capacity: int, orchestration: str, **policy: Any) -> str:
    """A scale set with an upgrade policy; its path."""
    scale_set = scale_set_in("resourceGroups/upgraded")
    body = scale_set_body(api, image, capacity, mode=orchestration)
    body["properties"]["upgradePolicy"] = policy
    api.put(scale_set, body)
    return scale_set


def refer_to(api: Api, scale_set: str, image: str) -> None:
    """What `az vmss update --set ...imageReference.id=` sends: the whole set as it was read."""
    body = api.get(scale_set)
    body["properties"]["virtualMachineProfile"]["storageProfile"]["imageReference"] = {
        "id": id_of(api, image)
    }
    api.put(scale_set, body)


def versions(api: Api, scale_set: str) -> list[str]:
    """The version that each instance was made from."""
    return [
        one["properties"]["storageProfile"]["imageReference"]["exactVersion"]
        for one in instances(api, scale_set)
    ]


def have_latest(api: Api, scale_set: str) -> list[bool]:
    """Whether each instance is made from the latest model."""
    return [one["properties"]["latestModelApplied"] for one in instances(api, scale_set)]


def vm_ids(api: Api, scale_set: str) -> list[str]:
    """The hypervisor's names of the instances."""
    return [one["properties"]["vmId"] for one in instances(api, scale_set)]


def upgrade(api: Api, scale_set: str) -> Any:
    """The latest rolling upgrade, once it has ended."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        answer = api.ask("GET", f"{scale_set}/rollingUpgrades/latest")
        if answer.status_code == 200:
            found = answer.json()["properties"]
            if found["runningStatus"]["code"] != "RollingForward":
                return found
        time.sleep(0.1)
    raise AssertionError(f"no rolling upgrade ended in {DEADLINE_S} s")


def test_a_new_model_waits_for_update_instances(api: Api, publish: Any, mode: str) -> None:
    first, second = publish("1.0.0"), publish("1.0.1")
    scale_set = make_set(api, first, 3, mode, mode="manual")
    machines, before = instance_ids(api, scale_set), vm_ids(api, scale_set)
    refer_to(api, scale_set, second)
    assert have_latest(api, scale_set) == [False, False, False]
    api.act(f"{scale_set}/manualUpgrade", {"instanceIds": machines[:1]})
    assert versions(api, scale_set) == ["1.0.1", "1.0.0", "1.0.0"]
    assert have_latest(api, scale_set) == [True, False, False]
    api.act(f"{scale_set}/manualUpgrade", {"instanceIds": ["*"]})
    assert versions(api, scale_set) == ["1.0.1"] * 3
    assert instance_ids(api, scale_set) == machines
    assert vm_ids(api, scale_set) == before
    assert [api.services.hypervisor.state(vm_id) for vm_id in before] == ["running"] * 3
    assert (told(api, first), sum(told(api, second))) == ([], 3)
    assert api.refused("POST", f"{scale_set}/manualUpgrade", {})[0] == 400


def test_reimaging_makes_a_new_disk_from_the_latest_model(api: Api, publish: Any, mode: str) -> None:
    first = publish("1.0.0")
    scale_set = make_set(api, first.rpartition("/versions/")[0], 2, mode)
    folder = api.services.settings.data / "machines"
    traces = [folder / vm_id / "trace" for vm_id in vm_ids(api, scale_set)]
    for trace in traces:
        trace.touch()
    publish("1.0.1")
    one = instance_ids(api, scale_set)[0]
    api.act(f"{scale_set}/deallocate", {"instanceIds": [one]})
    api.act(f"{scale_set}/reimageall", {"instanceIds": [one]})
    assert [trace.exists() for trace in traces] == [False, True]
    assert versions(api, scale_set) == ["1.0.1", "1.0.0"]
    states = [api.services.hypervisor.state(vm_id) for vm_id in vm_ids(api, scale_set)]
    assert states == ["stopped", "running"]
    api.act(f"{scale_set}/reimage")
    assert versions(api, scale_set) == ["1.0.1", "1.0.1"]
    disks = {disk["id"] for disk in api.get(f"resourceGroups/upgraded/{COMPUTE}/disks")["value"]}
    profiles = [one["properties"]["storageProfile"] for one in instances(api, scale_set)]
    assert disks == {profile["osDisk"]["managedDisk"]["id"] for profile in profiles}


def test_the_automatic_policy_upgrades_at_once(api: Api, publish: Any, mode: str) -> None:
    first, second = publish("1.0.0"), publish("1.0.1")
    scale_set = make_set(api, first, 3, mode, mode="Automatic")
    refer_to(api, scale_set, second)
    assert versions(api, scale_set) == ["1.0.1"] * 3
    assert have_latest(api, scale_set) == [True] * 3


def test_the_rolling_policy_upgrades_in_batches(api: Api, publish: Any, mode: str) -> None:
    first, second = publish("1.0.0"), publish("1.0.1")
    scale_set = make_set(api, first, 3, mode, mode="Rolling", rollingUpgradePolicy=ONE_BY_ONE)
    assert api.ask("GET", f"{scale_set}/rollingUpgrades/latest").status_code == 404
    refer_to(api, scale_set, second)
    done = upgrade(api, scale_set)
    assert done["runningStatus"]["code"] == "Completed"
    assert done["progress"]["successfulInstanceCount"] == 3
    assert done["policy"]["maxBatchInstancePercent"] == 5
    assert versions(api, scale_set) == ["1.0.1"] * 3


def test_a_published_version_rolls_out_by_itself(api: Api, publish: Any, mode: str) -> None:
    latest = publish("1.0.9").rpartition("/versions/")[0]
    automatic = {"enableAutomaticOSUpgrade": True}
    scale_set = make_set(api, latest, 3, mode, mode="Manual", automaticOSUpgradePolicy=automatic)
    publish("1.0.8")
    publish("1.0.11", excludeFromLatest=True)
    publish("1.0.12", "westeurope")
    automatic_upgrades.begin_due(api.services)
    assert versions(api, scale_set) == ["1.0.9"] * 3
    assert api.ask("GET", f"{scale_set}/rollingUpgrades/latest").status_code == 404
    publish("1.0.10")
    assert upgrade(api, scale_set)["runningStatus"]["code"] == "Completed"
    assert versions(api, scale_set) == ["1.0.10"] * 3
    assert have_latest(api, scale_set) == [True] * 3


def test_an_upgrade_stops_at_a_failure_and_is_not_repeated(
    api: Api, publish: Any, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = publish("1.0.0").rpartition("/versions/")[0]
    scale_set = make_set(
        api,
        latest,
        3,
        mode,
        automaticOSUpgradePolicy={"enableAutomaticOSUpgrade": True},
        rollingUpgradePolicy=ONE_BY_ONE,
    )

    def fail(*_arguments: object) -> None:
        raise HypervisorError("No room.")

    monkeypatch.setattr(type(api.services.hypervisor), "start", fail)
    publish("1.0.1")
    done = upgrade(api, scale_set)
    assert done["runningStatus"]["code"] == "Faulted"
    assert done["error"]["code"] == "MaxUnhealthyUpgradedInstancePercentExceededInRollingUpgrade"
    assert done["progress"] == {
        "successfulInstanceCount": 0,
        "failedInstanceCount": 1,
        "inProgressInstanceCount": 0,
        "pendingInstanceCount": 2,
    }
    assert sorted(versions(api, scale_set)) == ["1.0.0", "1.0.0", "1.0.1"]
    monkeypatch.undo()
    automatic_upgrades.begin_due(api.services)
    assert sorted(versions(api, scale_set)) == ["1.0.0", "1.0.0", "1.0.1"]
    states = sorted(one["properties"]["provisioningState"] for one in instances(api, scale_set))
    assert states == ["Failed", "Succeeded", "Succeeded"]

    failed = next(
        one for one in instances(api, scale_set) if one["properties"]["provisioningState"] == "Failed"
    )
    api.act(f"{scale_set}/reimageall", {"instanceIds": [failed["instanceId"]]})
    answer = api.ask("POST", f"{scale_set}/osRollingUpgrade")
    assert answer.status_code == 202
    api.finish(answer)
    assert versions(api, scale_set) == ["1.0.1"] * 3
    assert upgrade(api, scale_set)["runningStatus"]["code"] == "Completed"


def test_a_rolling_upgrade_is_canceled_between_batches(api: Api, publish: Any, mode: str) -> None:
    first, second = publish("1.0.0"), publish("1.0.1")
    policy = {**ONE_BY_ONE, "pauseTimeBetweenBatches": "PT1M"}
    scale_set = make_set(api, first, 2, mode, mode="Rolling", rollingUpgradePolicy=policy)
    assert api.refused("POST", f"{scale_set}/rollingUpgrades/cancel")[0] == 409
    refer_to(api, scale_set, second)
    deadline = time.monotonic() + DEADLINE_S
    while "1.0.1" not in versions(api, scale_set) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert api.refused("POST", f"{scale_set}/osRollingUpgrade")[0] == 409
    api.put(scale_set, {"location": REGION, "sku": {"capacity": 3}})
    assert api.ask("POST", f"{scale_set}/rollingUpgrades/cancel").status_code == 200
    assert upgrade(api, scale_set)["runningStatus"]["code"] == "Cancelled"
    assert sorted(versions(api, scale_set)) == ["1.0.0", "1.0.1", "1.0.1"]
