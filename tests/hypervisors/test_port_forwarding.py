"""Ports that lead into a machine: opened, closed and moved while a real QEMU runs."""

import os  # noqa: F401 - named in a condition
import socket
import time
from collections.abc import Iterator

import pytest

from opengallery.hypervisors import Forward, HypervisorError, Port, Qemu

from .qemu_lab import Replicas, Servers, spec

HOST = "127.77.0.9"
SSH = Port(HOST, 22, 22)
WEB = Port(HOST, 8080, 80)


@pytest.fixture
def machine(qemu: Qemu, replicas: Replicas) -> Iterator[str]:
    """A machine whose guest is not up yet: QEMU listens all the same."""
    qemu.create(spec("ports"))
    qemu.start("ports", [replicas.serve("replica=ports.1.a")])
    yield "ports"
    qemu.delete("ports")


def listens(port: int, host: str = HOST) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((host, port)) == 0


def occupied(port: int, host: str = "0.0.0.0") -> socket.socket:
    """Another program's listening socket, on all addresses as an sshd's."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((host, port))
    taken.listen()
    return taken


def free_everywhere() -> int:
    """A port that nobody has on any address."""
    with occupied(0) as probe:
        return int(probe.getsockname()[1])


def test_ports_open_and_close_while_the_machine_runs(qemu: Qemu, machine: str) -> None:
    assert qemu.forwards(machine) == ()
    assert qemu.forward(machine, [WEB]) == (Forward(WEB, 8080),) == qemu.forwards(machine)
    assert listens(8080)
    other = Port(HOST, 8081, 81)
    assert qemu.forward(machine, [WEB, other]) == (Forward(WEB, 8080), Forward(other, 8081))
    assert qemu.forward(machine, [other]) == (Forward(other, 8081),)
    assert not listens(8080)
    assert listens(8081)
    # The same port of the host may lead to another one of the guest.
    moved = Port(HOST, 8081, 82)
    assert qemu.forward(machine, [moved]) == (Forward(moved, 8081),)
    assert qemu.forward(machine, []) == ()
    assert not listens(8081)


@pytest.mark.skipif("os.geteuid() != 0", reason="only root may listen on port 22")
def test_a_machine_without_roots_rights_listens_on_port_22_of_its_address(qemu: Qemu, machine: str) -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 22)) == 0:
            pytest.skip("a program has port 22 of all addresses")
    assert qemu.forward(machine, [SSH]) == (Forward(SSH, 22),)
    assert listens(22)


def test_where_a_port_is_taken_another_one_is_and_stays(qemu: Qemu, machine: str) -> None:
    number = free_everywhere()
    port = Port(HOST, number, 22)
    with occupied(number):
        (forward,) = qemu.forward(machine, [port])
        assert forward.is_elsewhere
        assert forward.taken % 10000 == number % 10000
        assert listens(forward.taken)
        assert not Forward(port, number).is_elsewhere
    # Whoever was told of it finds it there, though the other is free by now.
    assert qemu.forward(machine, [port, WEB])[0] == forward
    assert qemu.forward(machine, []) == ()
    assert not listens(forward.taken)
    assert qemu.forward(machine, [port]) == (Forward(port, number),)


def test_a_substitute_takes_no_other_ports_place(qemu: Qemu, machine: str) -> None:
    number = free_everywhere() % 10000
    first, second = Port(HOST, number, 22), Port(HOST, number + 10000, 80)
    with occupied(number):
        forwards = qemu.forward(machine, [first, second])
    assert [forward.taken for forward in forwards] == [number + 20000, number + 10000]


def test_ports_outlive_the_server_and_the_next_one_knows_them(servers: Servers, replicas: Replicas) -> None:
    first = servers.next()
    first.create(spec("lasting"))
    first.start("lasting", [replicas.serve("replica=lasting.1.a")])
    first.forward("lasting", [WEB])
    before = first.console("lasting").parent / "run.json"
    unrecorded = before.read_bytes()
    # As a server leaves it that is killed after QEMU has opened a port and before it is written down.
    extra = Port(HOST, 8083, 83)
    first.forward("lasting", [WEB, extra])
    before.write_bytes(unrecorded)
    second = servers.next()
    second.adopt()
    assert second.forwards("lasting") == (Forward(WEB, 8080),)
    assert listens(8083)
    assert second.forward("lasting", [WEB, extra]) == (Forward(WEB, 8080), Forward(extra, 8083))
    assert second.forward("lasting", [WEB]) == (Forward(WEB, 8080),)
    assert not listens(8083)
    second.delete("lasting")
    assert second.forwards("lasting") == ()
    deadline = time.monotonic() + 5
    while listens(8080):
        assert time.monotonic() < deadline


def test_a_machine_that_does_not_run_forwards_nothing(qemu: Qemu) -> None:
    qemu.create(spec("idle"))
    with pytest.raises(HypervisorError, match="does not run"):
        qemu.forward("idle", [WEB])
    assert qemu.forwards("idle") == ()
    qemu.delete("idle")
