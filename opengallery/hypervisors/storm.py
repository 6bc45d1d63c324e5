"""Forecast of a boot storm: many machines make the reads of a trace at once, from replicas of a known rate.

Discrete events, one for each read. A read reaches its replica after the machine's think time, is served after
the service time that was measured at the recording, and then waits for the replica's link, which sends one
read after the other. Machines spread evenly over the replicas and replicas share nothing, so the fullest
replica alone tells when the last machine is READY.
"""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from math import ceil

from opengallery.hypervisors.arguments import REPLICA_TIMEOUT_S
from opengallery.hypervisors.trace import AT_START, Trace

CONTENT_OF_WIRE = 1448 / 1514
"""Of a full Ethernet frame with TCP timestamps, the part that is content."""
SATURATION = 1.5
"""A link is never idle for long when it needs so much more time than one machine's boot takes by itself."""


@dataclass(frozen=True)
class Forecast:
    """What becomes of the machines on one replica."""

    machines: int
    ready_s: float  # from the start of all to the last READY
    longest_read_s: float

    def meets(self, target_s: float) -> bool:
        """Whether all are READY in time, and no read is so late that QEMU gives its replica up."""
        return self.ready_s <= target_s and self.longest_read_s <= REPLICA_TIMEOUT_S


def forecast(trace: Trace, machines: int, bytes_per_s: float) -> Forecast:
    """Boot so many machines at once from one replica that sends `bytes_per_s` of content.

    A link that many machines keep busy is as busy with more: each adds just its bytes, and one read to wait for.
    """
    alone_s = sum(read.think_us + read.service_us for read in trace.reads) / 1e6
    simulated = min(machines, ceil(SATURATION * alone_s * bytes_per_s / trace.total_bytes) + 1)
    found = simulate(trace, simulated, bytes_per_s)
    more_s = (machines - simulated) * trace.total_bytes / bytes_per_s
    # At the start all ask for the same read at once.
    all_at_once_s = machines * trace.reads[0].length / bytes_per_s
    longest_s = max(found.longest_read_s * machines / simulated, all_at_once_s)
    return Forecast(machines, found.ready_s + more_s, longest_s if more_s else found.longest_read_s)


def simulate(trace: Trace, machines: int, bytes_per_s: float) -> Forecast:
    """Boot so many machines at once from one replica, read by read."""
    followers = trace.followers()
    served_s = [(read.think_us + read.service_us) / 1e6 for read in trace.reads]
    service_s = [read.service_us / 1e6 for read in trace.reads]
    sending_s = [read.length / bytes_per_s for read in trace.reads]
    # (when it waits for the link, machine, read)
    waiting = [
        (served_s[number], machine, number) for machine in range(machines) for number in followers[AT_START]
    ]
    heapify(waiting)
    free_s = longest_s = 0.0
    while waiting:
        at_s, machine, number = waiting[0]
        free_s = max(free_s, at_s) + sending_s[number]
        longest_s = max(longest_s, free_s - at_s + service_s[number])
        next_reads = [(free_s + served_s[read], machine, read) for read in followers.get(number, ())]
        if not next_reads:
            heappop(waiting)
            continue
        heapreplace(waiting, next_reads[0])
        for read in next_reads[1:]:
            heappush(waiting, read)
    return Forecast(machines, free_s + trace.ready_think_us / 1e6, longest_s)


def fewest_replicas(
    trace: Trace, machines: int, bytes_per_s: float, target_s: float, most: int
) -> int | None:
    """The fewest replicas, `most` at most, with which all machines are READY in time; None if too many."""
    low, high = 1, most + 1
    while low < high:
        replicas = (low + high) // 2
        if forecast(trace, -(-machines // replicas), bytes_per_s).meets(target_s):
            high = replicas
        else:
            low = replicas + 1
    return low if low <= most else None
