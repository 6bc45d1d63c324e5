"""A machine's folder, `DIR/machines/<machine id>/`: everything a machine is, on this host.

machine.json   what it is made of; written last, so the machine exists when it does
os.qcow2       its disk: what the guest wrote; everything else is read from the replicas
data-0.qcow2   its data disk of lun 0, and so on
seed.iso       its cloud-init seed          vars.fd     its UEFI variables (V2)
run.json       its process, the replicas that it reads and the ports that lead to it, while it runs
hydrated       there when os.qcow2 holds the whole image: nothing is read from replicas any more
qmp.sock       QEMU's control socket        console.log, qemu.log   what guest and QEMU said
agent.sock     the channel to an agent in the guest
metadata.sock  its metadata link, if it has one
"""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from opengallery.hypervisors.arguments import uefi_firmware
from opengallery.hypervisors.filling import fill
from opengallery.hypervisors.machine import (
    DataDisk,
    Forward,
    Generation,
    GuestNetwork,
    HypervisorError,
    MachineNotFound,
    MachineSpec,
)
from opengallery.hypervisors.metadata_link import BOOT_COMMAND
from opengallery.hypervisors.process import Process
from opengallery.hypervisors.qmp import connect
from opengallery.hypervisors.seed import seed_iso

MACHINE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
LOG_KEPT_BYTES = 1024**2


class Parts(msgspec.Struct, frozen=True):
    """machine.json: the machine without its seed, whose secrets stay in seed.iso."""

    generation: Generation
    vcpus: int
    memory_mib: int
    network: GuestNetwork | None = None
    luns: tuple[int, ...] = ()
    has_metadata: bool = False


class Run(msgspec.Struct, frozen=True):
    """run.json: written before the process starts (pid 0) and again with its id."""

    children: dict[int, str] = {}  # index of a replica -> its name in the quorum, in the order of reading
    urls: dict[int, str] = {}
    next_index: int = 0
    next_child: int = 0
    forwards: tuple[Forward, ...] = ()
    pid: int = 0
    start_ticks: int = 0

    @property
    def process(self) -> Process:
        """The process, which may have ended since."""
        return Process(self.pid, self.start_ticks)

    def in_process(self, process: Process) -> "Run":
        """Return this run, in `process`."""
        return msgspec.structs.replace(self, pid=process.pid, start_ticks=process.start_ticks)

    def with_replica(self, url: str) -> tuple[int, "Run"]:
        """Return the index of one replica more, and the run that reads it."""
        children = {**self.children, self.next_index: f"children.{self.next_child}"}
        run = msgspec.structs.replace(
            self,
            children=children,
            urls={**self.urls, self.next_index: url},
            next_index=self.next_index + 1,
            next_child=self.next_child + 1,
        )
        return self.next_index, run

    def without_replica(self, index: int) -> "Run":
        """Return the run that reads no more from the replica at `index`."""
        children = dict(self.children)
        # QEMU gives a name again when it was the youngest child's.
        is_youngest = children.pop(index) == f"children.{self.next_child - 1}"
        return msgspec.structs.replace(self, children=children, next_child=self.next_child - is_youngest)

    def without_replicas(self) -> "Run":
        """Return the run that reads from no replica any more."""
        return msgspec.structs.replace(self, children={}, urls={})


