"""Machines that become independent of their version while it is deleted, and the server is ended and killed."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .publishing import COMPUTE, GROUP, definition, upload, version_body
from .serving import Gallery, until
from .storm import Storm

CONFIG = "[machines]\nhydration_mib_per_s = 1\n"


@pytest.fixture
def gallery() -> Iterator[Gallery]:
    """A server that hydrates slowly."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    running = Gallery(folder / "data", CONFIG)
    running.serve()
    yield running
    running.end()
    shutil.rmtree(folder)


def manifests(gallery: Gallery) -> list[Path]:
    """The images that are kept anywhere."""
    return list(gallery.data.glob("stores/*/*/tenants/*/manifests/*/*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hydrated_machine_needs_neither_version_nor_replicas(
    gallery: Gallery, boot_image: Path, payload: str
) -> None:
    parent = definition(gallery)
    image = upload(gallery, boot_image, "boot")
    version = f"{parent}/versions/1.0.0"
    gallery.put(version, version_body(gallery, image, westcentralus=2))
    storm = Storm(gallery, version)
    storm.start(1)
    (machine,) = storm.machines

    def hydration() -> Any:
        return storm.view(machine)["hydration"]

    def until_hydrated(part: float) -> None:
        until(lambda: hydration()["hydratedBytes"] >= part * boot_image.stat().st_size, 300)

    until_hydrated(0.1)
    assert hydration()["status"] == "Hydrating"
    assert hydration()["totalBytes"] == boot_image.stat().st_size

    # What it reads is pinned, though nobody owns it any more.
    began_s = time.monotonic()
    for path in (version, image, f"{GROUP}/{COMPUTE}/disks/boot"):
        gallery.act("DELETE", path)
    assert time.monotonic() - began_s < 15
    assert hydration()["status"] == "Hydrating"
    assert len(manifests(gallery)) == 2

    gallery.act("POST", f"{machine.path}/powerOff")
    gallery.act("POST", f"{machine.path}/start")
    until_hydrated(0.3)
    gallery.kill()
    gallery.serve()
    until_hydrated(0.5)
    gallery.terminate()
    gallery.serve()
    gallery.act("POST", f"{machine.path}/start")
    assert manifests(gallery)

    # The last pin goes, and with it what was pinned.
    until(lambda: hydration()["status"] == "Hydrated", 300)
    until(lambda: not manifests(gallery))
    assert storm.view(machine)["imageReplica"] is None
    shutil.rmtree(gallery.data / "stores")
    gallery.terminate()
    gallery.serve()
    gallery.act("POST", f"{machine.path}/start")
    boots = (machine.folder / "console.log").read_bytes().count(b"READY")
    until(lambda: (machine.folder / "console.log").read_bytes().count(b"READY") > boots, 300)
    last = (machine.folder / "console.log").read_text(errors="replace").rsplit("READY", 1)[1]
    assert last.split()[1] == payload
    storm.end()
