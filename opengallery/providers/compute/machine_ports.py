"""Machine ports: the ports of this host that lead into a running machine, as its network resources say."""

import socket
import time
from collections.abc import Iterable, Set
from typing import Any

import structlog

from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import Forward, HypervisorError
from opengallery.providers.network.inbound_ports import inbound_ports

SSH = 22
_ANSWER_TIMEOUT_S = 5

log = structlog.get_logger()


def open_ports(services: Services, machine: Resource, others: Iterable[Resource]) -> None:
    """Let the ports that the machine shall have lead into it, now that it runs.

    `others` are asked for ports that they have and shall not have any more, when one is taken.
    """
    name = _name(machine)
    with services.database.read() as connection:
        ports = inbound_ports(connection, machine)
    if not ports and not services.hypervisor.forwards(name):
        return
    forwards = services.hypervisor.forward(name, ports)
    missed = {(each.port.host, each.port.host_port) for each in forwards if each.is_elsewhere}
    if missed and _take_back(services, machine, others, missed):
        services.hypervisor.forward(name, [])
        forwards = services.hypervisor.forward(name, ports)
    for forward in forwards:
        if forward.is_elsewhere:
            log.warning("another port was taken", machine=str(machine.id), reason=_displaced(forward))


def _take_back(
    services: Services, machine: Resource, others: Iterable[Resource], missed: Set[tuple[str, int]]
) -> bool:
    """Close what other machines have of the missed ports and shall not have; return whether there was any."""
    is_any_closed = False
    for other in others:
        held = {(each.port.host, each.taken) for each in services.hypervisor.forwards(_name(other))}
        if other.key != machine.key and held & missed:
            is_any_closed |= update(services, other, closes=True)
    return is_any_closed


def wait_for_ssh(services: Services, started: Iterable[Resource]) -> None:
    """Wait until the guests answer on their SSH ports, where one leads to them.

    For no longer than the settings say, all together; and not for one that stopped or paused.
    """
    deadline = time.monotonic() + services.settings.machines.ssh_wait_s
    for machine in started:
        place = _ssh_place(services, machine)
        while place is not None and not _greets(*place):
            is_up = services.hypervisor.state(_name(machine)) == "running"
            if not is_up or time.monotonic() > deadline or services.closing.wait(0.2):
                log.warning("machine does not answer on its SSH port", machine=str(machine.id))
                break


def _ssh_place(services: Services, machine: Resource) -> tuple[str, int] | None:
    for forward in services.hypervisor.forwards(_name(machine)):
        if forward.port.guest_port == SSH:
            return forward.port.host, forward.taken
    return None


def _greets(address: str, port: int) -> bool:
    """Whether an SSH server answers. QEMU takes connections before the guest does."""
    try:
        with socket.create_connection((address, port), _ANSWER_TIMEOUT_S) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def view(services: Services, machine: Resource) -> list[dict[str, Any]]:
    """The ports that lead into the machine now, as its instance view tells them."""
    return [
        {
            "address": forward.port.host,
            "port": forward.taken,
            "guestPort": forward.port.guest_port,
            "isDisplaced": forward.is_elsewhere,
        }
        for forward in services.hypervisor.forwards(_name(machine))
    ]


def statuses(services: Services, machine: Resource) -> list[dict[str, str]]:
    """A warning for each port that was taken in place of another one; az shows these."""
    return [
        {
            "code": f"PortForwarding/{forward.port.host_port}",
            "level": "Warning",
            "displayStatus": f"Port {forward.taken} in place of {forward.port.host_port}",
            "message": _displaced(forward),
        }
        for forward in services.hypervisor.forwards(_name(machine))
        if forward.is_elsewhere
    ]


def _displaced(forward: Forward) -> str:
    port = forward.port
    return (
        f"Port {port.host_port} of {port.host} is held by another program of this host, or may not be bound by "
        f"the server's user. Connect to port {forward.taken} instead."
    )


def update(services: Services, machine: Resource, *, closes: bool) -> bool:
    """Close what shall not lead into a machine any more, or open what shall. Returns whether that was needed."""
    name = _name(machine)
    before = [forward.port for forward in services.hypervisor.forwards(name)]
    if closes and not before:
        return False
    with services.database.read() as connection:
        wanted = inbound_ports(connection, machine)
    if closes:
        wanted = [port for port in before if port in wanted]
    if before == wanted:
        return False
    try:
        services.hypervisor.forward(name, wanted)
    except HypervisorError as error:
        log.info("ports stay as they are", machine=str(machine.id), reason=str(error))
        return False
    return True


def _name(machine: Resource) -> str:
    return str(machine.properties["vmId"])
