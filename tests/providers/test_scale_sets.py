"""Scale sets: created, scaled, thinned out, deleted; their machines spread over the replicas."""

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select

from opengallery.arm.resources import resources
from opengallery.hypervisors.machine import HypervisorError

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

SECRET = "Sesame-open-0815"


@pytest.fixture(scope="module")
def version(server: Api) -> Iterator[str]:
    """A version with three replicas."""
    group = server.group("scaled")
    server.groups.remove("scaled")
    path = f"{definition(server, group)}/versions/1.0.0"
    server.put(path, version_body(server, managed_image(server, group, "image", 1), (REGION, 3)))
    yield path
    server.delete(group)


def test_what_a_set_does_is_in_the_activity_log_in_its_callers_name(api: Api, version: str) -> None:
    group, made, gone = api.group("audited"), str(uuid.uuid4()), str(uuid.uuid4())
    scale_set = f"{group}/{COMPUTE}/virtualMachineScaleSets/s"
    body = scale_set_body(api, version, 2)
    api.finish(api.ask("PUT", scale_set, body, x_ms_correlation_request_id=made))
    api.finish(api.ask("DELETE", scale_set, x_ms_correlation_request_id=gone))

    def events(correlation_id: str) -> dict[str, int]:
        clauses = f"eventTimestamp ge '2020-01-01' and correlationId eq '{correlation_id}'"
        log = "providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01"
        url = f"{log}&$filter={clauses}"
        found: Counter[str] = Counter()
        while url:
            page = api.get(url)
            assert {one["caller"] for one in page["value"]} == {api.first.app_id}
            found.update(f"{one['operationName']['value']} {one['status']['value']}" for one in page["value"])
            url = page.get("nextLink", "").split("testserver")[-1]
        return {name.removeprefix("Microsoft."): count for name, count in found.items()}

    machines, sets = "Compute/virtualMachines", "Compute/virtualMachineScaleSets"
    wrote = events(made)
    assert wrote[f"{sets}/write Accepted"] == wrote[f"{sets}/write Succeeded"] == 1
    assert wrote[f"{machines}/write Accepted"] == 2
    deleted = events(gone)
    assert deleted[f"{sets}/delete Succeeded"] == 1 and deleted[f"{machines}/delete Succeeded"] == 2


def test_ten_machines_spread_over_three_replicas(api: Api, version: str) -> None:
    group = api.group("spread")
    scale_set = f"{group}/{COMPUTE}/virtualMachineScaleSets/myScaleSet"
    api.put(scale_set, scale_set_body(api, version, 10))
    names = instance_ids(api, scale_set)
    assert len(set(names)) == 10
    assert told(api, version) == [3, 3, 4]
    for name in names:
        machine = api.get(f"{group}/{COMPUTE}/virtualMachines/{name}?$expand=instanceView")["properties"]
        assert machine["virtualMachineScaleSet"]["id"] == id_of(api, scale_set)
        assert machine["instanceView"]["statuses"][1]["code"] == "PowerState/running"

    gone = names[:3]
    api.act(f"{scale_set}/delete", {"instanceIds": gone})
    assert set(instance_ids(api, scale_set)) == set(names[3:])
    assert api.get(scale_set)["sku"]["capacity"] == 7

    smaller = {"location": REGION, "sku": {"name": "Standard_D2s_v5", "capacity": 2}}
    api.put(scale_set, smaller)
    assert len(instances(api, scale_set)) == 2
    larger = {"location": REGION, "sku": {"name": "Standard_D2s_v5", "capacity": 4}}
    api.put(scale_set, larger)
    assert len(instances(api, scale_set)) == 4
    counts = told(api, version)
    assert sum(counts) == 4
    view = api.get(f"{scale_set}/instanceView")
    assert view["virtualMachine"]["statusesSummary"] == [
        {"code": "PowerState/running", "count": 4},
        {"code": "ProvisioningState/succeeded", "count": 4},
    ]

    api.delete(scale_set)
    assert api.ask("GET", scale_set).status_code == 404
    assert api.get(f"{group}/{COMPUTE}/virtualMachines")["value"] == []
    assert told(api, version) == []


