"""A machine, as a hypervisor sees it: what it is made of, where it reads, and what can be done to it.

Every call may be made again, also after a crash in the middle of the same call: what is done
already is left as it is.
"""

import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

State = Literal["running", "paused", "stopped", "absent"]
Generation = Literal["V1", "V2"]


class HypervisorError(Exception):
    """A machine can't do what was asked; the message says why."""


class MachineNotFound(HypervisorError):
    """The machine was never created, or is deleted."""

    def __init__(self, machine_id: str) -> None:
        super().__init__(f"There is no machine '{machine_id}'. Create it first.")


class NoLiveReplica(HypervisorError):
    """None of the replicas answers: a machine can't start, or would lose the last one it reads."""

    def __init__(self, machine_id: str, problems: Sequence[str] = ()) -> None:
        why = "; ".join(problems) or "it was told of none"
        super().__init__(f"No replica serves machine '{machine_id}': {why}.")


class StartFailed(HypervisorError):
    """The hypervisor refused the machine; the message ends with what it said."""

    def __init__(self, machine_id: str, said: str) -> None:
        super().__init__(f"Machine '{machine_id}' did not start: {said or 'its process ended silently'}")


class GaveUp(HypervisorError):
    """A command did not end in time, or the server ends; it may still run in the guest."""


class NoAgent(HypervisorError):
    """No agent answers in the guest: its image has none, it is not up yet, or it hangs."""


@dataclass(frozen=True)
class ReplicaUrl:
    """Where a machine reads one replica. The cookie's signature is never shown or logged."""

    url: str
    cookie: str = field(repr=False)  # the whole header value, `replica=...`


@dataclass(frozen=True)
class Seed:
    """What the guest is told at its first boot (cloud-init, NoCloud)."""

    hostname: str
    username: str
    ssh_keys: tuple[str, ...] = ()
    password_hash: str | None = field(default=None, repr=False)  # crypt(3) form, `$6$...`
    custom_data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Port:
    """A TCP port of this host that shall lead to a port of the guest."""

    host: str  # an address of this host, 127.64.0.1 for instance
    host_port: int
    guest_port: int


@dataclass(frozen=True)
class Forward:
    """A port that leads into a running machine: at `taken`, where the wanted one could not be had."""

    port: Port
    taken: int

    @property
    def is_elsewhere(self) -> bool:
        """Whether another port was taken than the wanted one."""
        return self.taken != self.port.host_port


@dataclass(frozen=True)
class GuestNetwork:
    """Where the guest believes itself to be: what QEMU's DHCP tells it."""

    subnet: str  # 10.0.0.0/24
    address: str  # 10.0.0.4
    mac_address: str  # 00-0D-3A-01-02-03


@dataclass(frozen=True)
class DiskContent:
    """What a data disk begins with: an image of `size_bytes`, in replicas to read in this order.

    `extents` yields the (offset, length) of what is no hole, in order.
    """

    replicas: tuple[ReplicaUrl, ...]
    size_bytes: int
    extents: Callable[[], Iterable[tuple[int, int]]] = field(repr=False)


@dataclass(frozen=True)
class DataDisk:
    """A disk beside the one with the system; the guest knows it by its serial number, `lun0`.

    It begins with `content`, which is copied as the machine is made; without it, it is empty.
    """

    lun: int
    size_bytes: int
    content: DiskContent | None = None


@dataclass(frozen=True)
class MachineSpec:
    """One machine. The settings may bound `vcpus` and `memory_mib` further."""

    machine_id: str  # letters, digits, dots, dashes, underscores
    generation: Generation
    vcpus: int
    memory_mib: int
    disk_size_bytes: int
    seed: Seed
    network: GuestNetwork | None = None
    data_disks: tuple[DataDisk, ...] = ()
    has_metadata: bool = False  # whether its guest may ask for what `metadata_link` offers


@dataclass(frozen=True)
class GuestCommand:
    """A program to run in a guest, as its administrator."""

    path: str
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = field(default=b"", repr=False)
    timeout_s: float = 60


