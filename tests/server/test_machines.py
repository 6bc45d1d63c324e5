"""Real machines that boot our image from replicas: both firmwares, and what happens when things go away."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .publishing import COMPUTE, GROUP, MIB, definition, machine_body, upload, version_body
from .serving import ROOT, Gallery, until

BOOT_TIMEOUT_S = 150


@pytest.fixture(scope="module")
def running() -> Iterator[Gallery]:
    """A server for all tests of this file."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    gallery = Gallery(folder / "data")
    gallery.serve()
    yield gallery
    gallery.end()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def version(running: Gallery, boot_image: Path) -> str:
    """A version of the boot image with replicas in three regions."""
    parent = definition(running)
    image = upload(running, boot_image, "boot")
    path = f"{parent}/versions/1.0.0"
    running.put(path, version_body(running, image, westcentralus=2, westeurope=1, eastus2=2))
    return path


def machine(gallery: Gallery, image: str, name: str, location: str = "westcentralus") -> str:
    """Create a machine; its path."""
    path = f"{GROUP}/{COMPUTE}/virtualMachines/{name}"
    gallery.put(path, {**machine_body(gallery, image, name), "location": location})
    return path


def ready(gallery: Gallery, path: str, payload: str, count: int = 1) -> None:
    """Wait for the READY line with the machine's name and the right checksum."""
    line = re.compile(rf"READY {path.rsplit('/', 1)[-1]} {payload}")
    until(lambda: len(line.findall(gallery.console(path))) >= count, BOOT_TIMEOUT_S)


def served_by_store(gallery: Gallery, version: str) -> dict[str, int]:
    """How many bytes the replicas of a version have served."""
    return {
        replica["store"]: replica["bytesServed"] for replica in gallery.get(f"{version}/replicas")["value"]
    }


def served_bytes(gallery: Gallery, version: str) -> int:
    """How many bytes all replicas of a version have served."""
    return sum(served_by_store(gallery, version).values())


def booting(gallery: Gallery, version: str, name: str, location: str = "westcentralus") -> str:
    """Create a machine, and return its path when it has read a part of what it reads until it is READY."""
    before = served_bytes(gallery, version)
    path = machine(gallery, version, name, location)
    until(lambda: served_bytes(gallery, version) > before + 4 * MIB, BOOT_TIMEOUT_S)
    assert "READY" not in gallery.console(path)
    return path


@pytest.mark.slow
def test_machines_of_both_firmwares_boot(running: Gallery, version: str, payload: str) -> None:
    second = definition(running, "uefi", "V2")
    image = upload(running, ROOT / ".cache/boot.raw", "boot2", "V2")
    running.put(f"{second}/versions/1.0.0", version_body(running, image, westcentralus=1))
    bios = machine(running, version, "bios", "westeurope")
    uefi = machine(running, second, "uefi")
    for path, generation in ((bios, "V1"), (uefi, "V2")):
        ready(running, path, payload)
        assert running.get(f"{path}/instanceView")["hyperVGeneration"] == generation
    running.act("POST", f"{bios}/restart")
    ready(running, bios, payload, count=2)
    served = [replica for replica in running.get(f"{version}/replicas")["value"] if replica["vms"]]
    assert [(replica["region"], replica["vms"]) for replica in served] == [("westeurope", 1)]
    assert served[0]["bytesServed"] > 0
    for path in (bios, uefi):
        running.act("DELETE", path)


def first_store(gallery: Gallery, path: str) -> Path:
    """The folder of the store that a machine was told to read first."""
    store = gallery.get(f"{path}/instanceView")["imageReplica"]["store"]
    (folder,) = gallery.data.glob(f"stores/*/{store}")
    return folder


def forget_what_was_read(gallery: Gallery) -> None:
    """Kill the replica servers: those that take their place have nothing in memory."""
    assert gallery.process is not None
    command = ["pgrep", "-P", str(gallery.process.pid), "-f", "opengallery.replica_server"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    for pid in found:
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.slow
def test_a_machine_boots_while_its_replica_is_removed(running: Gallery, version: str, payload: str) -> None:
    path = booting(running, version, "bereft", "eastus2")  # nobody else's reads are in its server's cache
    folder = first_store(running, path)
    removed = [file for file in folder.rglob("*") if file.is_file()]
    assert removed
    before = served_by_store(running, version)
    for file in removed:
        file.unlink()
    forget_what_was_read(running)
    ready(running, path, payload)
    after = served_by_store(running, version)
    assert any(after[store] > before[store] for store in after if store != folder.name)
    assert running.power(path) == "running"
    running.act("DELETE", path)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_machine_outlives_a_killed_server_and_not_an_ended_one(
    running: Gallery, version: str, payload: str
) -> None:
    path = booting(running, version, "survivor")
    name = running.get(path)["properties"]["vmId"]
    (before,) = machines(running, name)
    running.kill()
    time.sleep(3)  # it reads meanwhile, from nobody: its disk stops
    assert machines(running, name) == [before]
    running.serve()
    assert machines(running, name) == [before]
    assert running.power(path) == "running"
    ready(running, path, payload)
    assert running.terminate() == 0
    assert running.pids() == []
    running.serve()
    assert running.power(path) == "stopped"
    running.act("POST", f"{path}/start")
    ready(running, path, payload, count=2)
    running.act("DELETE", path)
    assert machines(running, name) == []


def machines(gallery: Gallery, name: str) -> list[int]:
    """The processes of a machine."""
    return [pid for pid in gallery.pids() if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_nothing_secret_is_logged_or_told_to_a_process(running: Gallery, version: str) -> None:
    password = "Sesame-open-2718"
    path = f"{GROUP}/{COMPUTE}/virtualMachines/secretive"
    body: Any = machine_body(running, version, "secretive")
    body["properties"]["osProfile"] |= {"adminPassword": password, "linuxConfiguration": {}}
    running.put(path, body)
    secrets = [password, "replica=", running.variables["AZURE_CLIENT_SECRET"]]
    secrets += [str(running.client.headers["Authorization"]).removeprefix("Bearer ")]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running.pids()]
    lines += [Path(f"/proc/{pid}/environ").read_bytes() for pid in running.pids()]
    assert len(lines) >= 4
    logs = [running.log, *running.data.glob("machines/*/*.log")]
    for content in [*lines, *(log.read_bytes() for log in logs)]:
        for secret in secrets:
            assert secret.encode() not in content
        assert b"sig=" not in content
        assert b"$6$" not in content
    for database in (*running.data.glob("*.sqlite"), *running.data.glob("*.sqlite-wal")):
        content = database.read_bytes()
        assert password.encode() not in content, database
        assert running.variables["AZURE_CLIENT_SECRET"].encode() not in content, database
    running.act("DELETE", path)
