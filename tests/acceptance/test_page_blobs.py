"""Uploads and downloads with the real azure-storage-blob: broken connections, ranges, revoked and late URLs."""

import os
import time
from pathlib import Path

import pytest

from opengallery.imagestore.vhd import fixed_footer

from .running import Shell

MIB = 1024**2
EXERCISE = Path(__file__).parent / "exercise_page_blob.py"
DISK = ("-g", "blobs", "-n", "one")
pytestmark = pytest.mark.usefixtures("signed_in")


@pytest.fixture(scope="module")
def disk_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fixed VHD with data in two places."""
    path = tmp_path_factory.mktemp("blobs") / "disk.vhd"
    content = os.urandom(9 * MIB) + bytes(21 * MIB) + os.urandom(MIB) + bytes(MIB)
    path.write_bytes(content + fixed_footer(len(content)))
    return path


def granted(shell: Shell, level: str, seconds: int = 3600) -> str:
    access = ("--access-level", level, "--duration-in-seconds", seconds)
    return str(shell.az("disk", "grant-access", *DISK, *access)["accessSAS"])


def test_pages_are_written_around_a_broken_connection(shell: Shell, disk_file: Path) -> None:
    shell.az("group", "create", "-n", "blobs", "-l", "westcentralus")
    size = disk_file.stat().st_size
    shell.az(
        "disk", "create", *DISK, "--upload-type", "Upload", "--upload-size-bytes", size, "--os-type", "Linux"
    )
    late = granted(shell, "Write", 1)
    time.sleep(2)
    shell.python(EXERCISE, "refused", late)
    sas = granted(shell, "Write")
    shell.python(EXERCISE, "upload", disk_file, sas)
    shell.az("disk", "revoke-access", *DISK)
    shell.python(EXERCISE, "refused", sas)
    assert shell.az("disk", "show", *DISK)["diskState"] == "Unattached"


def test_a_disk_is_downloaded_as_it_was_uploaded(shell: Shell, disk_file: Path) -> None:
    sas = granted(shell, "Read")
    shell.python(EXERCISE, "download", disk_file, sas)
    assert shell.az("disk", "show", *DISK)["diskState"] == "ActiveSAS"
    shell.az("disk", "revoke-access", *DISK)
    shell.python(EXERCISE, "refused", sas)
    shell.az("group", "delete", "-n", "blobs", "--yes")
