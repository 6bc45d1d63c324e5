"""Machines that replay a recorded boot in place of QEMU: a thousand of them on one small host.

A replayed machine makes the reads of a real boot over HTTP against its replicas, with the pauses that the
real machine made, and checks every byte: what each read must return is read once from the image's store,
past the replica server, where every block is checked against the image's id. It has no disk and no guest,
so it stands still once it is READY. All machines live in one process (`replaying`) and end with it; a later
server starts them anew.

DIR/machines/<machine id>/ holds replay.json, and console.log with what the machine said.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from urllib.parse import urlsplit

import msgspec
import structlog

from opengallery.hypervisors.folder import MACHINE_ID
from opengallery.hypervisors.machine import (
    Executed,
    Forward,
    GuestCommand,
    Hydration,
    HypervisorError,
    MachineNotFound,
    MachineSpec,
    NoAgent,
    NoLiveReplica,
    Port,
    ReplicaUrl,
    StartFailed,
    State,
)
from opengallery.hypervisors.replaying import (
    Add,
    Answer,
    Changed,
    Drop,
    Load,
    Order,
    Resume,
    Start,
    Stop,
    Where,
)
from opengallery.hypervisors.trace import TraceError, choose
from opengallery.imagestore import BlockSource, ImageStoreError
from opengallery.settings import Settings

ANSWER_DEADLINE_S = 60
END_DEADLINE_S = 5

OpenImage = Callable[[str, str, str], BlockSource]
"""Opens an image past the replica servers: (store, tenant id, image id) -> its bytes, checked."""

log = structlog.get_logger()


class Card(msgspec.Struct):
    """replay.json: what is kept of a machine."""

    hostname: str
    boots: int = 0


class Running(msgspec.Struct):
    """A machine that was started: the URLs that it reads by their index, in order."""

    state: State
    urls: dict[int, str]
    next_index: int


class Replay:
    """The hypervisor. One object a data folder."""

    def __init__(self, settings: Settings, open_image: OpenImage) -> None:
        """Start no process yet. `open_image` gives what reads must return."""
        self._trace_path = settings.machines.replay_trace
        self._machines = (settings.data / "machines").resolve()
        self._machines.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._open_image = open_image
        self._running: dict[str, Running] = {}
        self._boots: set[str] = set()
        self._calls: dict[int, Future[Answer]] = {}
        self._next_call = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._talking = threading.Lock()
        self._loading = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The process that replays, when it was needed already."""
        return self._process.pid if self._process else None

    def create(self, spec: MachineSpec) -> None:
        """Make the machine's folder; of data disks nothing is read. Creating it again keeps what it counts."""
        with self._alone(spec.machine_id) as folder:
            folder.mkdir(mode=0o700, exist_ok=True)
            boots = self._card(spec.machine_id).boots if (folder / "replay.json").exists() else 0
            _write(folder / "replay.json", Card(spec.seed.hostname, boots))

    def start(self, machine_id: str, replicas: Sequence[ReplicaUrl]) -> None:
        """Replay the boot over those of `replicas` that answer, read in this order.

        Does nothing when it runs. Raises `MachineNotFound`, `NoLiveReplica`, `StartFailed`.
        """
        with self._alone(machine_id) as folder:
            card = self._card(machine_id)
            if self.state(machine_id) in ("running", "paused"):
                return
            if not replicas:
                raise NoLiveReplica(machine_id)
            boot = self._load(machine_id, replicas)
            self._running[machine_id] = Running("running", {}, len(replicas))
            try:
                answer = self._call(
                    machine_id,
                    lambda call: Start(
                        call,
                        machine_id,
                        boot,
                        [Where(replica.url, replica.cookie) for replica in replicas],
                        str(folder / "console.log"),
                        card.hostname,
                        card.boots + 1,
                    ),
                )
                live = [index for index, problem in enumerate(answer.problems) if problem is None]
                if not live:
                    raise NoLiveReplica(machine_id, [problem for problem in answer.problems if problem])
            except HypervisorError:
                self._running.pop(machine_id, None)
                raise
            self._running[machine_id].urls = {index: replicas[index].url for index in live}
            card.boots += 1
            _write(folder / "replay.json", card)

    def power_off(self, machine_id: str, grace_s: float = 0) -> None:
        """Stop the machine; it has no guest that would use `grace_s`."""
        with self._alone(machine_id):
            if self._running.pop(machine_id, None):
                self._call(machine_id, lambda call: Stop(call, machine_id))

    def delete(self, machine_id: str) -> None:
        """Stop the machine and remove its folder."""
        with self._alone(machine_id) as folder:
            self.power_off(machine_id)
            (folder / "replay.json").unlink(missing_ok=True)
            rmtree(folder, ignore_errors=True)

    def state(self, machine_id: str) -> State:
        """Return what the machine does now; `paused` when no replica serves it."""
        if not (self._folder(machine_id) / "replay.json").exists():
            return "absent"
        running = self._running.get(machine_id)
        return running.state if running else "stopped"

    def console(self, machine_id: str) -> Path:
        """Return the file with what the machine said, over all its starts."""
        return self._folder(machine_id) / "console.log"

    def screenshot(self, machine_id: str) -> bytes:
        """Refuse: a replayed machine has no screen."""
        raise HypervisorError(f"Machine '{machine_id}' only replays a recorded boot, and has no screen.")

    def execute(self, machine_id: str, command: GuestCommand, ending: threading.Event) -> Executed:
        """Refuse: a replayed machine has no guest."""
        raise NoAgent(f"machine '{machine_id}' only replays a recorded boot, and has no guest")

    def metadata_stream(self, machine_id: str) -> None:
        """Return None: a replayed machine has no guest that could ask."""

    def copy_disks(self, machine_id: str, targets: Mapping[int | None, Path]) -> None:
        """Refuse: a replayed machine writes nothing, and has no disk."""
        raise HypervisorError(
            f"Machine '{machine_id}' only replays a recorded boot, and has no disk to copy. "
            'Set machines.hypervisor to "qemu".'
        )

    def replicas(self, machine_id: str) -> dict[int, str]:
        """Return the URLs that a running machine reads, by index, in the order in which it tries them."""
        running = self._running.get(machine_id)
        return dict(running.urls) if running and running.state != "stopped" else {}

    def drop_replica(self, machine_id: str, index: int) -> None:
        """Let a running machine read no more from the replica at `index` of those `start` was given.

        Raises `NoLiveReplica` when it is the last one.
        """
        with self._alone(machine_id):
            running = self._on(machine_id)
            if index not in running.urls:
                return
            if len(running.urls) == 1:
                raise NoLiveReplica(machine_id, [f"replica {index} is the last one that it reads"])
            self._call(machine_id, lambda call: Drop(call, machine_id, index))
            del running.urls[index]

    def add_replica(self, machine_id: str, replica: ReplicaUrl) -> int:
        """Let a running machine read from `replica` too, after the others. Returns its index."""
        with self._alone(machine_id):
            running = self._on(machine_id)
            index, where = running.next_index, Where(replica.url, replica.cookie)
            answer = self._call(machine_id, lambda call: Add(call, machine_id, index, where))
            if answer.problems[0]:
                raise NoLiveReplica(machine_id, [answer.problems[0]])
            running.urls[index] = replica.url
            running.next_index += 1
            return index

    def hydrate(self, machine_id: str, bytes_per_s: int) -> None:
        """Do nothing: a replayed machine has no disk to copy into."""

    def hydration(self, machine_id: str) -> Hydration:
        """Return that it never begins."""
        return Hydration("waiting")

    def is_hydrated(self, machine_id: str) -> bool:
        """Return that it never is."""
        return False

    def resume(self, machine_id: str) -> None:
        """Let a machine go on that was paused when no replica could serve it."""
        with self._alone(machine_id):
            self._on(machine_id)
            self._call(machine_id, lambda call: Resume(call, machine_id))

    def forward(self, machine_id: str, ports: Sequence[Port]) -> tuple[Forward, ...]:
        """Open none of these ports: there is no guest that could answer on them."""
        return ()

    def forwards(self, machine_id: str) -> tuple[Forward, ...]:
        """Return no port."""
        return ()

    def adopt(self) -> dict[str, State]:
        """Return every machine with its state: an earlier server's ended with it."""
        names = sorted(path.parent.name for path in self._machines.glob("*/replay.json"))
        return {name: self.state(name) for name in names}

    def close(self) -> None:
        """Stop every machine and end the process."""
        with self._talking:
            self._closed = True
            process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(END_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _load(self, machine_id: str, replicas: Sequence[ReplicaUrl]) -> str:
        """Make the boot of the machine's image known to the process; return its name."""
        problems = []
        with self._loading:
            self._ensure_process(machine_id)
            for replica in replicas:
                store, tenant_id, image_id = urlsplit(replica.url).path.split("/")[-3:]
                name = f"{tenant_id}/{image_id}"
                if name in self._boots:
                    return name
                try:
                    with self._open_image(store, tenant_id, image_id) as image:
                        trace = choose(image.size_bytes, self._trace_path)
                        checksums = trace.checksums(image.read)
                except TraceError as error:
                    raise StartFailed(machine_id, str(error)) from error
                except (ImageStoreError, OSError) as error:
                    problems.append(f"{store} can't be read: {error}")
                    continue
                self._tell(machine_id, Load(name, trace, checksums))
                self._boots.add(name)
                return name
        raise NoLiveReplica(machine_id, problems)

    def _call(self, machine_id: str, order: Callable[[int], Order]) -> Answer:
        """Send an order and wait for its answer."""
        answered: Future[Answer] = Future()
        with self._talking:
            call = self._next_call
            self._next_call += 1
            self._calls[call] = answered
        try:
            self._tell(machine_id, order(call))
            return answered.result(ANSWER_DEADLINE_S)
        except TimeoutError:
            raise HypervisorError(
                f"Machine '{machine_id}' got no answer from the replaying process."
            ) from None
        finally:
            self._calls.pop(call, None)

    def _tell(self, machine_id: str, order: Order) -> None:
        with self._talking:
            assert self._process is not None and self._process.stdin is not None
            try:
                self._process.stdin.write(msgspec.json.encode(order) + b"\n")
                self._process.stdin.flush()
            except (OSError, ValueError) as error:
                raise StartFailed(machine_id, "the replaying process ended") from error

    def _ensure_process(self, machine_id: str) -> None:
        with self._talking:
            if self._closed:
                raise StartFailed(machine_id, "the server is ending")
            if self._process is not None and self._process.poll() is None:
                return
            if self._listener is not None:
                self._listener.join()  # it has said what ended with the process before
            self._boots.clear()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "opengallery.hypervisors.replaying"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
                start_new_session=True,
            )
            self._listener = threading.Thread(
                target=self._listen, args=(self._process,), name="replaying", daemon=True
            )
            self._listener.start()

    def _listen(self, process: "subprocess.Popen[bytes]") -> None:
        """Hear what the process says, until it ends."""
        assert process.stdout is not None
        decoder = msgspec.json.Decoder(Answer | Changed)
        for line in process.stdout:
            match decoder.decode(line):
                case Answer() as answer:
                    if waiting := self._calls.get(answer.call):
                        waiting.set_result(answer)
                case Changed(machine, state):
                    if running := self._running.get(machine):
                        running.state = state
        process.stdout.close()
        process.wait()
        if not self._closed:
            log.error("the replaying process ended: its machines are stopped", status=process.returncode)
        self._running.clear()
        for waiting in list(self._calls.values()):
            if not waiting.done():
                waiting.set_exception(
                    HypervisorError("The replaying process ended. Start the machine again.")
                )

    def _on(self, machine_id: str) -> Running:
        self._card(machine_id)
        running = self._running.get(machine_id)
        if running is None or running.state == "stopped":
            raise HypervisorError(f"Machine '{machine_id}' does not run. Start it first.")
        return running

    @contextmanager
    def _alone(self, machine_id: str) -> Iterator[Path]:
        """One call at a time for one machine."""
        folder = self._folder(machine_id)
        with self._talking:
            lock = self._locks.setdefault(machine_id, threading.RLock())
        with lock:
            yield folder

    def _folder(self, machine_id: str) -> Path:
        if not MACHINE_ID.fullmatch(machine_id):
            raise HypervisorError(f"'{machine_id}' can't be a machine's id: letters, digits, '.', '_', '-'.")
        return self._machines / machine_id

    def _card(self, machine_id: str) -> Card:
        try:
            return msgspec.json.decode((self._folder(machine_id) / "replay.json").read_bytes(), type=Card)
        except FileNotFoundError:
            raise MachineNotFound(machine_id) from None


def _write(path: Path, card: Card) -> None:
    """Write a file so that it is either the old one or the whole new one."""
    unfinished = path.with_suffix(".new")
    with unfinished.open("wb") as file:
        file.write(msgspec.json.encode(card))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
