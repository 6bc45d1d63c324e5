"""Links of a bounded rate: network namespaces of this host, each reached over a veth pair with `tc tbf`.

What listens in a link's namespace sends at the link's rate and no faster. Needs root.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
BURST_BYTES = 256 << 10
# What waits for the link; more than all connections may have on their way, so that nothing is lost.
QUEUE_BYTES = 64 << 20


@dataclass(frozen=True)
class Link:
    """One link: the namespace behind it and the address there."""

    namespace: str
    address: str

    def listen(self, backlog: int) -> socket.socket:
        """A listening socket on a free port of the namespace; whoever inherits it serves there."""
        with ThreadPoolExecutor(1) as thread:  # a thread can be in another namespace than its process
            return thread.submit(self._listen, backlog).result()

    def _listen(self, backlog: int) -> socket.socket:
        with Path(f"/run/netns/{self.namespace}").open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"can't enter the namespace {self.namespace}")
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.address, 0))
        listener.listen(backlog)
        listener.setblocking(False)
        return listener


@contextmanager
def links(count: int, bytes_per_s: int) -> Iterator[list[Link]]:
    """Make `count` links of `bytes_per_s` each, in the range for benchmarks (198.18.0.0/15)."""
    if os.geteuid() != 0:
        raise SystemExit("Links are made in network namespaces, which needs root.")
    with ExitStack() as made:
        yield [made.enter_context(_link(number, bytes_per_s)) for number in range(count)]


@contextmanager
def _link(number: int, bytes_per_s: int) -> Iterator[Link]:
    name = f"og{os.getpid()}n{number}"[-13:]
    near, far = f"{name}a", f"{name}b"
    here, there = f"198.18.{number}.1", f"198.18.{number}.2"
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        _run("ip", "address", "add", f"{here}/30", "dev", near)
        _run("ip", "link", "set", near, "up")
        _run("ip", "-n", name, "address", "add", f"{there}/30", "dev", far)
        _run("ip", "-n", name, "link", "set", far, "up")
        _run(
            "tc", "-n", name, "qdisc", "add", "dev", far, "root", "tbf",
            "rate", f"{bytes_per_s * 8}bit", "burst", str(BURST_BYTES), "limit", str(QUEUE_BYTES),
        )  # fmt: skip
        yield Link(name, there)
    finally:
        with suppress(subprocess.CalledProcessError):
            _run("ip", "link", "delete", near)
        _run("ip", "netns", "delete", name)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)
