"""`gallery sig image-version export`: what it refuses before it asks the server for anything."""

from pathlib import Path

import pytest

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.client import ArmClient
from opengallery.cli.failure import CommandFailed
from opengallery.cli.version_export import export_version


class Unasked(ArmClient):
    """A client that nobody may use."""

    def __init__(self) -> None:
        """Sign in nowhere."""


def refusal(path: Path) -> str:
    with pytest.raises(CommandFailed) as failed:
        export_version(Unasked(), ResourceId(), ResourceId(), path, "raw")
    return str(failed.value)


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(b"kept")
    (tmp_path / "link.raw").symlink_to(tmp_path / "nowhere")
    for name in ("disk.raw", "link.raw"):
        assert "already. Delete it, or choose another name" in refusal(tmp_path / name)
    assert (tmp_path / "disk.raw").read_bytes() == b"kept"


def test_a_name_that_no_file_can_have_is_refused_in_words(tmp_path: Path) -> None:
    assert "File name too long. Choose another name" in refusal(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    assert "Not a directory" in refusal(tmp_path / "file" / "disk.raw")
