"""What tests of machines use: replicas that serve and fail, and ways to see what a machine does."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from opengallery.hypervisors import MachineSpec, Qemu, ReplicaUrl, Seed
from opengallery.settings import Settings

MIB = 1 << 20
REPOSITORY = Path(__file__).parents[2]
T = TypeVar("T")


@dataclass
class BootImage:
    """An image that says READY, and the start of its payload's SHA-256."""

    path: Path
    payload: str


@dataclass
class Replicas:
    """Starts replicas of one image, processes of their own, and ends those that live."""

    image: Path
    payload: str
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def serve(self, cookie: str, *fault: str, port: int = 0) -> ReplicaUrl:
        """Start one that behaves, or that will `die` or `hang` after a number of requests."""
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).parent / "replica.py"),
                str(self.image),
                str(port),
                cookie,
                *fault,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}/image"
        self.processes[url] = process
        return ReplicaUrl(url, cookie)

    def kill(self, replica: ReplicaUrl) -> None:
        """End one at once."""
        self.processes[replica.url].kill()
        self.processes[replica.url].wait()

    def stop(self, replica: ReplicaUrl) -> None:
        """Let one be silent: its connections stay open, and nobody answers."""
        self.processes[replica.url].send_signal(signal.SIGSTOP)

    def go_on(self, replica: ReplicaUrl) -> None:
        """Let one that was stopped answer again."""
        self.processes[replica.url].send_signal(signal.SIGCONT)

    def is_dead(self, replica: ReplicaUrl) -> bool:
        """Return whether one has ended."""
        return self.processes[replica.url].poll() is not None

    def dead(self) -> ReplicaUrl:
        """Return one that is gone."""
        return ReplicaUrl(f"http://127.0.0.1:{free_port()}/image", "replica=gone")

    def is_stopped(self, replica: ReplicaUrl) -> bool:
        """Return whether one is silent: alive, its connections open, and stopped."""
        stat = Path(f"/proc/{self.processes[replica.url].pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def close(self) -> None:
        """End all that are there."""
        for process in self.processes.values():
            process.kill()
            process.communicate()
        self.processes.clear()


@dataclass
class Servers:
    """Hypervisors of servers that follow each other in one data folder; the earlier ones were killed."""

    settings: Settings
    started: list[Qemu] = field(default_factory=list)

    def next(self) -> Qemu:
        self.started.append(Qemu(self.settings))
        return self.started[-1]

    def close(self) -> None:
        for qemu in reversed(self.started):
            qemu.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def spec(machine_id: str, generation: str = "V1", key: str = "") -> MachineSpec:
    seed = Seed(hostname=f"host-{machine_id}", username="azureuser", ssh_keys=(key,) if key else ())
    return MachineSpec(machine_id, generation, 1, 256, 64 * 1024**2, seed)  # type: ignore[arg-type]


@dataclass
class Ready:
    """What the guest said when it was up."""

    hostname: str
    payload: str
    boots: int


def eventually(what: Callable[[], T | None], timeout_s: float = 90) -> T:
    deadline = time.monotonic() + timeout_s
    while (result := what()) is None:
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
    return result


def wait_until_ready(qemu: Qemu, machine_id: str, boots: int = 1) -> Ready:
    """Wait for the READY of the machine's nth boot."""

    def said() -> Ready | None:
        text = qemu.console(machine_id).read_text(errors="replace")
        for hostname, payload, count in re.findall(r"READY (\S+) (\S+) version=\S+ boots=(\d+) ", text):
            if int(count) == boots:
                return Ready(hostname, payload, int(count))
        return None

    return eventually(said)


def qemu_processes(folder: Path) -> dict[int, str]:
    """Return the argument lists of all live processes of machines in `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"guest={folder}/" in arguments:
            found[int(process.name)] = arguments
    return found
