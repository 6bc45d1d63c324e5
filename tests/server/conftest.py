"""A real `gallery serve` in a process of its own, and a client that asks it by HTTPS."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .serving import ROOT, Gallery


@pytest.fixture(scope="session")
def boot_image() -> Path:
    """The small bootable image. It is built if it isn't there."""
    image = ROOT / ".cache/boot.raw"
    subprocess.run([str(ROOT / "scripts/build-boot-image.sh"), str(image)], check=True)
    return image


@pytest.fixture(scope="session")
def payload(boot_image: Path) -> str:
    """What a machine of the boot image says it has read: the start of a checksum."""
    return boot_image.with_name("boot.raw.payload").read_text()[:16]


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for a server's data, which the server makes. Machines run as another user: not pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def gallery(data: Path) -> Iterator[Gallery]:
    """A server that runs; every process that it started is gone when the test is over."""
    running = Gallery(data)
    running.serve()
    yield running
    running.end()
