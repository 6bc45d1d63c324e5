"""Copying a machine's disk: its overlay, while nobody writes into it."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opengallery.hypervisors.machine import HypervisorError
from opengallery.hypervisors.qmp import Command

JOB_DEADLINE_S = 30
JOB_POLL_S = 0.05
# States in which a job writes no more.
AT_REST = frozenset({"paused", "standby", "ready", "waiting", "pending", "aborting", "concluded", "null"})

Ask = Callable[..., list[Any]]


@contextmanager
def holding_still(ask: Ask) -> Iterator[None]:
    """Let neither the guest nor QEMU's own jobs write, and what was written be in the file.

    `ask(*commands)` asks the machine's QEMU. What ran before goes on afterwards.
    """
    (status,), jobs = ask(("query-status", {})), _jobs(ask)
    paused = [job for job, state in jobs.items() if state not in AT_REST]
    try:
        for job in paused:
            _tell(ask, job, "job-pause")
        _wait_for(ask, paused)
        # Stopping waits for what is under way, and flushes.
        ask(("stop", {}))
        yield
    finally:
        if status["status"] == "running":
            ask(("cont", {}))
        for job in paused:
            _tell(ask, job, "job-resume")


def copy_overlay(overlay: Path, target: Path) -> None:
    """Copy the file, holes as holes, and bring it to the disk; `target` is for this server only."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    subprocess.run(
        ["cp", "--reflink=auto", "--sparse=auto", "--", str(overlay), str(target)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    with target.open("rb") as file:
        os.fsync(file.fileno())


def _jobs(ask: Ask) -> dict[str, str]:
    (jobs,) = ask(("query-jobs", {}))
    return {job["id"]: job["status"] for job in jobs}


def _tell(ask: Ask, job: str, command: str) -> None:
    """Tell a job, unless it has ended meanwhile."""
    order: Command = (command, {"id": job})
    try:
        ask(order)
    except HypervisorError:
        if job in _jobs(ask):
            raise


def _wait_for(ask: Ask, paused: list[str]) -> None:
    deadline = time.monotonic() + JOB_DEADLINE_S
    while any(state not in AT_REST for job, state in _jobs(ask).items() if job in paused):
        if time.monotonic() > deadline:
            raise HypervisorError(f"Its job '{paused[0]}' did not pause in {JOB_DEADLINE_S} s.")
        time.sleep(JOB_POLL_S)
