"""Traces: which reads a real boot made of its image, and how long the machine computed in between.

A trace is a JSON file. Think times (the machine's) and service times (the replica server's at the
recording) are kept apart, so that a boot can be replayed over replicas of any speed. A trace holds no
content: it fits every image of the same layout. `scripts/record-boot.py` records one; docs/replay.md
describes the format.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from blake3 import blake3

FORMAT = 1
SHIPPED = Path(__file__).parent / "traces"
AT_START = -1
"""`Read.after` of what the machine reads before any read has ended."""

Contents = Callable[[int, int], bytes]
"""Gives the right bytes of an image: (offset, length) -> bytes."""


class TraceError(Exception):
    """A trace can't be used; the message says which and why."""


class Read(msgspec.Struct, frozen=True, array_like=True):
    """One read: it starts `think_us` after read number `after` has ended."""

    offset: int
    length: int
    after: int
    think_us: int
    service_us: int


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reads of one boot, in the order of their starts."""

    format: int
    name: str
    image_bytes: int
    recorded: str
    ready_means: str
    ready_think_us: int  # from the end of the last read to READY
    reads: tuple[Read, ...]

    @property
    def total_bytes(self) -> int:
        """What one boot reads."""
        return sum(read.length for read in self.reads)

    def at_pace(self, pace: float) -> "Trace":
        """The same boot by a machine that computes `pace` times as fast."""
        replace = msgspec.structs.replace
        reads = tuple(replace(read, think_us=round(read.think_us / pace)) for read in self.reads)
        return replace(self, reads=reads, ready_think_us=round(self.ready_think_us / pace))

    def followers(self) -> dict[int, list[int]]:
        """By the number of a read (`AT_START` too), the reads that start when it has ended."""
        found: dict[int, list[int]] = {}
        for number, read in enumerate(self.reads):
            found.setdefault(read.after, []).append(number)
        return found

    def checksums(self, contents: Contents) -> tuple[bytes, ...]:
        """BLAKE3 of what each read must return, for the image with these contents."""
        known: dict[tuple[int, int], bytes] = {}
        for read in self.reads:
            place = read.offset, read.length
            if place not in known:
                known[place] = blake3(contents(*place)).digest()
        return tuple(known[read.offset, read.length] for read in self.reads)


def load(path: Path) -> Trace:
    """Read a trace and check it. Raises `TraceError`."""
    try:
        trace = msgspec.json.decode(path.read_bytes(), type=Trace)
    except (OSError, msgspec.MsgspecError) as error:
        raise TraceError(f"The trace {path} can't be read: {error}") from error
    if trace.format != FORMAT:
        raise TraceError(f"The trace {path} has format {trace.format}, not {FORMAT}. Record it anew.")
    if not trace.reads:
        raise TraceError(f"The trace {path} has no reads. Record it anew.")
    for number, read in enumerate(trace.reads):
        if not AT_START <= read.after < number or read.think_us < 0 or read.length < 1:
            raise TraceError(f"Read {number} of the trace {path} is impossible. Record it anew.")
        if not 0 <= read.offset <= trace.image_bytes - read.length:
            raise TraceError(f"Read {number} of the trace {path} lies outside of its image. Record it anew.")
    return trace


def shipped() -> Iterator[Trace]:
    """The traces that come with this package."""
    for path in sorted(SHIPPED.glob("*.json")):
        yield load(path)


def choose(image_bytes: int, path: str | None = None) -> Trace:
    """The trace at `path`, or the shipped one of the largest image that is no larger than `image_bytes`.

    Raises `TraceError` when there is none that fits.
    """
    traces = list(shipped()) if path is None else [load(Path(path))]
    fitting = [trace for trace in traces if trace.image_bytes <= image_bytes]
    if not fitting:
        smallest = min(trace.image_bytes for trace in traces)
        raise TraceError(
            f"An image of {image_bytes} bytes has no recorded boot: the smallest recorded has {smallest}. "
            "Record one by scripts/record-boot.py and name it in machines.replay_trace."
        )
    return max(fitting, key=lambda trace: trace.image_bytes)


def check(path: str | None) -> None:
    """Raise `TraceError` when there is a path and no trace that can be used."""
    if path is not None:
        load(Path(path))


def save(trace: Trace, path: Path) -> None:
    """Write a trace, a read a line."""
    head = msgspec.json.encode(msgspec.structs.replace(trace, reads=()))
    lines = b",\n".join(msgspec.json.encode(read) for read in trace.reads)
    path.write_bytes(head.removesuffix(b"[]}") + b"[\n" + lines + b"\n]}\n")
