"""Many machines that boot at the same time, and replicas that go away under them."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opengallery.hypervisors.qmp import Qmp, QmpUnavailable

from .publishing import COMPUTE, GROUP, REGION, machine_body
from .serving import Gallery, until

BOOT_TIMEOUT_S = 600
# Without prefetch: what a server has warmed in its memory is read from no disk.
ONE_A_STORE = '[replicas]\nserver_for = "store"\nprefetch = false\n[machines]\nstarts_at_once = 20\n'
# The space after it says that the checksum is whole: a console comes byte by byte.
_READY = re.compile(rb"READY (\S+) (\S+) ")


@dataclass
class Machine:
    """One machine: when it was started and READY, by the monotonic clock, and which replica it reads first."""

    path: str
    folder: Path
    store: str = ""
    started_s: float = 0.0
    ready_s: float | None = None
    payload: str = ""

    @property
    def boot_s(self) -> float:
        """How long it took to be READY."""
        assert self.ready_s is not None, self.path
        return self.ready_s - self.started_s

    def look(self) -> bool:
        """Note a READY; return whether there was one."""
        if self.ready_s is None and (self.folder / "console.log").exists():
            found = _READY.search((self.folder / "console.log").read_bytes())
            if found:
                self.ready_s, self.payload = time.monotonic(), found[2].decode()
        return self.ready_s is not None


@dataclass
class Storm:
    """Machines of one version that are started together."""

    gallery: Gallery
    version: str
    machines: list[Machine] = field(default_factory=list)
    qmp: Qmp = field(default_factory=Qmp)

    def start(self, count: int, *, settled: bool = True) -> None:
        """Create so many machines; return when all of them run, or sooner: when QEMU has just been started."""
        names = [f"storm{number}" for number in range(count)]
        paths = [f"{GROUP}/{COMPUTE}/virtualMachines/{name}" for name in names]
        answers = [
            self.gallery.ask("PUT", path, machine_body(self.gallery, self.version, name))
            for path, name in zip(paths, names, strict=True)
        ]
        for path, answer in zip(paths, answers, strict=True):
            assert answer.status_code == 201, answer.text
            folder = self.gallery.data / "machines" / answer.json()["properties"]["vmId"]
            self.machines.append(Machine(path, folder))
        waiting = list(self.machines)
        deadline_s = time.monotonic() + BOOT_TIMEOUT_S
        while waiting:
            assert time.monotonic() < deadline_s, waiting
            for machine in [machine for machine in waiting if (machine.folder / "console.log").exists()]:
                machine.started_s = time.monotonic()
                waiting.remove(machine)
            self.look()
            time.sleep(0.05)
        for machine, answer in zip(self.machines, answers, strict=True):
            if settled:
                assert self.gallery.ended(answer)["status"] == "Succeeded"
            machine.store = self.view(machine)["imageReplica"]["store"]

    def view(self, machine: Machine) -> Any:
        """The instance view."""
        return self.gallery.get(f"{machine.path}/instanceView")

    def look(self) -> int:
        """Note which machines are READY by now; how many."""
        return sum(machine.look() for machine in self.machines)

    def until_ready(self, payload: str) -> None:
        """Wait until all are READY with the right checksum."""
        until(lambda: self.look() == len(self.machines), BOOT_TIMEOUT_S)
        payloads = {machine.path: machine.payload for machine in self.machines}
        assert payloads == dict.fromkeys(payloads, payload)

    def are_paused(self) -> bool:
        """Whether every machine that is not READY waits for its disk."""
        waiting = [machine for machine in self.machines if not machine.look()]
        return bool(waiting) and all(self._status(machine) == "io-error" for machine in waiting)

    def _status(self, machine: Machine) -> str:
        try:
            (answer,) = self.qmp.execute(machine.folder / "qmp.sock", [("query-status", {})])
        except QmpUnavailable:
            return ""
        return str(answer["status"])

    def served_bytes(self) -> int:
        """What all replicas have served."""
        return sum(
            replica["bytesServed"] for replica in self.gallery.get(f"{self.version}/replicas")["value"]
        )

    def end(self) -> None:
        """Delete the machines."""
        for machine in self.machines:
            with contextlib.suppress(AssertionError):
                self.gallery.act("DELETE", machine.path)
        self.qmp.close()


def store_folder(gallery: Gallery, store: str) -> Path:
    """The folder of a store."""
    return gallery.data / "stores" / REGION / store


def server_of(gallery: Gallery, store: str) -> int:
    """The process that serves this store alone: it holds the socket of the store's port."""
    for pid in gallery.pids():
        if b"replica_server" in Path(f"/proc/{pid}/cmdline").read_bytes() and _listens(
            pid, _port(gallery, store)
        ):
            return pid
    raise AssertionError(f"no process serves {store}")


def _port(gallery: Gallery, store: str) -> int:
    return int(json.loads((gallery.data / "replica-servers.json").read_text())[store])


def _listens(pid: int, port: int) -> bool:
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == port
    }
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()) in {f"socket:[{inode}]" for inode in inodes}:
                return True
    return False


def empty_memory(gallery: Gallery, store: str) -> None:
    """Have the store served by a new process, which has read nothing yet."""
    old = server_of(gallery, store)
    os.kill(old, signal.SIGKILL)

    def is_served() -> bool:
        with contextlib.suppress(AssertionError, OSError):
            return server_of(gallery, store) != old
        return False

    until(is_served)


def kill_replica(gallery: Gallery, store: str) -> None:
    """Take a replica away for good: its process, and the store that the next process would serve."""
    folder = store_folder(gallery, store)
    pid = server_of(gallery, store)
    folder.rename(folder.with_suffix(".away"))
    os.kill(pid, signal.SIGKILL)


def bring_back(gallery: Gallery, store: str) -> None:
    """Put the store of a killed replica back."""
    folder = store_folder(gallery, store)
    if folder.exists():
        shutil.rmtree(folder)
    folder.with_suffix(".away").rename(folder)
