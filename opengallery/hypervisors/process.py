"""QEMU processes: starting one without privileges, and finding it again after the server died.

A process is known by the machine's folder, which stands in its argument list; its id and start time
are kept in the folder so that it need not be searched for.
"""

import os
import pwd
import resource
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from opengallery.hypervisors.machine import HypervisorError

NICENESS = 10


@dataclass(frozen=True)
class Process:
    """A process, told from a later one of the same id by its start."""

    pid: int
    start_ticks: int  # clock ticks after the host's boot


def spawn(
    arguments: Sequence[str], *, fds: Sequence[int], user: str, log: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start `arguments` as `user` (as oneself, unless one is root), with `fds` and nothing else.

    The process gets a low CPU priority, a clean environment, no core dumps and a session of its
    own, and outlives this server. What it says goes to `log`. Of root's privileges it keeps that of
    listening on ports below 1024, where its guest's ports are forwarded from.
    """
    account = _account(user)
    process = subprocess.Popen(
        ["nice", "-n", str(NICENESS), *(_as_user(account) if account else ()), *arguments],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        umask=0o077,
        start_new_session=True,
    )
    with suppress(ProcessLookupError, PermissionError):
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (0, 0))
    return process


def _as_user(account: pwd.struct_passwd) -> list[str]:
    """Become another user by `setpriv`: a privilege that is kept has to be set after that, before `exec`."""
    kept = "-all,+net_bind_service"
    return [
        "setpriv",
        *(f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"),
    ]


def _account(user: str) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise HypervisorError(
            f"There is no user '{user}' to run machines as. Name one in machines.user of the settings."
        ) from None


def identify(pid: int, marker: str) -> Process | None:
    """Return process `pid` if it is alive and `marker` is one of its arguments."""
    folder = Path("/proc") / str(pid)
    try:
        arguments = (folder / "cmdline").read_bytes().split(b"\0")
        # The process's name stands in parentheses and may itself hold any character.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
    except (OSError, UnicodeDecodeError):
        return None
    if marker.encode() not in arguments or fields[0] in "ZX":
        return None
    return Process(pid, int(fields[19]))


def find(marker_prefix: str, user: str) -> Iterator[tuple[str, Process]]:
    """Yield every live process with an argument that begins with `marker_prefix`, and this argument.

    Only those that `spawn` could have started as `user`: anybody can choose his arguments.
    """
    prefix = marker_prefix.encode()
    account = _account(user)
    uid = account.pw_uid if account else os.geteuid()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if folder.stat().st_uid != uid:
                continue
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        for argument in arguments:
            if argument.startswith(prefix):
                marker = argument.decode(errors="replace")
                if process := identify(int(folder.name), marker):
                    yield marker, process
                break


def wait(process: Process, marker: str, timeout_s: float) -> bool:
    """Wait until the process has ended; return whether it has."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while identify(process.pid, marker) == process:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                return False
            poll.poll(left_ms)
        return True
    finally:
        os.close(pidfd)


def kill(process: Process, marker: str) -> None:
    """End the process at once, unless it is another one by now."""
    with suppress(ProcessLookupError):
        pidfd = os.pidfd_open(process.pid)
        try:
            if identify(process.pid, marker) == process:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)
