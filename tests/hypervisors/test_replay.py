"""Replayed machines over real replica servers, and over replicas that fail in every way."""

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from opengallery.database import Database, metadata, now
from opengallery.hypervisors import (
    HypervisorError,
    MachineNotFound,
    MachineSpec,
    NoLiveReplica,
    ReplicaUrl,
    Seed,
    StartFailed,
)
from opengallery.hypervisors.machine import DataDisk, DiskContent
from opengallery.hypervisors.replay import Replay
from opengallery.hypervisors.trace import Trace, choose, save
from opengallery.imagestore import open_image
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import MachineSettings, Settings

from .qemu_lab import BootImage, Replicas, eventually

REGION, STORE, TENANT = "westeurope", "westeurope-01", "tenant"
HASTE = 8


class Site:
    """A real replica server with one replica of the boot image."""

    def __init__(self, folder: Path, image: Path) -> None:
        folder.mkdir()
        self.settings = Settings(data=folder)
        self.database = Database(self.settings.database)
        with self.database.write() as connection:
            metadata.create_all(connection)
        self.stores = Stores(self.settings, self.database)
        with open_image(image) as source:
            self.image_id = self.stores.open(STORE, TENANT).put(source).image_id
        self.servers = ReplicaServers(self.settings, self.stores)

    def replica(self, machine: str) -> ReplicaUrl:
        where = REGION, STORE, TENANT, self.image_id
        cookie = self.servers.cookie(*where, machine, now() + timedelta(hours=1))
        return ReplicaUrl(self.servers.url(*where), cookie)

    def served_bytes(self) -> int:
        return sum(self.servers.counters(REGION).values())

    def close(self) -> None:
        self.servers.close()
        self.database.close()


@dataclass
class Ready:
    """A replayed machine's last line."""

    hostname: str
    payload: str
    boots: int
    bytes: int
    failovers: int


def spec(machine: str) -> MachineSpec:
    return MachineSpec(machine, "V1", 1, 256, 48 << 20, Seed(f"host-{machine}", "azureuser"))


def wait_until_ready(hypervisor: Replay, machine: str, boots: int = 1) -> Ready:
    line = rf"READY (\S+) (\S+) version=\S+ boots=({boots}) seconds=\S+ reads=\d+ bytes=(\d+) failovers=(\d+)"

    def said() -> Ready | None:
        console = hypervisor.console(machine)
        found = re.search(line, console.read_text() if console.exists() else "")
        return found and Ready(found[1], found[2], int(found[3]), int(found[4]), int(found[5]))

    return eventually(said)


def under_a_path(replica: ReplicaUrl) -> ReplicaUrl:
    """A test replica under a path such as replica servers have: it answers under any."""
    return ReplicaUrl(f"{replica.url}s/store/tenant/image", replica.cookie)


