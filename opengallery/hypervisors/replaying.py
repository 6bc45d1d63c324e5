"""The process that replays machines: `python -m opengallery.hypervisors.replaying`, started by `replay`.

Orders come as JSON lines on standard input, one of `Load`, `Start`, `Stop`, `Drop`, `Add` and `Resume`; what
is answered, and what becomes of the machines, goes as lines to standard output. It ends with its input.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from opengallery.hypervisors.machine import ReplicaUrl, State
from opengallery.hypervisors.process import NICENESS
from opengallery.hypervisors.reading import RangedRead, Target
from opengallery.hypervisors.replayed import Boot, ReplayedMachine
from opengallery.hypervisors.trace import Trace

PROBE_TIMEOUT_S = 3
LINE_MAX_BYTES = 64 << 20


class Where(msgspec.Struct, frozen=True, array_like=True):
    """A replica, as `machine.ReplicaUrl` has it."""

    url: str
    cookie: str


class Load(msgspec.Struct, tag=True):
    """A boot that machines will replay, by the name `boot`."""

    boot: str
    trace: Trace
    checksums: tuple[bytes, ...]


class Start(msgspec.Struct, tag=True):
    """Replay `boot` over those of `replicas` that answer. Answered by `Answer`."""

    call: int
    machine: str
    boot: str
    replicas: list[Where]
    console: str
    hostname: str
    boots: int


class Stop(msgspec.Struct, tag=True):
    """Switch a machine off. Answered by `Answer`."""

    call: int
    machine: str


class Drop(msgspec.Struct, tag=True):
    """Read no more from a replica. Answered by `Answer`."""

    call: int
    machine: str
    index: int


class Add(msgspec.Struct, tag=True):
    """Read from a replica more, under `index`. Answered by `Answer`."""

    call: int
    machine: str
    index: int
    replica: Where


class Resume(msgspec.Struct, tag=True):
    """Let a paused machine go on. Answered by `Answer`."""

    call: int
    machine: str


Order = Load | Start | Stop | Drop | Add | Resume


class Answer(msgspec.Struct, tag=True):
    """What became of a call: the problem of each replica that was tried, None where it answers."""

    call: int
    problems: list[str | None] = []


class Changed(msgspec.Struct, tag=True):
    """A machine's new state."""

    machine: str
    state: State


class Replaying:
    """The machines of this process."""

    def __init__(self, output: BinaryIO) -> None:
        """`output` takes answers and changes."""
        self._output = output
        self._boots: dict[str, Boot] = {}
        self._machines: dict[str, ReplayedMachine] = {}
        self._starting: set[asyncio.Task[None]] = set()

    def obey(self, order: Order) -> None:
        """Do what was ordered; what must wait for replicas goes on by itself."""
        match order:
            case Load(boot, trace, checksums):
                self._boots[boot] = Boot(trace, checksums)
            case Start() | Add():
                work = self._start(order) if isinstance(order, Start) else self._add(order)
                task = asyncio.get_running_loop().create_task(work)
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
            case Stop(call, machine):
                if found := self._machines.pop(machine, None):
                    found.stop()
                self._tell(Answer(call))
            case Drop(call, machine, index):
                if found := self._machines.get(machine):
                    found.drop(index)
                self._tell(Answer(call))
            case Resume(call, machine):
                if found := self._machines.get(machine):
                    found.resume()
                self._tell(Answer(call))

    async def _start(self, order: Start) -> None:
        problems = await asyncio.gather(*map(probe, order.replicas))
        live = {
            index: Target.of(replica_url(order.replicas[index]))
            for index, problem in enumerate(problems)
            if problem is None
        }
        if live:
            if before := self._machines.pop(order.machine, None):
                before.stop()
            self._machines[order.machine] = ReplayedMachine(
                self._boots[order.boot],
                live,
                Path(order.console),
                order.hostname,
                order.boots,
                lambda state: self._tell(Changed(order.machine, state)),
            )
        self._tell(Answer(order.call, problems))

    async def _add(self, order: Add) -> None:
        problem = await probe(order.replica)
        machine = self._machines.get(order.machine)
        if problem is None and machine is not None:
            machine.add(order.index, Target.of(replica_url(order.replica)))
        self._tell(Answer(order.call, [problem]))

    def _tell(self, message: Answer | Changed) -> None:
        self._output.write(msgspec.json.encode(message) + b"\n")
        self._output.flush()


def replica_url(where: Where) -> ReplicaUrl:
    """The replica as the hypervisors know it."""
    return ReplicaUrl(where.url, where.cookie)


async def probe(replica: Where) -> str | None:
    """Ask a replica for its header; None when it serves, else why not."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[str | None] = loop.create_future()
    try:
        target = Target.of(replica_url(replica))
    except ValueError as error:
        return str(error)
    RangedRead(loop, target, 0, 0, PROBE_TIMEOUT_S, lambda problem, _: answered.set_result(problem))
    return await answered


async def main() -> None:
    """Obey until standard input ends."""
    # Standard output is for answers only: what anything else prints there goes to standard error.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.nice(NICENESS)
    replaying = Replaying(output)
    reader = asyncio.StreamReader(LINE_MAX_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    decoder = msgspec.json.Decoder(Order)
    while line := await reader.readline():
        replaying.obey(decoder.decode(line))


if __name__ == "__main__":
    asyncio.run(main())
