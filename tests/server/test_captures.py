"""Real machines as the source of images: what a guest wrote is in the next version, and little else is new."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .publishing import COMPUTE, GROUP, REGION, definition, id_of, machine_body, upload, version_body
from .serving import Gallery, until

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
def published(running: Gallery, boot_image: Path) -> str:
    """A version of the boot image with two replicas."""
    path = f"{definition(running)}/versions/1.0.0"
    running.put(path, version_body(running, upload(running, boot_image, "boot"), westcentralus=2))
    return path


def booted(gallery: Gallery, version: str, name: str) -> tuple[str, int]:
    """Boot a machine; its path, and how often its disk was booted."""
    path = f"{GROUP}/{COMPUTE}/virtualMachines/{name}"
    gallery.put(path, machine_body(gallery, version, name))
    line = re.compile(rf"READY {name} \S+ version=\S+ boots=(\d+) ")
    found: Any = until(lambda: line.search(gallery.console(path)), BOOT_TIMEOUT_S)
    return path, int(found[1])


def replicas(gallery: Gallery, version: str) -> list[Any]:
    """The replicas of a version."""
    return list(gallery.get(f"{version}/replicas")["value"])


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_the_golden_image_loop_closes(running: Gallery, published: str) -> None:
    path, boots = booted(running, published, "golden")
    assert boots == 1
    # A snapshot of the running machine: it goes on, and the copy boots.
    disk = running.get(path)["properties"]["storageProfile"]["osDisk"]["managedDisk"]["id"]
    snapshot = f"{GROUP}/{COMPUTE}/snapshots/live"
    running.put(
        snapshot,
        {
            "location": REGION,
            "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": disk}},
        },
    )
    assert running.power(path) == "running"
    for action in ("deallocate", "generalize"):
        running.act("POST", f"{path}/{action}")
    parent = published.rpartition("/versions/")[0]
    image = f"{GROUP}/{COMPUTE}/images/golden"
    source = {"sourceVirtualMachine": {"id": id_of(running, path)}}
    running.put(image, {"location": REGION, "properties": source})
    running.put(f"{parent}/versions/2.0.0", version_body(running, image, westcentralus=2))
    body = version_body(running, image, westcentralus=2)
    body["properties"]["storageProfile"] = {"osDiskImage": {"source": {"id": id_of(running, snapshot)}}}
    running.put(f"{parent}/versions/3.0.0", body)
    stored = [
        max(replica["storedBytes"] for replica in replicas(running, f"{parent}/versions/{number}"))
        for number in ("1.0.0", "2.0.0", "3.0.0")
    ]
    assert max(stored[1:]) < stored[0] / 100, stored
    running.act("DELETE", path)
    for number in ("2.0.0", "3.0.0"):
        again, boots = booted(running, f"{parent}/versions/{number}", f"again{number[0]}")
        assert boots == 2
        running.act("DELETE", again)
