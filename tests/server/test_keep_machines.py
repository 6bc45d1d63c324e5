"""`gallery serve --keep-machines`: a machine boots while one server ends and the next one takes it over."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .publishing import definition, upload, version_body
from .serving import Gallery, until
from .storm import Storm

CONFIG = "[machines]\nhydration_mib_per_s = 0\n"


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    """A server that keeps its machines when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    running = Gallery(folder / "data", CONFIG)
    running.options.append("--keep-machines")
    running.serve()
    yield running
    running.end()
    shutil.rmtree(folder)


def processes(gallery: Gallery) -> dict[str, list[int]]:
    """The machines and the replica servers of the folder, by kind."""
    found: dict[str, list[int]] = {"qemu": [], "replica_server": []}
    for pid in gallery.pids():
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            for kind, pids in found.items():
                if (
                    kind in line
                    and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
                ):
                    pids.append(pid)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_boots_over_a_restart_of_the_server(
    gallery: Gallery, boot_image: Path, payload: str
) -> None:
    definition(gallery)
    version = f"{definition(gallery)}/versions/1.0.0"
    gallery.put(
        version, version_body(gallery, upload(gallery, boot_image, "boot"), westcentralus=1, westeurope=1)
    )
    storm = Storm(gallery, version)
    storm.start(1)
    (machine,) = storm.machines
    log = machine.folder / "qemu.log"
    before = processes(gallery)
    assert len(before["qemu"]) == 1
    assert len(before["replica_server"]) == 1

    assert gallery.terminate() == 0
    assert storm.look() == 0
    assert processes(gallery) == before
    # It reads on while no server runs, and never has to wait for one.
    assert not storm.are_paused()
    time.sleep(3)
    assert not storm.are_paused()
    gallery.serve()
    assert processes(gallery)["qemu"] == before["qemu"]
    until(lambda: len(processes(gallery)["replica_server"]) == 1, 60)
    assert processes(gallery)["replica_server"] != before["replica_server"]
    assert gallery.power(machine.path) == "running"
    storm.until_ready(payload)
    assert "Input/output error" not in log.read_text()
    assert storm.served_bytes() > 16 << 20

    # A server that is killed leaves them, too.
    gallery.kill()
    assert processes(gallery)["qemu"] == before["qemu"]
    assert len(processes(gallery)["replica_server"]) == 1
    gallery.serve()
    assert gallery.power(machine.path) == "running"

    # What nobody needs any more is not kept, and what was kept in vain ends with the next server's start.
    left = processes(gallery)["replica_server"]
    assert gallery.terminate() == 0
    os.kill(before["qemu"][0], signal.SIGKILL)
    gallery.options.remove("--keep-machines")
    gallery.serve()
    assert processes(gallery)["replica_server"] != left
    gallery.act("DELETE", machine.path)
    assert gallery.terminate() == 0
    assert processes(gallery) == {"qemu": [], "replica_server": []}
    storm.qmp.close()
