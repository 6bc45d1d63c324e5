"""A server of its own for the whole run, and a shell with what `gallery env` says and nothing else."""

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .running import BOOT_IMAGE, CommandRefused, Group, Server, Shell
from .site import Site

FIRST, LAST = "test_announcement", "test_server_ends"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The announcement comes to a new server, and the server ends after all the others."""
    items.sort(key=lambda item: (item.path.stem == LAST, item.path.stem != FIRST))


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    # Not pytest's own folder: machines run as another user, who may not enter that.
    data = Path(tempfile.mkdtemp(prefix="gallery-acceptance-"))
    data.chmod(0o711)
    running = Server(data)
    try:
        running.wait_until_ready()
        yield running
    finally:
        if request.session.testsfailed:
            print("\nThe server's last lines:\n" + running.log_tail(), file=sys.stderr)
        running.stop()
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def ended_by_a_signal() -> None:
    """SIGTERM ends the run like Ctrl-C, so that the server is not left behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture(scope="session")
def shell(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(server.environment(), tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def vhd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The boot image as a fixed VHD: the same bytes and a footer."""
    path = tmp_path_factory.mktemp("vhd") / "boot.vhd"
    options = ["-O", "vpc", "-o", "subformat=fixed,force_size=on"]
    subprocess.run(["qemu-img", "convert", *options, BOOT_IMAGE, path], check=True)
    assert path.stat().st_size == BOOT_IMAGE.stat().st_size + 512
    return path


@pytest.fixture(autouse=True)
def in_order(request: pytest.FixtureRequest) -> None:
    """Each step stands on those before it."""
    if request.session.testsfailed:
        pytest.skip("an earlier step failed")


@pytest.fixture(scope="session")
def group(shell: Shell) -> Group:
    return Group(shell)


@pytest.fixture(scope="session")
def signed_in(shell: Shell) -> None:
    """Signed in by az, as the announcement's tests are before the others; these may run alone too."""
    try:
        shell.az("account", "show")
    except CommandRefused:
        endpoint = shell.variables["GALLERY_ENDPOINT"]
        shell.az("cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", endpoint)
        shell.az("cloud", "set", "-n", "opengallery")
        secret = ("-u", shell.variables["AZURE_CLIENT_ID"], "-p", shell.variables["AZURE_CLIENT_SECRET"])
        shell.az("login", "--service-principal", *secret, "--tenant", shell.variables["AZURE_TENANT_ID"])


@pytest.fixture(scope="session")
def site(shell: Shell, signed_in: None) -> Site:
    """A group with a gallery and a published version of the boot image, for machines and scale sets."""
    return Site(shell)
