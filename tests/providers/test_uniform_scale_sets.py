"""Scale sets in Uniform orchestration: numbered instances below the set, and what is done to them."""

from collections.abc import Iterator
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def version(server: Api) -> Iterator[str]:
    """A version with two replicas."""
    group = server.group("numbered")
    server.groups.remove("numbered")
    path = f"{definition(server, group)}/versions/1.0.0"
    server.put(path, version_body(server, managed_image(server, group, "image", 1), (REGION, 2)))
    yield path
    server.delete(group)


def powers(api: Api, scale_set: str) -> dict[str, str]:
    """The power state of each instance."""
    return {name: power(api, f"{scale_set}/virtualMachines/{name}") for name in instance_ids(api, scale_set)}


def power(api: Api, instance: str) -> str:
    """The power state as az reads it."""
    codes = [status["code"] for status in api.get(f"{instance}/instanceView")["statuses"]]
    return next(code.removeprefix("PowerState/") for code in codes if code.startswith("PowerState/"))


def test_instances_are_numbered_and_numbers_never_come_back(api: Api, version: str) -> None:
    group = api.group("numbers")
    scale_set = scale_set_in(group)
    api.put(scale_set, scale_set_body(api, version, 3, mode="Uniform"))
    assert instance_ids(api, scale_set) == ["0", "1", "2"]
    assert sum(told(api, version)) == 3
    assert api.get(f"{group}/{COMPUTE}/virtualMachines")["value"] == []
    instance = api.get(f"{scale_set}/virtualMachines/2?$expand=instanceView")
    assert instance["id"] == f"{id_of(api, scale_set)}/virtualMachines/2"
    assert (instance["name"], instance["instanceId"]) == ("set_2", "2")
    assert instance["location"] == REGION
    assert instance["sku"]["name"] == "Standard_D2s_v5"
    assert instance["properties"]["osProfile"]["computerName"] == "set000002"
    assert instance["properties"]["latestModelApplied"] is True
    assert instance["properties"]["instanceView"]["statuses"][1]["code"] == "PowerState/running"

    api.act(f"{scale_set}/delete", {"instanceIds": ["2"]})
    api.put(scale_set, {"location": REGION, "sku": {"capacity": 3}})
    assert instance_ids(api, scale_set) == ["0", "1", "3"]
    api.delete(f"{scale_set}/virtualMachines/0")
    assert instance_ids(api, scale_set) == ["1", "3"]
    assert api.get(scale_set)["sku"]["capacity"] == 2
    vm_ids = [one["properties"]["vmId"] for one in instances(api, scale_set)]
    api.delete(scale_set)
    assert api.ask("GET", f"{scale_set}/virtualMachines/1").status_code == 404
    assert [api.services.hypervisor.state(vm_id) for vm_id in vm_ids] == ["absent", "absent"]
    assert api.get(f"{group}/{COMPUTE}/disks")["value"] == []
    assert told(api, version) == []


def test_instances_stop_and_start_together_or_alone(api: Api, version: str) -> None:
    scale_set = scale_set_in(api.group("powers"))
    api.put(scale_set, scale_set_body(api, version, 2, mode="Uniform"))
    for path, body, expected in (
        ("poweroff?skipShutdown=false", {"instanceIds": ["*"]}, ("stopped", "stopped")),
        ("start", {"instanceIds": ["1"]}, ("stopped", "running")),
        ("start", {"instanceIds": ["*"]}, ("running", "running")),
        ("deallocate", None, ("deallocated", "deallocated")),
        ("restart", {"instanceIds": ["0"]}, ("running", "deallocated")),
        ("virtualMachines/0/deallocate", None, ("deallocated", "deallocated")),
        ("virtualMachines/1/start", None, ("deallocated", "running")),
    ):
        api.act(f"{scale_set}/{path}", body)
        assert powers(api, scale_set) == dict(zip("01", expected, strict=True)), path
    view = api.get(f"{scale_set}/instanceView")
    assert {one["code"]: one["count"] for one in view["virtualMachine"]["statusesSummary"]} == {
        "PowerState/deallocated": 1,
        "PowerState/running": 1,
        "ProvisioningState/succeeded": 2,
    }
    assert view["statuses"][0]["displayStatus"] == "Provisioning succeeded"
    assert api.refused("POST", f"{scale_set}/start", {"instanceIds": ["7"]})[0] == 400


def test_nobody_but_the_set_makes_an_instance(api: Api, version: str) -> None:
    scale_set = scale_set_in(api.group("makers"))
    api.put(scale_set, scale_set_body(api, version, 1, mode="Uniform"))
    machine: dict[str, Any] = api.get(f"{scale_set}/virtualMachines/0")
    assert api.refused("PUT", f"{scale_set}/virtualMachines/5", machine)[0] == 409
    api.put(
        f"{scale_set}/virtualMachines/0", {"properties": {"protectionPolicy": {"protectFromScaleIn": True}}}
    )
    api.put(scale_set, {"location": REGION, "sku": {"capacity": 2}})
    api.put(scale_set, {"location": REGION, "sku": {"capacity": 1}})
    assert instance_ids(api, scale_set) == ["0"]


def test_a_group_with_instances_is_deleted_with_them(api: Api, version: str) -> None:
    group = api.group("whole")
    scale_set = scale_set_in(group)
    api.put(scale_set, scale_set_body(api, version, 2, mode="Uniform"))
    api.groups.remove("whole")
    api.delete(group)
    assert api.ask("GET", group).status_code == 404
    assert told(api, version) == []


def test_an_instance_of_a_flexible_set_has_two_names(api: Api, version: str) -> None:
    group = api.group("names")
    scale_set = scale_set_in(group)
    api.put(scale_set, scale_set_body(api, version, 1))
    (name,) = instance_ids(api, scale_set)
    found = api.get(f"{scale_set}/virtualMachines/{name}")
    assert found["id"] == id_of(api, f"{group}/{COMPUTE}/virtualMachines/{name}")
    api.act(f"{scale_set}/virtualMachines/{name}/deallocate")
    assert power(api, f"{scale_set}/virtualMachines/{name}") == "deallocated"
    assert api.refused("GET", f"{scale_set}/virtualMachines/none")[0] == 404
