"""Failover: machines read no more from a replica that stops answering, and again when it answers.

A thread asks every replica that a machine reads, each second. What a running machine's disk tries is
kept equal to its plan without the silent ones; a machine that had to pause since none answered goes on.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import HypervisorError, ReplicaUrl
from opengallery.providers.compute import machines
from opengallery.providers.compute.replicas import replica_url
from opengallery.replication import placement
from opengallery.replication.placement import ReadPlan

INTERVAL_S = 1
RESUME_EVERY = 3
MACHINES_AT_ONCE = 32
ENOUGH_REPLICAS = 2

log = structlog.get_logger()


def watch(services: Services) -> None:
    """Look after the machines that read replicas, until the server closes."""
    failover = Failover(services)
    count = 0
    while not services.closing.wait(INTERVAL_S):
        count += 1
        try:
            if failover.ask() or count % RESUME_EVERY == 0:
                failover.look_after_machines()
        except Exception:
            log.exception("replicas could not be looked after")
    services.health.close()


def steps(reading: dict[int, str], wanted: Sequence[str]) -> tuple[list[str], list[int]]:
    """What makes `reading` (URLs by index, in order) the list `wanted`: the URLs to add, the indexes to drop.

    A URL can only be added at the end, so one that belongs earlier takes those behind it along.
    """
    kept: list[int] = []
    left = iter(reading.items())
    for url in wanted:
        found = next((index for index, other in left if other == url), None)
        if found is None:
            break
        kept.append(found)
    return list(wanted[len(kept) :]), [index for index in reading if index not in kept]


class Failover:
    """Keeps what machines read equal to what answers. Used by one thread."""

    def __init__(self, services: Services) -> None:
        """Do nothing yet."""
        self._services = services
        self._pool = ThreadPoolExecutor(MACHINES_AT_ONCE, "failover")
        # A machine that takes its time (it is being shut down, say) keeps no other one waiting.
        self._busy: set[str] = set()
        self._has_changed = False

    def ask(self) -> bool:
        """Ask the replicas that machines read; return whether others than before are silent."""
        services = self._services
        with services.database.read() as connection:
            read = placement.read_replicas(connection)
        before = services.health.silent
        self._has_changed = services.health.ask(
            {
                (store, image_id): replica_url(services, region, store, tenant_id, image_id, "health")
                for region, store, tenant_id, image_id in sorted(read)
            }
        )
        for store, image_id in services.health.silent - before:
            log.warning("replica does not answer", store=store, image=image_id)
        for store, image_id in before - services.health.silent:
            log.warning("replica answers again", store=store, image=image_id)
        return self._has_changed

    def look_after_machines(self) -> None:
        """Let every running machine read what answers, and go on if it was paused."""
        with self._services.database.read() as connection:
            plans = placement.read_plans(connection)
        for machine in machines.started(self._services):
            if machine.key in plans and machine.key not in self._busy:
                self._busy.add(machine.key)
                self._pool.submit(self._look_after, machine, plans[machine.key], self._has_changed)

    def _look_after(self, machine: Resource, plan: ReadPlan, has_changed: bool) -> None:
        hypervisor, name = self._services.hypervisor, machines.machine_id(machine)
        try:
            answering = self._answering(machine, plan, has_changed)
            if answering:
                self._rearrange(name, answering)
            if hypervisor.state(name) == "paused":
                hypervisor.resume(name)
                log.warning("machine goes on", machine=str(machine.id))
        except HypervisorError as error:
            log.warning("machine can't be looked after", machine=str(machine.id), reason=str(error))
        except Exception:
            log.exception("machine can't be looked after", machine=str(machine.id))
        finally:
            self._busy.discard(machine.key)

    def _answering(self, machine: Resource, plan: ReadPlan, has_changed: bool) -> list[ReplicaUrl]:
        """The replicas of the machine's plan that answer; it gets others when they are too few."""
        silent = self._services.health.silent
        lost = sum((store, plan.image_id) in silent for store in plan.stores)
        left = len(plan.stores) - lost
        if lost and (left == 0 or (left < ENOUGH_REPLICAS and has_changed)):
            with self._services.database.write() as connection:
                plan = placement.add_fallbacks(connection, machine.key, silent) or plan
        found = (
            replica_url(
                self._services,
                machine.location or "",
                store,
                plan.tenant_id,
                plan.image_id,
                machines.machine_id(machine),
            )
            for store in plan.stores
            if (store, plan.image_id) not in silent
        )
        return [replica for replica in found if replica is not None]

    def _rearrange(self, name: str, answering: list[ReplicaUrl]) -> None:
        """Make the machine try just these replicas, in this order; first add, so that it always has one."""
        hypervisor = self._services.hypervisor
        reading = hypervisor.replicas(name)
        if not reading:
            return
        by_url = {replica.url: replica for replica in answering}
        added, dropped = steps(reading, list(by_url))
        for url in added:
            hypervisor.add_replica(name, by_url[url])
        for index in dropped:
            hypervisor.drop_replica(name, index)
