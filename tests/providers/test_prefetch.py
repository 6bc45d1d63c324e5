"""Replica servers are told of machines before these start, so that what boots read is ready."""

from collections.abc import Sequence
from typing import Any

import pytest

from opengallery.hypervisors.machine import ReplicaUrl
from opengallery.replica_server.supervisor import ReplicaServers

from .conftest import Api
from .images import (
    COMPUTE,
    REGION,
    definition,
    machine_body,
    managed_image,
    scale_set_body,
    scale_set_in,
    version_body,
)


@pytest.fixture
def events(api: Api, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order: `warm STORE`, and `start STORE` for a machine that reads there first."""
    seen: list[str] = []
    warm = ReplicaServers.warm

    def noted(self: Any, region: str, store: str, *image: str) -> bool:
        seen.append(f"warm {store}")
        return warm(self, region, store, *image)

    def start(_machine_id: str, replicas: Sequence[ReplicaUrl]) -> None:
        seen.append(f"start {replicas[0].url.split('/')[4]}")

    monkeypatch.setattr(ReplicaServers, "warm", noted)
    monkeypatch.setattr(api.services.hypervisor, "create", lambda _spec: None)
    monkeypatch.setattr(api.services.hypervisor, "start", start)
    return seen


def test_servers_warm_before_machines_start(api: Api, events: list[str]) -> None:
    group = api.group("prefetch")
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "image", 1), (REGION, 3)))
    api.put(f"{group}/{COMPUTE}/virtualMachines/vm", machine_body(api, version, REGION))
    _, store = events[0].split()
    assert events == [f"warm {store}", f"start {store}"]

    events.clear()
    api.put(scale_set_in(group), scale_set_body(api, version, 7))
    warmed = [event.split()[1] for event in events[:3]]
    assert [event.split()[0] for event in events] == ["warm"] * 3 + ["start"] * 7
    assert len(set(warmed)) == 3
    assert {event.split()[1] for event in events[3:]} == set(warmed)
