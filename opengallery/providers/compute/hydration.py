"""Hydration: machines that are up copy the rest of their image, until they need no replica any more.

A thread looks after them: a few at a time share the host's rate. When one is done its image is pinned
for it no longer, so that versions and replicas can go.
"""

import time
from dataclasses import dataclass
from typing import Any

import structlog

from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import Hydration, HypervisorError
from opengallery.providers.compute import machines
from opengallery.replication import placement
from opengallery.replication.workflows import sweep

INTERVAL_S = 3
AT_ONCE = 4
CALM_BYTES = 1 << 20
CALM_LOOKS = 4
PATIENCE_S = 180
_STATES = {"waiting": "Waiting", "running": "Hydrating", "done": "Hydrated"}

log = structlog.get_logger()


def watch(services: Services) -> None:
    """Hydrate machines, until the server closes."""
    hydrator = Hydrator(services)
    while not services.closing.wait(INTERVAL_S):
        try:
            hydrator.look()
        except Exception:
            log.exception("machines could not be hydrated")


def view(services: Services, machine: Resource) -> dict[str, Any]:
    """How far a machine is, for its instance view."""
    total_bytes = int(machine.private["image"]["sizeBytes"])
    found = services.hydrations.get(machine.key, Hydration("waiting"))
    if services.hypervisor.is_hydrated(machines.machine_id(machine)):
        found = Hydration("done", total_bytes)
    return {
        "status": _STATES[found.state],
        # The disk may be larger than its image: what lies behind has nothing to copy.
        "hydratedBytes": min(found.done_bytes, total_bytes),
        "totalBytes": total_bytes,
    }


@dataclass
class _Boot:
    """What was seen of a machine's reads: one that is up reads little."""

    since_s: float
    read_bytes: int = 0
    calm_looks: int = 0

    def is_over(self, read_bytes: int) -> bool:
        """Note what the guest has read so far; return whether the machine is up."""
        is_calm = 0 < read_bytes < self.read_bytes + CALM_BYTES
        self.calm_looks = self.calm_looks + 1 if is_calm else 0
        self.read_bytes = read_bytes
        is_late = read_bytes > 0 and time.monotonic() - self.since_s > PATIENCE_S
        return self.calm_looks >= CALM_LOOKS or is_late


class Hydrator:
    """Decides which machines are hydrated now, and how fast. Used by one thread."""

    def __init__(self, services: Services) -> None:
        """Know of no machine yet."""
        self._services = services
        self._boots: dict[str, _Boot] = {}
        self._speeds: dict[str, int] = {}

    def look(self) -> None:
        """Look at every machine that reads: release those that are done, start others, share the rate."""
        with self._services.database.read() as connection:
            plans = placement.read_plans(connection)
        running: list[Resource] = []
        waiting: list[Resource] = []
        for machine in machines.every(self._services):
            if machine.key not in plans:
                continue
            try:
                state = self._look_at(machine)
            except HypervisorError as error:
                log.warning("machine is not hydrated", machine=str(machine.id), reason=str(error))
                continue
            if state == "running":
                running.append(machine)
            elif state == "up":
                waiting.append(machine)
        for known in (self._boots, self._services.hydrations):
            for key in set(known) - plans.keys():
                del known[key]
        if rate := self._services.settings.machines.hydration_mib_per_s << 20:
            chosen = [*running, *waiting[: max(0, AT_ONCE - len(running))]]
            self._share(chosen, rate)

    def _look_at(self, machine: Resource) -> str:
        """Note how far a machine is. Returns `running` for one that is being hydrated, `up` for one that may be."""
        services, name = self._services, machines.machine_id(machine)
        found = services.hypervisor.hydration(name)
        services.hydrations[machine.key] = found
        if found.state == "done":
            release(services, machine)
            return "done"
        if found.state == "running":
            return "running"
        if machine.private.get("power") != machines.RUNNING or services.hypervisor.state(name) != "running":
            self._boots.pop(machine.key, None)
            return "down"
        boot = self._boots.setdefault(machine.key, _Boot(time.monotonic()))
        return "up" if boot.is_over(found.guest_read_bytes) else "booting"

    def _share(self, chosen: list[Resource], rate: int) -> None:
        """Let the chosen machines go on at equal parts of the host's rate."""
        speeds = {machine.key: rate // len(chosen) for machine in chosen}
        for machine in chosen:
            is_running = self._services.hydrations[machine.key].state == "running"
            if is_running and self._speeds.get(machine.key) == speeds[machine.key]:
                continue
            try:
                self._services.hypervisor.hydrate(machines.machine_id(machine), speeds[machine.key])
            except HypervisorError as error:
                log.warning("machine is not hydrated", machine=str(machine.id), reason=str(error))
        self._speeds = speeds


def release(services: Services, machine: Resource) -> None:
    """The machine needs no replica any more: what was kept only for it goes."""
    with services.database.write() as connection:
        placement.end_reading(connection, machine.key)
    sweep()
    log.info("machine is hydrated", machine=str(machine.id))