@dataclass(frozen=True)
class Executed:
    """How a command in a guest ended, and what it said. A killed one has no status."""

    status: int | None
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True)
class Hydration:
    """How much of its image a machine's own disk holds, and what its guest has read in this run."""

    state: Literal["waiting", "running", "done"]
    done_bytes: int = 0
    guest_read_bytes: int = 0


class Hypervisor(Protocol):
    """Runs machines. Safe to use from many threads; a machine's own calls wait for each other."""

    def create(self, spec: MachineSpec) -> None:
        """Make the machine's files. Creating it again renews the seed and keeps the disks.

        Raises `NoLiveReplica` when no replica serves the content of a data disk.
        """

    def start(self, machine_id: str, replicas: Sequence[ReplicaUrl]) -> None:
        """Run the machine over `replicas`, read in this order; those that don't answer are left out.

        Does nothing when it runs. Raises `MachineNotFound`, `NoLiveReplica`, `StartFailed`.
        """

    def power_off(self, machine_id: str, grace_s: float = 0) -> None:
        """Stop the machine; the guest gets `grace_s` to shut down by itself. The disk is kept."""

    def delete(self, machine_id: str) -> None:
        """Stop the machine and remove its disk."""

    def state(self, machine_id: str) -> State:
        """Return what the machine does now; `paused` when its disk met an error or it was paused."""

    def console(self, machine_id: str) -> Path:
        """Return the file with what the guest wrote to its serial port."""

    def screenshot(self, machine_id: str) -> bytes:
        """Return what the running machine shows on its screen, as PNG."""

    def execute(self, machine_id: str, command: GuestCommand, ending: threading.Event) -> Executed:
        """Run `command` in the running guest, through the agent that its image holds.

        Raises `NoAgent`, and `GaveUp` when it takes too long or when `ending` is set.
        """

    def metadata_stream(self, machine_id: str) -> socket.socket | None:
        """Connect to what the guest sends to its metadata link; non-blocking.

        None for a machine that does not run, that has no link, or whose link another reader holds.
        """

    def copy_disks(self, machine_id: str, targets: Mapping[int | None, Path]) -> None:
        """Copy disks, each to its target, and bring the copies to the disk: data disks by their lun; under
        None what the machine wrote over its image.

        All are qcow2 files of one moment: a running machine pauses meanwhile, and they are what it would
        find after a power cut.
        """

    def replicas(self, machine_id: str) -> dict[int, str]:
        """Return the URLs that a running machine reads, by index, in the order in which it tries them."""

    def drop_replica(self, machine_id: str, index: int) -> None:
        """Let a running machine read no more from the replica at `index` of those `start` was given.

        Raises `NoLiveReplica` when it is the last one.
        """

    def add_replica(self, machine_id: str, replica: ReplicaUrl) -> int:
        """Let a running machine read from `replica` too, after the others. Returns its index."""

    def hydrate(self, machine_id: str, bytes_per_s: int) -> None:
        """Copy what a running machine has not read yet into its own disk, so fast; or change the speed."""

    def hydration(self, machine_id: str) -> Hydration:
        """Return how far that is. Once it is `done`, on disk, the machine needs no replica any more."""

    def is_hydrated(self, machine_id: str) -> bool:
        """Return whether it was found `done`: the machine starts without replicas."""

    def resume(self, machine_id: str) -> None:
        """Let a machine go on that was paused when no replica could serve it."""

    def forward(self, machine_id: str, ports: Sequence[Port]) -> tuple[Forward, ...]:
        """Let these ports, and no others, lead into a running machine; return those that do.

        A port that another program holds, or that may not be bound, is replaced by another one of
        its address. Open connections stay. Raises `HypervisorError` when the machine does not run.
        """

    def forwards(self, machine_id: str) -> tuple[Forward, ...]:
        """Return the ports that lead into the machine now; none when it does not run."""

    def adopt(self) -> dict[str, State]:
        """Take back the machines of an earlier server; return every machine with its state."""

    def close(self) -> None:
        """Stop every machine and end: no process is left behind."""
