"""A hundred machines that are created at the same time, spread evenly over their replicas."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from opengallery.hypervisors.machine import ReplicaUrl

from .conftest import Api
from .images import COMPUTE, REGION, definition, machine_body, managed_image, version_body

MACHINES = 100
REPLICAS = 5


@pytest.mark.timeout(600)
def test_a_hundred_machines_created_at_once_spread_evenly(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hypervisor is a stand-in, for there is no room for so many: everything above it is real."""
    read: list[str] = []

    def start(_machine_id: str, replicas: Sequence[ReplicaUrl]) -> None:
        read.append(replicas[0].url)

    monkeypatch.setattr(api.services.hypervisor, "create", lambda _spec: None)
    monkeypatch.setattr(api.services.hypervisor, "start", start)
    group = api.group("hundred")
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "image", 1), (REGION, REPLICAS)))
    paths = [f"{group}/{COMPUTE}/virtualMachines/vm{number}" for number in range(MACHINES)]
    body = machine_body(api, version, REGION)
    with ThreadPoolExecutor(MACHINES) as pool:
        answers = list(pool.map(lambda path: api.ask("PUT", path, body), paths))
    for answer in answers:
        assert answer.status_code == 201, answer.text
        api.finish(answer)
    told = {entry["store"]: entry["vms"] for entry in api.get(f"{version}/replicas")["value"]}
    assert (len(told), sum(told.values())) == (REPLICAS, MACHINES)
    assert max(told.values()) - min(told.values()) <= 1
    assert sorted(read.count(url) for url in set(read)) == sorted(told.values())
