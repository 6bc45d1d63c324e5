"""The guest agent's protocol, with a real agent: the boot image's own, run on this host and in a machine."""

import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from opengallery.hypervisors import Qemu, guest_agent
from opengallery.hypervisors.machine import Executed, GaveUp, GuestCommand, HypervisorError, NoAgent

from .qemu_lab import BootImage, Replicas, eventually, spec, wait_until_ready


def shell(script: str, *arguments: str, **options: float) -> GuestCommand:
    return GuestCommand("/bin/sh", ("-c", script, "sh", *arguments), {"PATH": "/usr/bin:/bin"}, **options)  # type: ignore[arg-type]


def execute(channel: Path, command: GuestCommand, ending: threading.Event | None = None) -> Executed:
    return guest_agent.execute(channel, command, ending or threading.Event())


def relay(listener: socket.socket, lasting: socket.socket) -> None:
    """Let clients talk over one connection that lasts, one after the other, as QEMU does."""
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with closing(client), suppress(ConnectionError):
                while True:
                    ready, _, _ = select.select([client, lasting], [], [])
                    if client in ready:
                        said = client.recv(65536)
                        if not said:
                            break
                        lasting.sendall(said)
                    if lasting in ready:
                        answer = lasting.recv(65536)
                        if not answer:
                            return
                        client.sendall(answer)


@pytest.fixture(scope="module")
def agent(boot_image: BootImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running agent; the socket where it answers."""
    folder = tmp_path_factory.mktemp("agent")
    subprocess.run(
        ["mcopy", "-s", "-i", f"{boot_image.path}@@1M", "::/agent", str(folder)],
        check=True,
        env={**os.environ, "MTOOLS_SKIP_CHECK": "1"},
    )
    own, channel = folder / "own", folder / "channel"
    program = folder / "agent/qemu-ga"
    program.chmod(0o755)
    process = subprocess.Popen(
        [program, "-m", "unix-listen", "-p", own, "-t", folder],
        env={"LD_LIBRARY_PATH": str(program.parent), "PATH": os.defpath},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    eventually(lambda: own.exists() or None)
    with (
        closing(socket.socket(socket.AF_UNIX)) as lasting,
        closing(socket.socket(socket.AF_UNIX)) as listener,
    ):
        # The agent itself fails when somebody connects before it has seen that the last one has gone.
        lasting.connect(str(own))
        listener.bind(str(channel))
        listener.listen()
        thread = threading.Thread(target=relay, args=(listener, lasting))
        thread.start()
        yield channel
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def answering(tmp_path: Path, answer: Callable[[socket.socket], None]) -> Iterator[Path]:
    """Something on a channel that does `answer` with who connects."""
    channel = tmp_path / "channel"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(channel))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield channel
        thread.join()


def test_a_command_is_run_with_its_input_arguments_and_environment(agent: Path) -> None:
    command = GuestCommand(
        "/bin/sh",
        ("-c", 'cat; echo "$1 $NAME"; echo "$2" >&2; exit 3', "sh", "a b", "ü"),
        {"PATH": "/bin", "NAME": "value"},
        b"\x00in\xff\n",
    )
    assert execute(agent, command) == Executed(3, b"\x00in\xff\na b value\n", "ü\n".encode())


def test_a_killed_command_has_no_status(agent: Path) -> None:
    assert execute(agent, shell("kill -9 $$")) == Executed(None, b"", b"")


def test_a_program_that_is_not_there_is_refused_in_the_agents_words(agent: Path) -> None:
    with pytest.raises(HypervisorError, match=r"refused 'guest-exec'.*No such file"):
        execute(agent, GuestCommand("/no/such/program"))


def test_what_an_earlier_conversation_left_over_is_read_away(agent: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as cut_off:
        cut_off.connect(str(agent))
        cut_off.sendall(b'{"execute":"guest-ping"}\n{"execute":"guest-info"}\n{"execute":"gu')
    assert execute(agent, shell("echo fine")).stdout == b"fine\n"


def test_a_command_is_given_up_in_time_and_when_the_server_ends(agent: Path) -> None:
    with pytest.raises(GaveUp, match="did not end within 1 s"):
        execute(agent, shell("sleep 30", timeout_s=1))
    ending = threading.Event()
    threading.Timer(0.5, ending.set).start()
    began_s = time.monotonic()
    with pytest.raises(GaveUp, match="the server is ending"):
        execute(agent, shell("sleep 30"), ending)
    assert time.monotonic() - began_s < 10


def test_no_agent_is_told_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_agent, "ANSWER_S", 1)
    monkeypatch.setattr(guest_agent, "ANSWER_MAX_BYTES", 100_000)
    with pytest.raises(NoAgent, match="no channel"):
        execute(tmp_path / "missing", shell("true"))

    def silence(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    def chatter(connection: socket.socket) -> None:
        connection.sendall(b'login: {"return": 1}\n\xff{"return": "1"}\n' * 3)
        silence(connection)

    def flood(connection: socket.socket) -> None:
        with pytest.raises(OSError):
            while True:
                connection.sendall(b"x" * 65536)

    def hang_up(connection: socket.socket) -> None:
        connection.recv(4096)

    def wrong_answers(connection: socket.socket) -> None:
        number = re.search(rb'"id":(\d+)', connection.recv(4096))
        assert number
        connection.sendall(b'{"return":"old"}\n\xff{"return":' + number[1] + b"}\n")
        connection.recv(4096)
        connection.sendall(b'{"return":{"pid":"none"}}\n')
        silence(connection)

    for number, (answer, why) in enumerate(
        {
            silence: "no agent answered within 1 s",
            chatter: "no agent answered within 1 s",
            flood: "longer than any",
            hang_up: "the channel was closed|the channel broke",
            wrong_answers: "is no guest agent",
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with answering(folder, answer) as channel, pytest.raises(NoAgent, match=why):
            execute(channel, shell("true"))


@pytest.mark.slow
def test_a_machines_guest_runs_commands_again_and_again(qemu: Qemu, replicas: Replicas) -> None:
    qemu.create(spec("agent"))
    qemu.start("agent", [replicas.serve("replica=agent")])
    ready = wait_until_ready(qemu, "agent")

    def run(command: GuestCommand) -> Executed:
        return qemu.execute("agent", command, threading.Event())

    assert run(GuestCommand("/bin/hostname")) == Executed(0, f"{ready.hostname}\n".encode(), b"")
    for number in range(3):
        written = run(shell(f"echo {number} >> /tmp/numbers; cat /tmp/numbers; id -u >&2"))
        assert written.stdout == "".join(f"{earlier}\n" for earlier in range(number + 1)).encode()
        assert written.stderr == b"0\n"
    qemu.power_off("agent")
    with pytest.raises(HypervisorError, match="does not run"):
        run(shell("true"))
    qemu.delete("agent")
