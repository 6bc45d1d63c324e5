"""Machines as QEMU processes of this host: the default hypervisor.

The processes outlive a server that is killed; the next one adopts them. See `folder` for what is
kept of a machine, `arguments` for what QEMU is told, `process` for how it runs.
"""

import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from opengallery.hypervisors import arguments, guest_agent, hydration, metadata_link, port_forwarding, process
from opengallery.hypervisors.accelerator import choose_accelerator
from opengallery.hypervisors.copying import copy_overlay, holding_still
from opengallery.hypervisors.folder import MachineFolder, Parts, Run, marker
from opengallery.hypervisors.machine import (
    Executed,
    Forward,
    GuestCommand,
    Hydration,
    HypervisorError,
    MachineSpec,
    NoLiveReplica,
    Port,
    ReplicaUrl,
    StartFailed,
    State,
)
from opengallery.hypervisors.probe import living, probe
from opengallery.hypervisors.qmp import Command, Qmp, QmpRefused, QmpUnavailable
from opengallery.hypervisors.screen import take_screenshot
from opengallery.settings import Settings

START_DEADLINE_S = 60
QUIT_DEADLINE_S = 10


class Qemu:
    """The hypervisor. One object a data folder; `adopt` first when the server starts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.machines
        self._machines = (settings.data / "machines").resolve()
        self._machines.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._accelerator_cache = settings.data / "accelerator.json"
        self._accelerator_lock = threading.Lock()
        self._starts = threading.BoundedSemaphore(self._settings.starts_at_once)
        self._fillings = threading.BoundedSemaphore(self._settings.starts_at_once)
        self._locks: dict[str, threading.RLock] = {}
        self._locks_lock = threading.Lock()
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._qmp = Qmp()
        self._deleting: set[str] = set()
        self._closed = False

    def create(self, spec: MachineSpec) -> None:
        """Make the machine's files. Creating it again renews seed and size, and keeps the disks."""
        with (
            self._alone(spec.machine_id) as folder,
            self._fillings if folder.lacks_content(spec) else nullcontext(),
        ):
            folder.create(spec, lambda: not self._closed and spec.machine_id not in self._deleting)

    def start(self, machine_id: str, replicas: Sequence[ReplicaUrl]) -> None:
        """Run the machine over those of `replicas` that answer, read in this order.

        Does nothing when it runs. A hydrated machine reads none.
        Raises `MachineNotFound`, `NoLiveReplica`, `StartFailed`.
        """
        with self._alone(machine_id) as folder:
            parts = folder.parts()
            if self._process(folder) or self._search(folder):
                return
            live = {} if folder.is_hydrated() else living(machine_id, replicas)
            children = {index: f"children.{place}" for place, index in enumerate(live)}
            urls = {index: replica.url for index, replica in live.items()}
            folder.record(Run(children, urls, len(replicas), len(live)))
            with self._starts:
                # `close` has seen run.json, or is seen here.
                if self._closed:
                    raise StartFailed(machine_id, "the server is ending")
                self._launch(folder, parts, live)

    def power_off(self, machine_id: str, grace_s: float = 0) -> None:
        """Stop the machine; the guest gets `grace_s` to shut down by itself. The disk is kept."""
        with self._alone(machine_id) as folder:
            if found := self._process(folder) or self._search(folder):
                self._end(folder, found, grace_s)
            folder.end_run()

    def delete(self, machine_id: str) -> None:
        """Stop the machine and remove its disks."""
        self._deleting.add(machine_id)  # whoever fills its data disks lets go
        with self._alone(machine_id) as folder:
            self.power_off(machine_id)
            folder.remove()
            self._deleting.discard(machine_id)

    def state(self, machine_id: str) -> State:
        """Return what the machine does now; `paused` when its disk met an error or it was paused."""
        folder = self._folder(machine_id)
        if not folder.exists():
            return "absent"
        if not self._process(folder):
            return "stopped"
        try:
            (answer,) = self._ask(folder, ("query-status", {}))
        except QmpUnavailable:
            # It ended just now, or is too busy to say.
            return "running" if self._process(folder) else "stopped"
        return "running" if answer["status"] in ("running", "shutdown") else "paused"

    def console(self, machine_id: str) -> Path:
        """Return the file with what the guest wrote to its serial port, over all its starts."""
        return self._folder(machine_id).console

    def screenshot(self, machine_id: str) -> bytes:
        """Return the machine's screen as PNG; QEMU, which may open no file, gets one in memory."""
        with self._alone(machine_id) as folder:
            self._running(folder)
            try:
                return take_screenshot(partial(self._qmp.execute, folder.qmp))
            except (QmpUnavailable, QmpRefused) as error:
                raise HypervisorError(f"Machine '{machine_id}' shows no screen: {error}") from error

    def execute(self, machine_id: str, command: GuestCommand, ending: threading.Event) -> Executed:
        """Run `command` in the running guest. Raises `NoAgent`, `GaveUp`."""
        folder = self._folder(machine_id)
        self._running(folder)
        return guest_agent.execute(folder.agent, command, ending)

    def metadata_stream(self, machine_id: str) -> socket.socket | None:
        """Connect to what the guest sends to its metadata link; None when there is nothing to connect to."""
        return self._folder(machine_id).metadata_stream()

    def copy_disks(self, machine_id: str, targets: Mapping[int | None, Path]) -> None:
        """Copy data disks by their lun, the machine's overlay under None; a running machine pauses meanwhile."""
        with self._alone(machine_id) as folder:
            folder.parts()
            is_running = self._process(folder) is not None
            with holding_still(partial(self._command, folder)) if is_running else nullcontext():
                for lun, target in targets.items():
                    copy_overlay(folder.overlay if lun is None else folder.data_disk(lun), target)

    def replicas(self, machine_id: str) -> dict[int, str]:
        """Return the URLs that a running machine reads, by index, in the order in which it tries them."""
        folder = self._folder(machine_id)
        run = folder.run()
        if run is None or not self._process(folder):
            return {}
        return {index: run.urls[index] for index in run.children if index in run.urls}

    def drop_replica(self, machine_id: str, index: int) -> None:
        """Let a running machine read no more from the replica at `index` of those `start` was given.

        Does nothing when it does not. Raises `NoLiveReplica` when it is the last one: QEMU keeps it.
        """
        with self._alone(machine_id) as folder:
            run = self._running(folder)
            if index not in run.children:
                return
            if len(run.children) == 1:
                raise NoLiveReplica(machine_id, [f"replica {index} is the last one that it reads"])
            child = {"parent": arguments.QUORUM, "child": run.children[index]}
            self._command(folder, ("x-blockdev-change", child))
            folder.record(run.without_replica(index))
            with suppress(QmpRefused, QmpUnavailable):
                self._ask(
                    folder,
                    ("blockdev-del", {"node-name": f"replica-{index}"}),
                    ("object-del", {"id": arguments.replica_secret(index)}),
                )

    def add_replica(self, machine_id: str, replica: ReplicaUrl) -> int:
        """Let a running machine read from `replica` too, after the others. Returns its index."""
        with self._alone(machine_id) as folder:
            index, run = self._running(folder).with_replica(replica.url)
            if problem := probe([replica])[0]:
                raise NoLiveReplica(machine_id, [problem])
            secret = {"qom-type": "secret", "id": arguments.replica_secret(index), "data": replica.cookie}
            self._command(
                folder,
                ("object-add", secret),
                ("blockdev-add", arguments.replica_node(index, replica)),
                ("x-blockdev-change", {"parent": arguments.QUORUM, "node": f"replica-{index}"}),
            )
            folder.record(run)
            return index

    def hydrate(self, machine_id: str, bytes_per_s: int) -> None:
        """Copy what a running machine has not read yet into its own disk, so fast; or change the speed."""
        with self._alone(machine_id) as folder:
            if self._running(folder).children:
                try:
                    hydration.run(self._qmp, folder.qmp, bytes_per_s)
                except (QmpUnavailable, QmpRefused) as error:
                    raise HypervisorError(f"Machine '{machine_id}' can't be hydrated: {error}") from error

    def hydration(self, machine_id: str) -> Hydration:
        """Return how far that is. Once it is `done`, on disk, the machine needs no replica any more."""
        folder = self._folder(machine_id)
        if folder.is_hydrated():
            return Hydration("done")
        run = folder.run()
        if run is None or not run.children or not self._process(folder):
            return Hydration("waiting")
        try:
            found = hydration.progress(self._qmp, folder.qmp)
            if found.state == "done":
                with self._alone(machine_id):
                    hydration.flush(self._qmp, folder.qmp)
                    folder.mark_hydrated()
                    folder.record(run.without_replicas())
                    hydration.forget(self._qmp, folder.qmp, run.children)
        except (QmpUnavailable, QmpRefused) as error:
            raise HypervisorError(
                f"Machine '{machine_id}' does not say how it is hydrated: {error}"
            ) from error
        return found

    def is_hydrated(self, machine_id: str) -> bool:
        """Return whether it was found `done`: the machine starts without replicas."""
        return self._folder(machine_id).is_hydrated()

    def resume(self, machine_id: str) -> None:
        """Let a machine go on that was paused when no replica could serve it."""
        with self._alone(machine_id) as folder:
            self._running(folder)
            self._command(folder, ("cont", {}))

    def forward(self, machine_id: str, ports: Sequence[Port]) -> tuple[Forward, ...]:
        """Let these ports, and no others, lead into a running machine; return those that do."""
        with self._alone(machine_id) as folder:
            run = self._running(folder)
            forwards = port_forwarding.change(
                lambda line: self._command(folder, ("human-monitor-command", {"command-line": line}))[0],
                run.forwards,
                ports,
            )
            if forwards != run.forwards:
                folder.record(msgspec.structs.replace(run, forwards=forwards))
            return forwards

    def forwards(self, machine_id: str) -> tuple[Forward, ...]:
        """Return the ports that lead into the machine now; none when it does not run."""
        folder = self._folder(machine_id)
        run = folder.run()
        return run.forwards if run and self._process(folder) else ()

    def adopt(self) -> dict[str, State]:
        """Take back the machines of an earlier server; return every machine with its state.

        A process whose machine was deleted meanwhile is ended.
        """
        prefix = marker(self._machines, "")
        for found_marker, found in process.find(prefix, self._settings.user):
            folder = self._folder(found_marker.removeprefix(prefix))
            if folder.exists():
                self._recognize(folder, found)
            else:
                process.kill(found, found_marker)
        names = sorted(path.parent.name for path in self._machines.glob("*/machine.json"))
        return {name: self.state(name) for name in names}

    def close(self) -> None:
        """Stop every machine and end: no process is left behind, unless the settings keep them running."""
        self._closed = True
        if self._settings.keep_running:
            self._qmp.close()
            return
        running = [path.parent.name for path in self._machines.glob("*/run.json")]
        if running:
            with ThreadPoolExecutor(min(16, len(running))) as pool:
                list(pool.map(self.power_off, running))
        self._qmp.close()

    def _launch(self, folder: MachineFolder, parts: Parts, live: dict[int, ReplicaUrl]) -> None:
        folder.shorten_logs()
        files = arguments.Descriptors()
        with closing(files), folder.qemu_log.open("ab") as log_file:
            child = process.spawn(
                self._arguments(folder, parts, live, files),
                fds=files.fds,
                user=self._settings.user,
                log=log_file,
            )
        self._children[child.pid] = child
        try:
            self._qmp.execute(folder.qmp, [("query-status", {})], START_DEADLINE_S)
            # Not before it has answered: while `nice` turns into QEMU its arguments can't be read.
            found = process.identify(child.pid, folder.marker)
            if found is None:
                raise QmpUnavailable("QEMU ended as soon as it had started")
            self._recognize(folder, found)
        except (QmpUnavailable, QmpRefused) as error:
            child.kill()
            child.wait()
            folder.end_run()
            raise StartFailed(folder.machine_id, folder.last_words()) from error

    def _arguments(
        self, folder: MachineFolder, parts: Parts, live: dict[int, ReplicaUrl], files: arguments.Descriptors
    ) -> list[str]:
        with self._accelerator_lock:
            accelerator = choose_accelerator(
                self._accelerator_cache, self._settings.accelerator, self._settings.user
            )
        vcpus = min(parts.vcpus, self._settings.bearable_vcpus)
        memory_mib = min(parts.memory_mib, self._settings.bearable_memory_mib)
        described = [
            *arguments.firmware_arguments(folder.variables, parts.generation, files),
            *arguments.processor_arguments(accelerator, vcpus, memory_mib),
            *arguments.disk_arguments(folder.overlay, live, files),
            *arguments.network_arguments(parts.network),
            *arguments.device_arguments(folder.seed, folder.console, files.listener(folder.qmp), files),
            *arguments.data_disk_arguments({lun: folder.data_disk(lun) for lun in parts.luns}, files),
            *arguments.agent_arguments(files.listener(folder.agent)),
            *(metadata_link.link_arguments(files.listener(folder.metadata)) if parts.has_metadata else ()),
        ]
        name = ("qemu-system-x86_64", "-name", folder.marker)
        return [*name, *arguments.CONFINED, *files.arguments(), *described]

    def _end(self, folder: MachineFolder, found: process.Process, grace_s: float) -> None:
        """End a process: ask the guest, then QEMU, then the kernel."""
        for command, patience_s in (("system_powerdown", grace_s), ("quit", QUIT_DEADLINE_S)):
            if patience_s > 0:
                with suppress(QmpUnavailable, QmpRefused):
                    self._ask(folder, (command, {}))
                if process.wait(found, folder.marker, patience_s):
                    break
        else:
            process.kill(found, folder.marker)
            process.wait(found, folder.marker, QUIT_DEADLINE_S)
        self._reap()

    @contextmanager
    def _alone(self, machine_id: str) -> Iterator[MachineFolder]:
        """One call at a time for one machine."""
        folder = self._folder(machine_id)
        with self._locks_lock:
            lock = self._locks.setdefault(machine_id, threading.RLock())
        with lock:
            yield folder

    def _folder(self, machine_id: str) -> MachineFolder:
        return MachineFolder(self._machines, machine_id)

    def _running(self, folder: MachineFolder) -> Run:
        folder.parts()
        run = folder.run()
        if run is None or not self._process(folder):
            raise HypervisorError(f"Machine '{folder.machine_id}' does not run. Start it first.")
        return run

    def _process(self, folder: MachineFolder) -> process.Process | None:
        """Return the process that run.json tells of, if it is alive."""
        self._reap()
        run = folder.run()
        if run is None or process.identify(run.pid, folder.marker) != run.process:
            return None
        return run.process

    def _search(self, folder: MachineFolder) -> process.Process | None:
        """Look for a process that run.json does not tell of: its server died as it started it."""
        for found_marker, found in process.find(folder.marker, self._settings.user):
            if found_marker == folder.marker:
                self._recognize(folder, found)
                return found
        return None

    def _recognize(self, folder: MachineFolder, found: process.Process) -> None:
        folder.record((folder.run() or Run()).in_process(found))

    def _ask(self, folder: MachineFolder, *commands: Command) -> list[Any]:
        return self._qmp.execute(folder.qmp, commands)

    def _command(self, folder: MachineFolder, *commands: Command) -> list[Any]:
        try:
            return self._ask(folder, *commands)
        except (QmpUnavailable, QmpRefused) as error:
            raise HypervisorError(
                f"Machine '{folder.machine_id}' did not obey '{commands[0][0]}': {error}"
            ) from error

    def _reap(self) -> None:
        """Let the kernel forget the children that have ended."""
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                self._children.pop(pid, None)
