"""Port forwarding: ports of this host that lead into a machine, opened and closed while QEMU runs.

QEMU itself listens, so they outlive the server. It is asked by its monitor, which answers in words;
what it says that it listens on is the truth, whatever was recorded before a crash.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from opengallery.hypervisors.arguments import NETWORK
from opengallery.hypervisors.machine import Forward, Port

STEP = 10000
"""Port 22 that can't be had becomes 10022, then 20022, and so on."""

_LISTENING = re.compile(
    r"TCP\[HOST_FORWARD\]\s+\d+\s+(?P<host>[\d.]+)\s+(?P<taken>\d+)\s+[\d.]+\s+(?P<guest>\d+)"
)

Tell = Callable[[str], str]
"""Says a line to the machine's monitor and returns its answer."""


def change(tell: Tell, before: Sequence[Forward], wanted: Sequence[Port]) -> tuple[Forward, ...]:
    """Make `wanted` what leads into the machine, and return it; what is open already stays as it is.

    A port that can't be had, nor any in its place, is left out.
    """
    listening = {
        (found["host"], int(found["taken"]), int(found["guest"]))
        for found in _LISTENING.finditer(tell("info usernet"))
    }
    known = {forward.port: forward.taken for forward in before}
    kept = {
        port: taken
        for port in wanted
        for taken in (port.host_port, known.get(port, 0))
        if (port.host, taken, port.guest_port) in listening
    }
    needed = {(port.host, taken, port.guest_port) for port, taken in kept.items()}
    for host, taken, _ in sorted(listening - needed):
        tell(f"hostfwd_remove {NETWORK} tcp:{host}:{taken}")
    missing = [port for port in wanted if port not in kept]
    # A substitute takes nobody's own port: all get theirs first.
    for port in missing:
        if _open(tell, port, port.host_port):
            kept[port] = port.host_port
    for port in missing:
        if port not in kept:
            substitute = next((other for other in _others(port) if _open(tell, port, other)), None)
            if substitute is not None:
                kept[port] = substitute
    return tuple(Forward(port, kept[port]) for port in wanted if port in kept)


def _open(tell: Tell, port: Port, host_port: int) -> bool:
    """Open it; QEMU says nothing when it could."""
    answer = tell(f"hostfwd_add {NETWORK} tcp:{port.host}:{host_port}-:{port.guest_port}")
    return not answer.strip()


def _others(port: Port) -> Iterator[int]:
    first = port.host_port % STEP + STEP
    return (number for number in range(first, 2**16, STEP) if number != port.host_port)
