"""A region of five stores that hold one image, and storms of replayed machines that boot from it.

The control plane's own placement tells each machine which replica to read. What a read must return comes from
the image's file: nothing of the store or its servers is trusted.
"""

import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from replica_processes import cpu_s
from sqlalchemy import Connection, delete, insert

from opengallery.database import Database, metadata, now
from opengallery.hypervisors import MachineSpec, ReplicaUrl, Seed
from opengallery.hypervisors.replay import Replay
from opengallery.hypervisors.trace import choose, save
from opengallery.imagestore import open_image, transfer
from opengallery.replication import placement
from opengallery.replication.progress import replicas_table
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

REGION, TENANT, OWNER = "westeurope", "bench", "/versions/1.0.0"
STORES = tuple(f"{REGION}-{number:02}" for number in range(1, 6))
STORM_TIMEOUT_S = 1800
READY = re.compile(
    r"READY \S+ (\S+) version=\S+ boots=\d+ seconds=(\S+) reads=\d+ bytes=(\d+) failovers=(\d+)"
)

Replicas = Callable[[str, str], ReplicaUrl]
"""(store, machine) -> where this machine reads the image in this store."""


@dataclass
class Storm:
    """What a storm of machines came to."""

    wall_s: float  # from the first machine's start to the last READY
    reading_s: float  # without the firmware before the first read and the pause after the last one
    ready_s: list[float]
    total_bytes: int
    failovers: int
    machines: Counter[str]  # by the store that they were told to read first
    replaying_s: float  # CPU time of the replaying process

    @property
    def bytes_per_s(self) -> float:
        """Throughput of all replicas together while they were read."""
        return self.total_bytes / self.reading_s


class Region:
    """One image in the stores of a region, with the control plane's placement and tables."""

    def __init__(self, folder: Path, image: Path, stores: tuple[str, ...] = STORES) -> None:
        """Put `image` into every store of `stores`, in `folder`, which is made."""
        folder.mkdir()
        self.settings = Settings(data=folder)
        self.database = Database(self.settings.database)
        with self.database.write() as connection:
            metadata.create_all(connection)
        self.stores = Stores(self.settings, self.database)
        self.image = image
        first = self.stores.open(stores[0], TENANT)
        with open_image(image) as source:
            self.size_bytes = source.size_bytes
            self.image_id = first.put(source).image_id
        for store in stores[1:]:
            transfer(first, self.stores.open(store, TENANT), self.image_id)
        self.trace = choose(self.size_bytes)

    def storm(self, count: int, replicas: int, pace: float, url: Replicas) -> Storm:
        """Boot `count` machines from the first `replicas` stores; every one must be READY and right.

        The machines compute `pace` times as fast as the recorded one.
        """
        trace = self.trace.at_pace(pace)
        save(trace, self.settings.data / "trace.json")
        self.settings.machines.replay_trace = str(self.settings.data / "trace.json")
        with self.database.write() as connection:
            self._hold(connection, STORES[:replicas])
        plans = {}
        for number in range(count):
            with self.database.write() as connection:
                plans[f"m{number}"] = placement.choose_reader(connection, f"m{number}", OWNER, REGION).stores
        hypervisor = Replay(self.settings, lambda *_: open_image(self.image))
        try:
            for machine in plans:
                hypervisor.create(
                    MachineSpec(machine, "V1", 1, 256, self.size_bytes, Seed(machine, "azureuser"))
                )

            def start(machine: str) -> None:
                hypervisor.start(machine, [url(store, machine) for store in plans[machine]])

            first, *others = plans
            start(first)  # the replaying process starts, and computes what reads must return
            began_s = time.monotonic()
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(start, others))
            found = wait_until_ready(hypervisor, list(plans))
            wall_s = time.monotonic() - began_s
            replaying_s = cpu_s(hypervisor.pid or 0)
            for machine in plans:
                hypervisor.delete(machine)
        finally:
            hypervisor.close()
        payloads = {match[1] for match in found}
        assert len(payloads) == 1, payloads
        pauses_s = (trace.reads[0].think_us + trace.ready_think_us) / 1e6
        return Storm(
            wall_s,
            wall_s - pauses_s,
            sorted(float(match[2]) for match in found),
            sum(int(match[3]) for match in found),
            sum(int(match[4]) for match in found),
            Counter(plan[0] for plan in plans.values()),
            replaying_s,
        )

    def _hold(self, connection: Connection, stores: tuple[str, ...]) -> None:
        """The owner has a replica in each of `stores`, and no machine reads it yet."""
        connection.execute(delete(placement.readers))
        connection.execute(delete(replicas_table))
        for store in stores:
            connection.execute(
                insert(replicas_table).values(
                    owner=OWNER, store=store, tenant_id=TENANT, region=REGION, image_id=self.image_id,
                    state="Completed", total_bytes=self.size_bytes, started_at=now(), updated_at=now(),
                )
            )  # fmt: skip


def wait_until_ready(hypervisor: Replay, machines: list[str]) -> list[re.Match[str]]:
    """What every machine said when it was READY. Fails when one ends otherwise."""
    found: dict[str, re.Match[str]] = {}
    deadline_s = time.monotonic() + STORM_TIMEOUT_S
    waiting = list(machines)
    while waiting:
        machine = waiting[-1]
        console = hypervisor.console(machine)
        said = console.read_text() if console.exists() else ""
        if match := READY.search(said):
            found[machine] = match
            waiting.pop()
        elif hypervisor.state(machine) != "running" or time.monotonic() > deadline_s:
            raise SystemExit(f"{machine} is {hypervisor.state(machine)}, not READY: {said}")
        else:
            time.sleep(0.05)
    return [found[machine] for machine in machines]
