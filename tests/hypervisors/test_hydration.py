"""A real machine copies its image into its own disk, and then reads all of it without any replica."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.hypervisors import Port, Qemu, ReplicaUrl

from .qemu_lab import MIB, BootImage, Replicas, Servers, eventually, free_port, spec, wait_until_ready

Ssh = Callable[[str], str]


@pytest.fixture
def ssh(tmp_path: Path) -> Ssh:
    """Runs a command as root in the guest of `start`."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    port = free_port()
    (tmp_path / "port").write_text(str(port))
    options = "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes", "LogLevel=ERROR"
    words = [word for option in options for word in ("-o", option)]

    def run(command: str) -> str:
        return subprocess.run(
            ["ssh", *words, "-i", str(key), "-p", str(port), "root@127.0.0.1", command],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout.strip()

    return run


def create(qemu: Qemu, folder: Path) -> None:
    """Make the machine that `ssh` reaches."""
    qemu.create(spec("guest", key=(folder / "key.pub").read_text().strip()))


def start(qemu: Qemu, folder: Path, *read: ReplicaUrl) -> None:
    """Start it over these replicas."""
    qemu.start("guest", read)
    qemu.forward("guest", [Port("127.0.0.1", int((folder / "port").read_text()), 22)])


def until_done(qemu: Qemu) -> None:
    """Hydrate the machine to its end."""
    qemu.hydrate("guest", 256 * MIB)
    eventually(lambda: qemu.hydration("guest").state == "done" or None)


def hydrate_a_part(qemu: Qemu) -> None:
    """Let the machine that boots copy some more."""
    eventually(lambda: qemu.hydration("guest").guest_read_bytes > MIB or None)
    qemu.hydrate("guest", 4 * MIB)
    before = eventually(lambda: qemu.hydration("guest").done_bytes or None)
    eventually(lambda: qemu.hydration("guest").done_bytes > before + 8 * MIB or None)


def kill_machine(qemu: Qemu) -> None:
    """End the machine's process as a power cut would."""
    folder = qemu._folder("guest")
    found = qemu._process(folder)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    eventually(lambda: qemu.state("guest") == "stopped" or None)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_hydrated_machine_reads_its_whole_disk_without_replicas(
    servers: Servers, replicas: Replicas, boot_image: BootImage, ssh: Ssh, tmp_path: Path
) -> None:
    qemu = servers.next()
    create(qemu, tmp_path)
    first, second = replicas.serve("replica=guest.1.a"), replicas.serve("replica=guest.1.b")
    start(qemu, tmp_path, first, second)
    wait_until_ready(qemu, "guest")
    whole_disk = "sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /dev/vda"
    ssh("sync; mount -o remount,ro /disk")
    over_replicas = ssh(whole_disk)
    assert qemu.hydration("guest").state == "waiting"
    assert qemu.hydration("guest").guest_read_bytes > boot_image.path.stat().st_size

    qemu.hydrate("guest", 2 * MIB)
    eventually(lambda: qemu.hydration("guest").done_bytes > 8 * MIB or None)
    assert qemu.hydration("guest").state == "running"
    # A replica that goes away in the middle, and one that comes, are no matter.
    qemu.drop_replica("guest", 0)
    replicas.kill(first)
    qemu.add_replica("guest", replicas.serve("replica=guest.1.c"))
    until_done(qemu)
    replicas.close()
    assert qemu.is_hydrated("guest")
    assert qemu.replicas("guest") == {}
    assert ssh(whole_disk) == over_replicas

    # What was copied is on disk: the process may die at once.
    kill_machine(qemu)
    start(qemu, tmp_path)
    assert wait_until_ready(qemu, "guest", boots=2).payload == boot_image.payload
    # All of it but what the guest wrote is the image: the payload again, from the disk alone.
    assert ssh("echo 3 > /proc/sys/vm/drop_caches; sha256sum /disk/payload.bin").startswith(
        boot_image.payload
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_hydration_goes_on_after_a_stop_and_after_the_server_and_the_machine_are_killed(
    servers: Servers, replicas: Replicas, boot_image: BootImage, ssh: Ssh, tmp_path: Path
) -> None:
    qemu = servers.next()
    create(qemu, tmp_path)
    for end in ("power off", "kill the machine", "kill the server"):
        start(qemu, tmp_path, replicas.serve("replica=guest.1.a"))
        hydrate_a_part(qemu)
        if end == "power off":
            qemu.power_off("guest")
        elif end == "kill the machine":
            kill_machine(qemu)
        else:
            qemu = servers.next()
            assert qemu.adopt() == {"guest": "running"}
        assert not qemu.is_hydrated("guest")
    until_done(qemu)
    replicas.close()
    qemu.power_off("guest")
    start(qemu, tmp_path)
    eventually(lambda: boot_image.payload in qemu.console("guest").read_text(errors="replace") or None)
    ssh("true")
