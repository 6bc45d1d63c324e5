"""Real machines for tests: a boot image, replicas that serve it, and QEMU."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from opengallery.hypervisors import Qemu
from opengallery.settings import Settings

from .qemu_lab import REPOSITORY, BootImage, Replicas, Servers, Ssh, free_port


@pytest.fixture(scope="session")
def boot_image() -> BootImage:
    path = REPOSITORY / ".cache/boot.raw"
    subprocess.run([str(REPOSITORY / "scripts/build-boot-image.sh"), str(path)], check=True)
    return BootImage(path, path.with_name("boot.raw.payload").read_text()[:16])


@pytest.fixture(scope="module")
def replicas(boot_image: BootImage) -> Iterator[Replicas]:
    serving = Replicas(boot_image.path, boot_image.payload)
    yield serving
    serving.close()


@pytest.fixture(scope="module")
def qemu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Qemu]:
    hypervisor = Qemu(Settings(data=tmp_path_factory.mktemp("data")))
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    started = Servers(Settings(data=tmp_path))
    yield started
    started.close()


@pytest.fixture
def ssh(tmp_path: Path) -> Ssh:
    """Runs a command as root in a guest that knows `key` and whose port 22 is forwarded from that in `port`."""
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