def test_a_set_that_failed_says_why(api: Api, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = api.group("failing")
    scale_set = f"{group}/{COMPUTE}/virtualMachineScaleSets/failing"
    api.put(scale_set, scale_set_body(api, version, 1))

    def fail(*_arguments: object) -> None:
        raise HypervisorError("No room.")

    with monkeypatch.context() as patch:
        patch.setattr(type(api.services.hypervisor), "start", fail)
        larger = {"location": REGION, "sku": {"name": "Standard_D2s_v5", "capacity": 2}}
        answer = api.ask("PUT", scale_set, larger)
        assert api.operation(answer)["status"] == "Failed"
    (status,) = api.get(f"{scale_set}/instanceView")["statuses"]
    assert (status["code"], status["level"]) == ("ProvisioningState/failed", "Error")
    assert "1 of 2 instances failed: No room." in status["message"]
    api.put(scale_set, larger)
    (status,) = api.get(f"{scale_set}/instanceView")["statuses"]
    assert (status["code"], status["level"]) == ("ProvisioningState/succeeded", "Info")
    assert "message" not in status


def test_instances_sign_in_as_their_set_says(api: Api, version: str) -> None:
    scale_set = f"{api.group('secrets')}/{COMPUTE}/virtualMachineScaleSets/set"
    body = scale_set_body(
        api, version, 1, adminPassword=SECRET, linuxConfiguration=None, customData="I2Nsb3VkLWNvbmZpZw=="
    )
    api.put(scale_set, body)
    with api.services.database.read() as connection:
        rows = connection.execute(
            select(resources).where(resources.c.type == "microsoft.compute/virtualmachines")
        ).all()
    (private,) = [row.private for row in rows]
    assert private["passwordHash"].startswith("$6$")
    assert private["customData"] == "I2Nsb3VkLWNvbmZpZw=="
    assert SECRET not in json.dumps([list(row) for row in rows], default=str)
    assert "passwordHash" not in api.ask("GET", scale_set).text
    api.put(scale_set, {"location": REGION, "sku": {"capacity": 2}})
    assert len(instances(api, scale_set)) == 2


def test_an_impossible_scale_set_is_refused(api: Api, version: str) -> None:
    scale_set = f"{api.group('refused')}/{COMPUTE}/virtualMachineScaleSets/set"
    good = scale_set_body(api, version, 1)

    def refused(**changes: Any) -> int:
        status = api.refused("PUT", scale_set, {**good, **changes})[0]
        assert api.ask("GET", scale_set).status_code == 404
        return status

    for capacity in (-1, 1001, "x", 1.5):
        assert refused(sku={"name": "Standard_D2s_v5", "capacity": capacity}) == 400
    profile = good["properties"]["virtualMachineProfile"]

    def with_profile(**changes: Any) -> Any:
        return {"orchestrationMode": "Flexible", "virtualMachineProfile": {**profile, **changes}}

    for policy in ({"mode": "Sometimes"}, {"rollingUpgradePolicy": {"pauseTimeBetweenBatches": "5 min"}}):
        assert refused(properties={**good["properties"], "upgradePolicy": policy}) == 400
    assert refused(properties=with_profile(osProfile={"adminUsername": "me"})) == 400
    assert (
        refused(properties=with_profile(osProfile={**profile["osProfile"], "linuxConfiguration": "x"})) == 400
    )
    assert refused(properties=with_profile(networkProfile={"networkInterfaceConfigurations": [{}]})) == 400
    assert refused(properties=with_profile(networkProfile="x")) == 400
    assert refused(location="japaneast") == 404
    api.put(scale_set, scale_set_body(api, version, 0))
    assert api.refused("POST", f"{scale_set}/delete", {"instanceIds": ["none"]})[0] == 400
    assert api.refused("POST", f"{scale_set}/delete", {"instanceIds": []})[0] == 400
    assert told(api, version) == []


def test_a_set_shrinks_when_its_version_is_gone(api: Api, version: str) -> None:
    group = api.group("shrinking")
    parent = definition(api, group)
    own = f"{parent}/versions/1.0.0"
    api.put(own, version_body(api, version))
    scale_set = f"{group}/{COMPUTE}/virtualMachineScaleSets/set"
    api.put(scale_set, scale_set_body(api, own, 2))
    api.delete(own)
    assert api.refused("PUT", scale_set, {"location": REGION, "sku": {"capacity": 3}})[0] == 404
    api.put(scale_set, {"location": REGION, "sku": {"capacity": 1}})
    assert len(instances(api, scale_set)) == 1


def test_a_set_deleted_while_it_is_created_leaves_no_machine(api: Api, version: str) -> None:
    group = api.group("canceled")
    scale_set = f"{group}/{COMPUTE}/virtualMachineScaleSets/set"
    creating = api.ask("PUT", scale_set, scale_set_body(api, version, 6))
    assert creating.status_code == 201
    api.delete(scale_set)
    assert api.operation(creating)["status"] == "Canceled"
    assert api.get(f"{group}/{COMPUTE}/virtualMachines")["value"] == []
    assert told(api, version) == []


def test_no_more_machines_start_at_once_than_the_settings_say(
    api: Api, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypervisor = type(api.services.hypervisor)
    start, lock, counts = hypervisor.start, threading.Lock(), [0]

    def counted(self: Any, *arguments: Any) -> None:
        with lock:
            counts.append(counts[-1] + 1)
        try:
            start(self, *arguments)
        finally:
            with lock:
                counts.append(counts[-1] - 1)

    monkeypatch.setattr(hypervisor, "start", counted)
    scale_set = scale_set_in(api.group("bounded"))
    api.put(scale_set, scale_set_body(api, version, 6))
    assert max(counts) == api.services.settings.machines.starts_at_once
    assert counts[-1] == 0


@pytest.mark.parametrize("mode", ["Flexible", "Uniform"])
def test_an_instance_that_is_worked_on_can_only_be_deleted(
    api: Api, version: str, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    hypervisor = type(api.services.hypervisor)
    start, may_start = hypervisor.start, threading.Event()

    def late(self: Any, *arguments: Any) -> None:
        assert may_start.wait(60)
        start(self, *arguments)

    monkeypatch.setattr(hypervisor, "start", late)
    scale_set = scale_set_in(api.group("held"))
    creating = api.ask("PUT", scale_set, scale_set_body(api, version, 1, mode=mode))
    while not (found := instances(api, scale_set)):
        time.sleep(0.05)
    instance = f"{scale_set}/virtualMachines/{found[0]['instanceId']}"
    assert api.refused("POST", f"{instance}/deallocate")[:2] == (409, "Conflict")
    deleting = api.ask("DELETE", instance)
    if mode == "Flexible":
        api.finish(deleting)
    may_start.set()
    api.finish(deleting)
    api.operation(creating)
    assert instances(api, scale_set) == []
    assert api.services.hypervisor.state(found[0]["properties"]["vmId"]) == "absent"
    assert told(api, version) == []


def test_a_list_of_instances_comes_in_pages(api: Api, version: str) -> None:
    scale_set = scale_set_in(api.group("pages"))
    api.put(scale_set, scale_set_body(api, version, 12, mode="Uniform"))
    first = api.get(f"{scale_set}/virtualMachines")
    assert [one["instanceId"] for one in first["value"]] == ["0", "1", "2", "3", "4"]
    assert "instanceView" not in first["value"][0]["properties"]
    assert instance_ids(api, scale_set) == [str(number) for number in range(12)]
    viewed = api.get(f"{scale_set}/virtualMachines?$expand=instanceView&$top=2")
    assert len(viewed["value"]) == 2
    assert viewed["value"][1]["properties"]["instanceView"]["statuses"][1]["code"] == "PowerState/running"
    assert api.refused("GET", f"{scale_set}/virtualMachines?$skiptoken=x")[0] == 400
