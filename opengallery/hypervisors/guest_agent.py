"""Commands in a guest, through the QEMU guest agent that its image may hold.

The agent answers on a channel of its own (a virtio serial port), one line of JSON to each request. Everything
that comes from there is a guest's word: it is bounded in size and time, and believed in nothing.
Source: QEMU Guest Agent Protocol Reference, `guest-sync-delimited`, `guest-exec`, `guest-exec-status`.
"""

import base64
import binascii
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from opengallery.hypervisors.machine import Executed, GaveUp, GuestCommand, HypervisorError, NoAgent
from opengallery.hypervisors.qmp import connect

Answered = TypeVar("Answered")

CHANNEL = "org.qemu.guest_agent.0"
"""The name by which the agent finds its port."""

# An agent that is up answers in milliseconds; a busy guest under TCG may take some seconds.
ANSWER_S = 10
POLL_S = 0.2
MAX_POLL_S = 2
# Standard output and error, 4 bytes for 3; callers keep theirs far shorter, in the guest.
ANSWER_MAX_BYTES = 4 * 1024**2
DELIMITER = b"\xff"


class _Status(msgspec.Struct, rename="kebab"):
    """The answer to `guest-exec-status`."""

    exited: bool
    exitcode: int | None = None
    out_data: str = ""
    err_data: str = ""


class _Started(msgspec.Struct):
    """The answer to `guest-exec`."""

    pid: int


def execute(socket_path: Path, command: GuestCommand, ending: threading.Event) -> Executed:
    """Run `command` in the guest whose channel is at `socket_path`, until it ends.

    Raises `NoAgent`, and `GaveUp` when it takes too long or when `ending` is set.
    """
    with _Conversation(socket_path) as conversation:
        return conversation.execute(command, ending)


class _Conversation:
    """A conversation with one guest's agent, which has one at a time."""

    def __init__(self, socket_path: Path) -> None:
        """Connect to the hypervisor's side of the channel. Raises `NoAgent`."""
        self._unread = b""
        try:
            self._connection = connect(socket_path)
        except OSError as error:
            raise NoAgent(f"the machine has no channel to an agent ({error.strerror})") from error

    def __enter__(self) -> "_Conversation":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def execute(self, command: GuestCommand, ending: threading.Event) -> Executed:
        """Run `command` until it ends. Raises `NoAgent`, and `GaveUp` in time or when `ending` is set."""
        self._synchronize()
        started = self._ask(
            "guest-exec",
            _Started,
            {
                "path": command.path,
                "arg": list(command.arguments),
                "env": [f"{name}={value}" for name, value in command.environment.items()],
                "input-data": base64.b64encode(command.stdin).decode(),
                "capture-output": True,
            },
        )
        deadline_s, pause_s = time.monotonic() + command.timeout_s, POLL_S
        while not (status := self._ask("guest-exec-status", _Status, {"pid": started.pid})).exited:
            if time.monotonic() > deadline_s:
                raise GaveUp(f"the command did not end within {command.timeout_s:.0f} s")
            if ending.wait(pause_s):
                raise GaveUp("the server is ending")
            pause_s = min(MAX_POLL_S, pause_s * 1.5)
        return Executed(status.exitcode, _decoded(status.out_data), _decoded(status.err_data))

    def _synchronize(self) -> None:
        """Read away what an earlier conversation left over: answers to requests that it did not wait for."""
        number = secrets.randbits(31)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        deadline_s = time.monotonic() + ANSWER_S
        # The delimiter makes the agent forget a request that was cut off.
        self._send(DELIMITER + msgspec.json.encode(request) + b"\n", deadline_s)
        while True:
            line = self._line(deadline_s).rpartition(DELIMITER)[2]
            try:
                if msgspec.json.decode(line).get("return") == number:
                    return
            except (msgspec.MsgspecError, AttributeError, UnicodeDecodeError):
                continue

    def _ask(self, name: str, answer: type[Answered], arguments: Mapping[str, Any]) -> Answered:
        deadline_s = time.monotonic() + ANSWER_S
        self._send(msgspec.json.encode({"execute": name, "arguments": arguments}) + b"\n", deadline_s)
        line = self._line(deadline_s)
        try:
            said = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            if "error" in said:
                refusal = msgspec.json.decode(said["error"], type=dict[str, Any])
                raise HypervisorError(f"the agent refused '{name}': {str(refusal.get('desc'))[:200]}")
            return msgspec.json.decode(said["return"], type=answer)
        except (msgspec.MsgspecError, KeyError, UnicodeDecodeError) as error:
            raise NoAgent(f"what answers to '{name}' is no guest agent") from error

    def _send(self, content: bytes, deadline_s: float) -> None:
        try:
            self._connection.settimeout(max(0.01, deadline_s - time.monotonic()))
            self._connection.sendall(content)
        except OSError as error:
            raise NoAgent(f"no agent takes requests ({error})") from error

    def _line(self, deadline_s: float) -> bytes:
        while b"\n" not in self._unread:
            if len(self._unread) > ANSWER_MAX_BYTES:
                raise NoAgent("the agent's answer is longer than any that was asked for")
            try:
                self._connection.settimeout(max(0.01, deadline_s - time.monotonic()))
                received = self._connection.recv(65536)
            except TimeoutError as error:
                raise NoAgent(f"no agent answered within {ANSWER_S} s") from error
            except OSError as error:
                raise NoAgent(f"the channel broke ({error})") from error
            if not received:
                raise NoAgent("the channel was closed")
            if time.monotonic() > deadline_s:
                raise NoAgent(f"no agent answered within {ANSWER_S} s")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise NoAgent("the agent's answer is not what its protocol says") from error
