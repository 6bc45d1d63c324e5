"""Hydration of a running QEMU: `block-stream` copies into the overlay what it does not hold yet.

The job ends by itself and leaves the overlay without the quorum; how far it came is kept in the overlay,
so a job that failed or ended with its process is just started again.
Source: QEMU's QMP reference, `block-stream`, `query-block-jobs`.
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from opengallery.hypervisors import arguments
from opengallery.hypervisors.machine import Hydration
from opengallery.hypervisors.qmp import Qmp, QmpRefused, QmpUnavailable

JOB = "hydrate"


def run(qmp: Qmp, socket_path: Path, bytes_per_s: int) -> None:
    """Start the job, or change its speed. Raises `QmpUnavailable`, `QmpRefused`."""
    (jobs,) = qmp.execute(socket_path, [("query-block-jobs", {})])
    if any(job["device"] == JOB for job in jobs):
        with suppress(QmpRefused):  # it has ended meanwhile
            qmp.execute(socket_path, [("block-job-set-speed", {"device": JOB, "speed": bytes_per_s})])
        return
    stream = {"job-id": JOB, "device": arguments.DISK, "speed": bytes_per_s}
    qmp.execute(socket_path, [("block-stream", stream)])


def progress(qmp: Qmp, socket_path: Path) -> Hydration:
    """Return how far the job is; it is done when the disk has let go of its quorum.

    Raises `QmpUnavailable`, `QmpRefused`.
    """
    jobs, nodes, devices = qmp.execute(
        socket_path,
        [
            ("query-block-jobs", {}),
            ("query-named-block-nodes", {"flat": True}),
            ("query-blockstats", {}),
        ],
    )
    read_bytes = sum(
        device["stats"]["rd_bytes"] for device in devices if device.get("node-name") == arguments.DISK
    )
    for job in jobs:
        if job["device"] == JOB:
            return Hydration("running", job["offset"], read_bytes)
    is_done = all(node["node-name"] != arguments.QUORUM for node in nodes)
    return Hydration("done" if is_done else "waiting", 0, read_bytes)


def flush(qmp: Qmp, socket_path: Path) -> None:
    """Bring the disk's content and tables to stable storage. Raises `QmpUnavailable`, `QmpRefused`."""
    command = {"command-line": f"qemu-io {arguments.DISK} flush"}
    (said,) = qmp.execute(socket_path, [("human-monitor-command", command)])
    if said.strip():
        raise QmpRefused(said.strip())


def forget(qmp: Qmp, socket_path: Path, replicas: Iterable[int]) -> None:
    """Close the replicas that the disk does not read any more."""
    for index in replicas:
        with suppress(QmpUnavailable, QmpRefused):
            qmp.execute(
                socket_path,
                [
                    ("blockdev-del", {"node-name": f"replica-{index}"}),
                    ("object-del", {"id": arguments.replica_secret(index)}),
                ],
            )
