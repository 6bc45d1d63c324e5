"""Confined: becomes a tool that reads one untrusted file, and can do next to nothing else.

Run as a script of its own, `python -I -S confined.py LIMITS TOOL ARGUMENT...` (limits as JSON): it takes
every right away that the kernel lets it, then replaces itself with the tool. That finds a listening
socket and the file as its descriptors 3 and 4, and can open nothing by path but the system's libraries.
Where a kernel lacks one of the fences (Landlock, namespaces), the others stand.
"""

import ctypes
import fcntl
import json
import os
import resource
import signal
import stat
import struct
import sys
from contextlib import suppress

LISTENER, FILE = 3, 4
NOBODY = 65534
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
# Rights on files by Landlock's version: all of them are taken away, these are given back.
ALL_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
NEWEST_RIGHTS = (1 << 16) - 1
EXECUTE, READ_FILE, READ_FOLDER = 1, 4, 8
NETWORK_SINCE, SCOPES_SINCE = 4, 6
SYSTEM_FOLDERS = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf.d")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Confine this process, then become the tool. The first descriptors are laid out by the parent."""
    limits, tool = json.loads(sys.argv[1]), sys.argv[2:]
    _lay_out(limits["listener"], limits["file"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"]))
    signal.alarm(limits["wall_s"])
    os.umask(0o077)
    _leave_network()
    _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _fence(tool[0])
    if os.geteuid() == 0:
        _leave_root()
    # Socket activation: the tool finds its listening socket at `LISTENER`.
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    os.execve(tool[0], tool, environment)  # noqa: S606  # without a shell is what is wanted


def _lay_out(listener: int, file: int) -> None:
    """Put the two descriptors where the tool looks for them."""
    high = [fcntl.fcntl(given, fcntl.F_DUPFD, 16) for given in (listener, file)]
    for given, wanted in zip(high, (LISTENER, FILE), strict=True):
        os.dup2(given, wanted)
    os.closerange(FILE + 1, max(*high, listener, file) + 1)


def _leave_network() -> None:
    """Go where there is no network; without root that needs a user namespace."""
    if _libc.unshare(CLONE_NEWNET | CLONE_NEWIPC) != 0:
        _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)


def _leave_root() -> None:
    """Become nobody; where nobody may not read the file, become its owner without root's powers."""
    for capability in range(64):
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    status = os.fstat(FILE)
    user, group = (NOBODY, NOBODY) if status.st_mode & 0o004 else (status.st_uid, status.st_gid)
    with suppress(PermissionError):
        os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _fence(tool: str) -> None:
    """Landlock: nothing can be opened but this file and the system's libraries."""
    version = _libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return
    rights = ALL_RIGHTS.get(version, NEWEST_RIGHTS)
    attributes = struct.pack(
        "<QQQ", rights, 3 if version >= NETWORK_SINCE else 0, 3 if version >= SCOPES_SINCE else 0
    )
    length = 24 if version >= SCOPES_SINCE else 16 if version >= NETWORK_SINCE else 8
    ruleset = _libc.syscall(LANDLOCK_CREATE_RULESET, attributes[:length], length, 0)
    if ruleset < 0:
        return
    _allow(ruleset, FILE, READ_FILE)
    for path in (*SYSTEM_FOLDERS, os.path.realpath(tool)):
        with suppress(OSError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            is_folder = stat.S_ISDIR(os.fstat(opened).st_mode)
            _allow(ruleset, opened, READ_FILE | EXECUTE | (READ_FOLDER if is_folder else 0))
            os.close(opened)
    _libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: int, rights: int) -> None:
    rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, path))
    _libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0)


if __name__ == "__main__":
    main()
