"""Machines in QEMU: they boot over replicas that fail, keep their disk, and stay in their place."""

import dataclasses
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from opengallery.hypervisors import (
    HypervisorError,
    MachineNotFound,
    NoLiveReplica,
    Port,
    Qemu,
    ReplicaUrl,
    StartFailed,
    process,
)
from opengallery.hypervisors.folder import MachineFolder
from opengallery.hypervisors.machine import GuestNetwork

from .qemu_lab import (
    REPOSITORY,
    BootImage,
    Replicas,
    Servers,
    eventually,
    free_port,
    qemu_processes,
    spec,
    wait_until_ready,
)

NET_BIND_SERVICE = 1 << 10


@dataclass
class Guest:
    """A machine that is up, with SSH."""

    qemu: Qemu
    folder: Path
    cookie: str
    replica: ReplicaUrl
    ssh_port: Port
    key: Path

    def ssh(self, command: str, user: str = "azureuser") -> subprocess.CompletedProcess[str]:
        options = (
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "BatchMode=yes",
            "LogLevel=ERROR",
        )
        words = [word for option in options for word in ("-o", option)]
        return subprocess.run(
            [
                "ssh",
                *words,
                "-i",
                str(self.key),
                "-p",
                str(self.ssh_port.host_port),
                f"{user}@127.0.0.1",
                command,
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture(scope="module")
def guest(qemu: Qemu, replicas: Replicas, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    key = tmp_path_factory.mktemp("keys") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    ssh_port = Port("127.0.0.1", free_port(), 22)
    qemu.create(spec("guest", key=key.with_suffix(".pub").read_text().strip()))
    cookie = "replica=guest.1.7c2d9aa1"
    replica = replicas.serve(cookie)
    qemu.start("guest", [replica])
    qemu.forward("guest", [ssh_port])
    wait_until_ready(qemu, "guest")
    yield Guest(qemu, qemu.console("guest").parent, cookie, replica, ssh_port, key)
    qemu.delete("guest")


def test_a_key_opens_the_guest_through_a_forwarded_port(guest: Guest) -> None:
    answer = guest.ssh("id -un; hostname")
    assert answer.stdout.split() == ["azureuser", "host-guest"], answer.stderr


def test_a_guest_reaches_no_server_of_the_host(guest: Guest) -> None:
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        # The same request from this host is answered, so the guest's silence says something.
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=5):
            pass
        answer = guest.ssh(f"wget -q -O - http://10.0.2.2:{server.server_port}/; echo status $?")
        assert answer.stdout == "status 1\n", answer
        assert "can't connect" in answer.stderr
    finally:
        server.shutdown()
        server.server_close()


def test_a_cookie_stands_in_no_argument_list_and_no_file(guest: Guest) -> None:
    signature = guest.cookie.rpartition(".")[2]
    (arguments,) = qemu_processes(guest.folder.parent).values()
    assert "cookie-secret" in arguments
    assert signature not in arguments
    for path in guest.folder.iterdir():
        if path.is_file():
            assert signature.encode() not in path.read_bytes(), path.name


def test_a_machine_has_no_privilege_but_low_ports_and_a_low_priority(guest: Guest) -> None:
    (pid,) = qemu_processes(guest.folder.parent)
    fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if os.geteuid() == 0:
        assert set(fields["Uid"].split()) == {str(pwd.getpwnam("nobody").pw_uid)}
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == NET_BIND_SERVICE
        assert not fields["Groups"].strip()
    assert fields["Seccomp"].strip() == "2"
    assert os.getpriority(os.PRIO_PROCESS, pid) == 10
    assert stat.S_IMODE(guest.folder.stat().st_mode) == 0o700


def test_starting_a_machine_that_runs_starts_no_second_one(guest: Guest) -> None:
    before = set(qemu_processes(guest.folder.parent))
    guest.qemu.start("guest", [])
    guest.qemu.start("guest", [guest.replica])
    assert set(qemu_processes(guest.folder.parent)) == before
    assert guest.qemu.state("guest") == "running"


def test_a_replica_that_comes_back_is_added_and_the_first_one_dropped(
    guest: Guest, replicas: Replicas
) -> None:
    with pytest.raises(NoLiveReplica):
        guest.qemu.drop_replica("guest", 0)
    with pytest.raises(NoLiveReplica):
        guest.qemu.add_replica("guest", replicas.dead())
    added = guest.qemu.add_replica("guest", replicas.serve("replica=guest.2.f00d"))
    guest.qemu.drop_replica("guest", 0)
    replicas.kill(guest.replica)
    # With the guest's cache dropped, the payload comes from the only replica left.
    answer = guest.ssh("sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /disk/payload.bin", user="root")
    assert answer.stdout.startswith(replicas.payload), answer
    with pytest.raises(NoLiveReplica):
        guest.qemu.drop_replica("guest", added)


def test_a_guest_shuts_down_by_itself_within_its_grace(guest: Guest, replicas: Replicas) -> None:
    guest.ssh("echo kept > /disk/unsynced", user="root")
    guest.qemu.power_off("guest", grace_s=60)
    assert guest.qemu.state("guest") == "stopped"
    guest.replica = replicas.serve(guest.cookie)
    assert guest.qemu.forwards("guest") == ()
    guest.qemu.start("guest", [guest.replica])
    guest.qemu.forward("guest", [guest.ssh_port])
    wait_until_ready(guest.qemu, "guest", boots=2)
    assert guest.ssh("cat /disk/unsynced", user="root").stdout == "kept\n"


def test_a_machine_boots_though_one_replica_is_dead_and_the_next_dies(
    qemu: Qemu, replicas: Replicas, boot_image: BootImage
) -> None:
    qemu.create(spec("failover"))
    dying = replicas.serve("replica=failover.1.a", "die", "20")
    qemu.start("failover", [replicas.dead(), dying, replicas.serve("replica=failover.1.b")])
    ready = wait_until_ready(qemu, "failover")
    assert (ready.hostname, ready.payload) == ("host-failover", boot_image.payload)
    assert replicas.is_dead(dying)
    qemu.delete("failover")
    assert qemu.state("failover") == "absent"


def test_a_machine_waits_for_a_replica_when_all_are_gone_and_reads_a_silent_one_no_more(
    qemu: Qemu, replicas: Replicas, boot_image: BootImage
) -> None:
    qemu.create(spec("silent"))
    silent = replicas.serve("replica=silent.1.a", "hang", "20")
    dying = replicas.serve("replica=silent.1.b", "die", "10")
    qemu.start("silent", [silent, dying])
    eventually(lambda: replicas.is_stopped(silent) or None)
    qemu.drop_replica("silent", 0)
    eventually(lambda: qemu.state("silent") == "paused" or None)
    replicas.serve("replica=silent.1.b", port=int(dying.url.split(":")[2].split("/")[0]))
    qemu.resume("silent")
    assert wait_until_ready(qemu, "silent").payload == boot_image.payload
    qemu.delete("silent")


@pytest.mark.slow
def test_a_uefi_machine_boots(qemu: Qemu, replicas: Replicas, boot_image: BootImage) -> None:
    qemu.create(spec("uefi", generation="V2"))
    qemu.start("uefi", [replicas.serve("replica=uefi.1.a")])
    ready = wait_until_ready(qemu, "uefi")
    assert (ready.hostname, ready.payload) == ("host-uefi", boot_image.payload)
    qemu.delete("uefi")


@pytest.mark.slow
def test_a_machine_outlives_its_server_and_keeps_its_disk(servers: Servers, replicas: Replicas) -> None:
    killed, folder = servers.next(), servers.settings.data
    killed.create(spec("kept"))
    killed.start("kept", [replicas.serve("replica=kept.1.a")])
    wait_until_ready(killed, "kept", boots=1)
    (pid,) = qemu_processes(folder)

    # The server may die before it has written down which process it started.
    (killed.console("kept").parent / "run.json").unlink()
    server = servers.next()
    assert server.adopt() == {"kept": "running"}
    server.start("kept", [])
    assert set(qemu_processes(folder)) == {pid}

    server.power_off("kept")
    assert server.state("kept") == "stopped"
    assert not qemu_processes(folder)
    server.create(spec("kept"))
    server.start("kept", [replicas.serve("replica=kept.2.b")])
    assert wait_until_ready(server, "kept", boots=2).hostname == "host-kept"
    server.close()
    assert not qemu_processes(folder)


def test_a_boot_goes_on_when_the_server_is_killed_in_the_middle(
    servers: Servers, replicas: Replicas, boot_image: BootImage
) -> None:
    replica = replicas.serve("replica=orphan.1.a")
    servers.next().create(spec("orphan"))
    start = f"""
from pathlib import Path
from opengallery.hypervisors import Qemu, ReplicaUrl
from opengallery.settings import Settings
qemu = Qemu(Settings(data=Path({str(servers.settings.data)!r})))
qemu.start("orphan", [ReplicaUrl({replica.url!r}, {replica.cookie!r})])
print("started", flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as killed:
        assert killed.stdout
        assert killed.stdout.readline() == b"started\n"
        killed.kill()
    (pid,) = qemu_processes(servers.settings.data)
    server = servers.next()
    assert server.adopt() == {"orphan": "running"}
    assert wait_until_ready(server, "orphan").payload == boot_image.payload
    assert set(qemu_processes(servers.settings.data)) == {pid}


def test_a_process_whose_machine_is_deleted_meanwhile_ends(servers: Servers, replicas: Replicas) -> None:
    killed = servers.next()
    killed.create(spec("deleted"))
    killed.start("deleted", [replicas.serve("replica=deleted.1.a")])
    (killed.console("deleted").parent / "machine.json").unlink()
    assert servers.next().adopt() == {}
    eventually(lambda: not qemu_processes(servers.settings.data) or None)


def test_a_machine_does_not_start_without_a_replica_that_answers(qemu: Qemu, replicas: Replicas) -> None:
    qemu.create(spec("alone"))
    with pytest.raises(NoLiveReplica, match="does not answer"):
        qemu.start("alone", [replicas.dead()])
    wrong = ReplicaUrl(replicas.serve("replica=alone.1.a").url, "replica=alone.1.forged")
    with pytest.raises(NoLiveReplica, match="answers 403"):
        qemu.start("alone", [wrong])
    assert qemu.state("alone") == "stopped"


def test_a_start_that_qemu_refuses_says_why_and_can_be_made_again(qemu: Qemu, replicas: Replicas) -> None:
    replica = replicas.serve("replica=refused.1.a")
    qemu.create(dataclasses.replace(spec("refused"), network=GuestNetwork("10.0.0.0/24", "10.9.9.9", "")))
    with pytest.raises(StartFailed, match="DHCP"):
        qemu.start("refused", [replica])
    assert qemu.state("refused") == "stopped"
    qemu.create(spec("refused"))
    qemu.start("refused", [replica])
    assert qemu.state("refused") == "running"
    qemu.delete("refused")


def test_a_machine_is_known_though_its_process_could_not_be_read_at_first(
    qemu: Qemu, replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a process turns from `nice` into QEMU the kernel shows none of its arguments."""
    identify = process.identify

    def late(pid: int, marker: str) -> process.Process | None:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes() if Path(f"/proc/{pid}").exists() else b""
        return None if arguments.startswith(b"nice\0") else identify(pid, marker)

    monkeypatch.setattr(process, "identify", late)
    qemu.create(spec("late"))
    for attempt in range(5):
        qemu.start("late", [replicas.serve(f"replica=late.{attempt}.a")])
        assert qemu.state("late") == "running"
        qemu.power_off("late")
    qemu.delete("late")


def test_a_machine_half_made_or_half_deleted_is_made_or_deleted_by_the_same_call(qemu: Qemu) -> None:
    qemu.create(spec("half"))
    folder = qemu.console("half").parent
    overlay = (folder / "os.qcow2").read_bytes()
    (folder / "machine.json").unlink()
    (folder / "seed.iso").unlink()
    assert qemu.state("half") == "absent"
    with pytest.raises(MachineNotFound):
        qemu.start("half", [])
    qemu.create(spec("half"))
    assert qemu.state("half") == "stopped"
    assert (folder / "os.qcow2").read_bytes() == overlay
    (folder / "machine.json").unlink()
    for _ in range(2):
        qemu.delete("half")
    assert not folder.exists()


@pytest.mark.parametrize("machine_id", ["", "..", "../x", "a/b", "a,b", "-x", "a\n"])
def test_an_id_that_could_leave_the_folder_is_refused(qemu: Qemu, machine_id: str) -> None:
    with pytest.raises(HypervisorError):
        qemu.create(spec(machine_id))


def test_a_process_of_another_user_is_not_taken_for_a_machine(servers: Servers) -> None:
    servers.settings.machines.user = "daemon"
    qemu = servers.next()
    qemu.create(spec("faked"))
    forger = subprocess.Popen(
        ["python3", "-c", "import time; time.sleep(60)", f"guest={qemu.console('faked').parent}"],
        user="nobody" if os.geteuid() == 0 else None,
    )
    try:
        # Without root, all processes are ours, and forging is pointless.
        assert qemu.adopt() == {"faked": "stopped" if os.geteuid() == 0 else "running"}
    finally:
        forger.kill()
        forger.wait()


def test_a_console_keeps_its_end_when_it_grows_long(tmp_path: Path) -> None:
    folder = MachineFolder(tmp_path, "talkative")
    folder.path.mkdir()
    folder.console.write_bytes(b"old" * 1024**2 + b"newest")
    folder.shorten_logs()
    content = folder.console.read_bytes()
    assert len(content) == 1024**2
    assert content.endswith(b"newest")
