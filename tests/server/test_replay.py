"""A server whose machines replay a recorded boot, by `machines.hypervisor`."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from opengallery.hypervisors.trace import choose

from .publishing import COMPUTE, GROUP, definition, machine_body, upload, version_body
from .serving import Gallery, until

MACHINES = 6


@pytest.fixture
def replaying() -> Iterator[Gallery]:
    """A server that replays."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    gallery = Gallery(folder / "data", '[machines]\nhypervisor = "replay"\n')
    gallery.serve()
    yield gallery
    gallery.end()
    shutil.rmtree(folder)


@pytest.mark.slow
def test_virtual_machines_replay_and_spread_over_the_replicas(replaying: Gallery, boot_image: Path) -> None:
    version = f"{definition(replaying)}/versions/1.0.0"
    replaying.put(version, version_body(replaying, upload(replaying, boot_image, "boot"), westcentralus=3))
    paths = [f"{GROUP}/{COMPUTE}/virtualMachines/m{number}" for number in range(MACHINES)]
    for path in paths:
        replaying.put(path, machine_body(replaying, version, path.rsplit("/", 1)[-1]))
    for path in paths:
        line = re.compile(rf"READY {path.rsplit('/', 1)[-1]} [0-9a-f]{{16}} version=mini boots=1 ")
        until(lambda path=path, line=line: line.search(replaying.console(path)))
        assert replaying.power(path) == "running"
    replicas = replaying.get(f"{version}/replicas")["value"]
    boot_bytes = choose(boot_image.stat().st_size).total_bytes
    each = MACHINES // 3
    assert [(replica["vms"], replica["bytesServed"]) for replica in replicas] == [
        (each, each * boot_bytes)
    ] * 3

    assert replaying.terminate() == 0
    replaying.serve()
    assert replaying.power(paths[0]) == "stopped"
    replaying.act("POST", f"{paths[0]}/start")
    until(lambda: "boots=2" in replaying.console(paths[0]))