@pytest.fixture
def trace(boot_image: BootImage, tmp_path: Path) -> Trace:
    """The recorded boot of `mini`, in haste."""
    recorded = choose(boot_image.path.stat().st_size)
    reads = tuple(msgspec.structs.replace(read, think_us=read.think_us // HASTE) for read in recorded.reads)
    hasty = msgspec.structs.replace(recorded, reads=reads)
    save(hasty, tmp_path / "trace.json")
    return hasty


@pytest.fixture
def settings(trace: Trace, tmp_path: Path) -> Settings:
    return Settings(
        data=tmp_path / "data",
        machines=MachineSettings(hypervisor="replay", replay_trace=str(tmp_path / "trace.json")),
    )


@pytest.fixture
def hypervisor(settings: Settings, boot_image: BootImage) -> Iterator[Replay]:
    made = Replay(settings, lambda *_: open_image(boot_image.path))
    yield made
    made.close()


@pytest.fixture
def sites(tmp_path: Path, boot_image: BootImage) -> Iterator[list[Site]]:
    made = [Site(tmp_path / name, boot_image.path) for name in ("a", "b")]
    yield made
    for site in made:
        site.close()


def test_a_replayed_machine_reads_what_the_recorded_one_read(
    sites: list[Site], settings: Settings, trace: Trace
) -> None:
    site = sites[0]
    # As the server does it: what reads must return comes from the store.
    hypervisor = Replay(settings, lambda store, tenant, image: site.stores.open(store, tenant).open(image))
    try:
        # Of a data disk nothing is read.
        content = DiskContent((site.replica("one"),), 48 << 20, lambda: [(0, 48 << 20)])
        hypervisor.create(replace(spec("one"), data_disks=(DataDisk(0, 1 << 30, content),)))
        assert hypervisor.state("one") == "stopped"
        hypervisor.start("one", [site.replica("one")])
        ready = wait_until_ready(hypervisor, "one")
        assert (ready.hostname, ready.bytes, ready.failovers) == ("host-one", trace.total_bytes, 0)
        assert site.served_bytes() == trace.total_bytes
        assert hypervisor.state("one") == "running"
        hypervisor.power_off("one")
        assert hypervisor.state("one") == "stopped"
        hypervisor.start("one", [site.replica("one")])
        assert wait_until_ready(hypervisor, "one", boots=2).payload == ready.payload
        hypervisor.delete("one")
        assert hypervisor.state("one") == "absent"
    finally:
        hypervisor.close()


def test_machines_read_on_from_the_next_replica_when_a_server_is_gone(
    sites: list[Site], hypervisor: Replay, trace: Trace
) -> None:
    names = [f"m{number}" for number in range(8)]
    for name in names:
        hypervisor.create(spec(name))
        hypervisor.start(name, [sites[0].replica(name), sites[1].replica(name)])
    eventually(lambda: sites[0].served_bytes() > trace.total_bytes or None)
    assert sites[1].served_bytes() == 0
    sites[0].close()
    found = [wait_until_ready(hypervisor, name) for name in names]
    assert {ready.bytes for ready in found} == {trace.total_bytes}
    assert len({ready.payload for ready in found}) == 1
    assert all(ready.failovers for ready in found)
    assert sites[1].served_bytes() > 0


def test_a_wrong_byte_ends_the_machine(
    hypervisor: Replay, replicas: Replicas, boot_image: BootImage, trace: Trace, tmp_path: Path
) -> None:
    read = trace.reads[-1]
    wrong = tmp_path / "wrong.raw"
    content = bytearray(boot_image.path.read_bytes())
    content[read.offset + read.length - 1] ^= 1
    wrong.write_bytes(content)
    lying = Replicas(wrong, "")
    try:
        hypervisor.create(spec("deceived"))
        hypervisor.start("deceived", [under_a_path(lying.serve("replica=deceived.1.a"))])
        eventually(lambda: hypervisor.state("deceived") == "stopped" or None)
    finally:
        lying.close()
    said = hypervisor.console("deceived").read_text()
    assert f"WRONG BYTES in {read.length} from byte {read.offset} of http://127.0.0.1" in said
    assert "READY" not in said


def test_a_machine_waits_when_all_replicas_are_gone_and_goes_on_when_one_is_back(
    hypervisor: Replay, replicas: Replicas
) -> None:
    hypervisor.create(spec("waiting"))
    dying = replicas.serve("replica=waiting.1.a", "die", "20")
    hypervisor.start("waiting", [under_a_path(dying)])
    eventually(lambda: hypervisor.state("waiting") == "paused" or None)
    hypervisor.resume("waiting")
    eventually(lambda: hypervisor.state("waiting") == "paused" or None)
    replicas.serve("replica=waiting.1.a", port=int(dying.url.split(":")[2].split("/")[0]))
    hypervisor.resume("waiting")
    assert wait_until_ready(hypervisor, "waiting").failovers > 0


def test_a_silent_replica_is_read_no_more_once_it_is_dropped_and_another_takes_its_place(
    hypervisor: Replay, replicas: Replicas
) -> None:
    hypervisor.create(spec("silent"))
    silent = replicas.serve("replica=silent.1.a", "hang", "10")
    dying = replicas.serve("replica=silent.1.b", "die", "10")
    hypervisor.start("silent", [under_a_path(silent), under_a_path(dying)])
    eventually(lambda: replicas.is_stopped(silent) or None)
    index = hypervisor.add_replica("silent", under_a_path(replicas.serve("replica=silent.1.c")))
    assert index == 2
    hypervisor.drop_replica("silent", 0)
    wait_until_ready(hypervisor, "silent")
    assert replicas.is_dead(dying)
    hypervisor.drop_replica("silent", 1)
    with pytest.raises(NoLiveReplica, match="last one"):
        hypervisor.drop_replica("silent", 2)


def test_machines_of_an_earlier_server_are_stopped_and_start_again(
    settings: Settings, sites: list[Site], boot_image: BootImage
) -> None:
    for boots in (1, 2):
        server = Replay(settings, lambda *_: open_image(boot_image.path))
        try:
            assert server.adopt() == ({} if boots == 1 else {"kept": "stopped"})
            server.create(spec("kept"))
            server.start("kept", [sites[0].replica("kept")])
            wait_until_ready(server, "kept", boots)
        finally:
            server.close()


def test_machines_end_with_the_replaying_process_and_start_in_a_new_one(
    hypervisor: Replay, sites: list[Site]
) -> None:
    hypervisor.create(spec("orphan"))
    hypervisor.start("orphan", [sites[0].replica("orphan")])
    os.kill(hypervisor.pid or 0, signal.SIGKILL)
    eventually(lambda: hypervisor.state("orphan") == "stopped" or None)
    with pytest.raises(HypervisorError, match="does not run"):
        hypervisor.resume("orphan")
    hypervisor.start("orphan", [sites[0].replica("orphan")])
    wait_until_ready(hypervisor, "orphan", boots=2)


def test_many_threads_may_start_machines_at_once(hypervisor: Replay, sites: list[Site]) -> None:
    names = [f"m{number}" for number in range(40)]
    for name in names:
        hypervisor.create(spec(name))
    threads = [
        threading.Thread(target=hypervisor.start, args=(name, [sites[0].replica(name)])) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {wait_until_ready(hypervisor, name).failovers for name in names} == {0}


def test_a_machine_does_not_start_without_a_replica_or_a_trace_that_fits(
    hypervisor: Replay, replicas: Replicas, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(MachineNotFound):
        hypervisor.start("nobody", [])
    hypervisor.create(spec("alone"))
    with pytest.raises(NoLiveReplica, match="does not answer"):
        hypervisor.start("alone", [under_a_path(replicas.dead())])
    wrong = ReplicaUrl(under_a_path(replicas.serve("replica=alone.1.a")).url, "replica=alone.1.forged")
    with pytest.raises(NoLiveReplica, match="answers 403"):
        hypervisor.start("alone", [wrong])
    assert hypervisor.state("alone") == "stopped"
    small = tmp_path / "small.raw"
    small.write_bytes(bytes(1 << 20))
    other = Replay(settings, lambda *_: open_image(small))
    with pytest.raises(StartFailed, match="no recorded boot"):
        other.start("alone", [wrong])
    other.close()
