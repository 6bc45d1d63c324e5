"""A replayed machine: the reads of a recorded boot, made again over the machine's replicas.

It reads as QEMU's quorum does: every read tries the replicas in their order, and when none serves it the
machine pauses until it is told to go on. Every read is checked; a machine that got a wrong byte ends.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from blake3 import blake3

from opengallery.hypervisors.arguments import REPLICA_TIMEOUT_S
from opengallery.hypervisors.machine import State
from opengallery.hypervisors.reading import RangedRead, Target
from opengallery.hypervisors.trace import AT_START, Trace


class Boot:
    """A trace, and what its reads must return of one image: shared by all machines of this image."""

    def __init__(self, trace: Trace, checksums: tuple[bytes, ...]) -> None:
        """`checksums` has the BLAKE3 of every read."""
        self.trace, self.checksums = trace, checksums
        self.followers = trace.followers()
        self.payload = blake3(b"".join(checksums)).hexdigest(16)[:16]


class ReplayedMachine:
    """One boot. All calls come from the event loop's thread."""

    def __init__(
        self,
        boot: Boot,
        targets: dict[int, Target],
        console: Path,
        hostname: str,
        boots: int,
        changed: Callable[[State], None],
    ) -> None:
        """`targets` by the index that the replica is dropped by, in the order of reading."""
        self._loop = asyncio.get_running_loop()
        self._boot, self._targets = boot, targets
        self._console, self._hostname, self._boots = console, hostname, boots
        self._changed = changed
        self._under_way: dict[int, tuple[int, RangedRead]] = {}
        self._waiting: list[int] = []
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._left = len(boot.trace.reads)
        self._failovers = 0
        self._began_s = time.monotonic()
        self.state: State = "running"
        self._follow(AT_START)

    def stop(self) -> None:
        """Switch it off."""
        self._silence()
        self.state = "stopped"

    def drop(self, index: int) -> None:
        """Read no more from a replica; what is under way there is read from the next."""
        self._targets.pop(index, None)
        for number, (used, read) in list(self._under_way.items()):
            if used == index:
                read.cancel()
                self._read(number)

    def add(self, index: int, target: Target) -> None:
        """Read from a replica more, after the others."""
        self._targets[index] = target

    def targets(self) -> int:
        """How many replicas it reads from."""
        return len(self._targets)

    def resume(self) -> None:
        """Go on with the reads that no replica could serve."""
        if self.state != "paused":
            return
        self._become("running")
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            self._read(number)

    def _follow(self, number: int) -> None:
        """Let the reads come that waited for this one, each after its think time."""
        for follower in self._boot.followers.get(number, ()):
            think_s = self._boot.trace.reads[follower].think_us / 1e6
            self._timers[follower] = self._loop.call_later(think_s, self._read, follower)

    def _read(self, number: int, failed: tuple[int, ...] = ()) -> None:
        self._timers.pop(number, None)
        untried = (index for index in self._targets if index not in failed)
        index = next(untried, None) if self.state == "running" else None
        if index is None:
            self._under_way.pop(number, None)
            self._waiting.append(number)
            if self.state == "running":
                self._become("paused")
            return
        wanted = self._boot.trace.reads[number]
        read = RangedRead(
            self._loop,
            self._targets[index],
            wanted.offset,
            wanted.length,
            REPLICA_TIMEOUT_S,
            partial(self._read_ended, number, index, failed),
        )
        self._under_way[number] = index, read

    def _read_ended(
        self, number: int, index: int, failed: tuple[int, ...], problem: str | None, checksum: bytes
    ) -> None:
        if problem is not None:
            if not failed:
                self._failovers += 1
            if self._failovers == 1 or len(failed) + 1 == len(self._targets):
                self._say(f"read {number} failed: {problem}")
            self._read(number, (*failed, index))
            return
        del self._under_way[number]
        if checksum != self._boot.checksums[number]:
            wanted = self._boot.trace.reads[number]
            url = self._targets[index].url
            self._say(f"WRONG BYTES in {wanted.length} from byte {wanted.offset} of {url}. The machine ends.")
            self._silence()
            self._become("stopped")
            return
        self._left -= 1
        self._follow(number)
        if not self._left:
            think_s = self._boot.trace.ready_think_us / 1e6
            self._timers[AT_START] = self._loop.call_later(think_s, self._ready)

    def _ready(self) -> None:
        self._timers.clear()
        trace, took_s = self._boot.trace, time.monotonic() - self._began_s
        self._say(
            f"READY {self._hostname} {self._boot.payload} version={trace.name} boots={self._boots} "
            f"seconds={took_s:.3f} reads={len(trace.reads)} bytes={trace.total_bytes} failovers={self._failovers}"
        )

    def _silence(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for _, read in self._under_way.values():
            read.cancel()
        self._under_way.clear()

    def _become(self, state: State) -> None:
        self.state = state
        self._changed(state)

    def _say(self, line: str) -> None:
        with self._console.open("a") as console:
            console.write(line + "\n")