class MachineFolder:
    """One machine's folder among `machines`, which is an absolute path."""

    def __init__(self, machines: Path, machine_id: str) -> None:
        if not MACHINE_ID.fullmatch(machine_id):
            raise HypervisorError(f"'{machine_id}' can't be a machine's id: letters, digits, '.', '_', '-'.")
        self.machine_id = machine_id
        self.path = machines / machine_id
        self.marker = marker(machines, machine_id)
        self.overlay = self.path / "os.qcow2"
        self.seed = self.path / "seed.iso"
        self.variables = self.path / "vars.fd"
        self.qmp = self.path / "qmp.sock"
        self.agent = self.path / "agent.sock"
        self.metadata = self.path / "metadata.sock"
        self.console = self.path / "console.log"
        self.qemu_log = self.path / "qemu.log"
        self._parts = self.path / "machine.json"
        self._run = self.path / "run.json"
        self._hydrated = self.path / "hydrated"

    def exists(self) -> bool:
        """Return whether the machine was created."""
        return self._parts.exists()

    def create(self, spec: MachineSpec, is_wanted: Callable[[], bool]) -> None:
        """Make what is missing; renew the seed and the parts, keep disks and variables.

        Filling data disks takes its time: it ends when the machine is not wanted any more.
        """
        self.path.mkdir(mode=0o700, exist_ok=True)
        if not self.overlay.exists():
            self._hydrated.unlink(missing_ok=True)
        _make_disk(self.overlay, spec.disk_size_bytes)
        for disk in spec.data_disks:
            self._make_data_disk(disk, is_wanted)
        if spec.generation == "V2" and not self.variables.exists():
            _write(self.variables, uefi_firmware()[1].read_bytes())
        _write(self.seed, seed_iso(spec.seed, spec.machine_id, [BOOT_COMMAND] if spec.has_metadata else ()))
        luns = tuple(disk.lun for disk in spec.data_disks)
        parts = Parts(spec.generation, spec.vcpus, spec.memory_mib, spec.network, luns, spec.has_metadata)
        _write(self._parts, msgspec.json.encode(parts))

    def lacks_content(self, spec: MachineSpec) -> bool:
        """Return whether a data disk is still to be filled."""
        return any(disk.content and not self.data_disk(disk.lun).exists() for disk in spec.data_disks)

    def _make_data_disk(self, disk: DataDisk, is_wanted: Callable[[], bool]) -> None:
        path = self.data_disk(disk.lun)
        if disk.content is None:
            _make_disk(path, disk.size_bytes)
        elif not path.exists():
            unfinished = path.with_suffix(".new")
            fill(unfinished, self.machine_id, disk, is_wanted)
            _publish(unfinished, path)

    def data_disk(self, lun: int) -> Path:
        """Where a data disk lies."""
        return self.path / f"data-{lun}.qcow2"

    def is_hydrated(self) -> bool:
        """Return whether the disk holds the whole image."""
        return self._hydrated.exists()

    def mark_hydrated(self) -> None:
        """Note that the disk holds the whole image; it has been flushed."""
        _write(self._hydrated, b"")

    def remove(self) -> None:
        """Remove everything; machine.json first, so that nothing half removed is taken for a machine."""
        self._parts.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)

    def parts(self) -> Parts:
        """Return what the machine is made of. Raises `MachineNotFound`."""
        try:
            return msgspec.json.decode(self._parts.read_bytes(), type=Parts)
        except FileNotFoundError:
            raise MachineNotFound(self.machine_id) from None

    def run(self) -> Run | None:
        """Return the last recorded run, unless it was ended in order."""
        try:
            return msgspec.json.decode(self._run.read_bytes(), type=Run)
        except FileNotFoundError:
            return None

    def record(self, run: Run) -> None:
        """Keep what is known of the run, for a later server too."""
        _write(self._run, msgspec.json.encode(run))

    def end_run(self) -> None:
        """Forget the run: its process has ended."""
        self._run.unlink(missing_ok=True)
        self.qmp.unlink(missing_ok=True)
        self.agent.unlink(missing_ok=True)
        self.metadata.unlink(missing_ok=True)

    def metadata_stream(self) -> socket.socket | None:
        """Connect to the metadata link; None when there is none, or when it is held."""
        try:
            return connect(self.metadata)
        except OSError:
            return None

    def shorten_logs(self) -> None:
        """Keep the last part of the logs, which are shared by all starts of the machine."""
        for log in (self.console, self.qemu_log):
            if log.exists() and (size := log.stat().st_size) > LOG_KEPT_BYTES:
                with log.open("rb") as file:
                    file.seek(size - LOG_KEPT_BYTES)
                    kept = file.read()
                _write(log, kept)

    def last_words(self) -> str:
        """Return the end of what QEMU itself said."""
        if not self.qemu_log.exists():
            return ""
        return "; ".join(self.qemu_log.read_text(errors="replace").splitlines()[-3:])


def marker(machines: Path, machine_id: str) -> str:
    """Return the argument by which a machine's process is known on the whole host."""
    return f"guest={machines}/{machine_id}".replace(",", ",,")


def _make_disk(path: Path, size_bytes: int) -> None:
    """Make an empty disk, unless it is there."""
    if path.exists():
        return
    unfinished = path.with_suffix(".new")
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(unfinished), str(size_bytes)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    _publish(unfinished, path)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old one or the whole new one, and on disk."""
    unfinished = path.with_name(f"{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    _publish(unfinished, path)


def _publish(unfinished: Path, path: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
