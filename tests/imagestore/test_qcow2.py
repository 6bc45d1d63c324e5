"""qcow2 files as we write them: QEMU finds nothing wrong, and reads what was written."""

import os
import random
from pathlib import Path

import pytest

from opengallery.imagestore import open_image
from opengallery.imagestore.qcow2 import CLUSTER_BYTES, Qcow2Writer

from .container_files import MIB, qemu_img


@pytest.mark.parametrize("size_bytes", [512, MIB + 512, 700 * MIB + 4096, 5 << 40])
def test_what_is_written_is_read_by_qemu(tmp_path: Path, size_bytes: int) -> None:
    path, chance = tmp_path / "disk.qcow2", random.Random(size_bytes)
    last = (size_bytes - 1) // CLUSTER_BYTES
    wanted = {0, last, *(chance.randrange(last + 1) for _ in range(40))}
    written = {}
    with path.open("wb+") as file:
        writer = Qcow2Writer(file.fileno(), size_bytes)
        for number in chance.sample(sorted(wanted), len(wanted)):
            offset = number * CLUSTER_BYTES
            written[offset] = os.urandom(min(CLUSTER_BYTES, size_bytes - offset))
            writer.write(offset, written[offset])
        writer.write(0, bytes(min(CLUSTER_BYTES, size_bytes)))
        writer.finish()
        assert all(writer.read(offset, len(content)) == content for offset, content in written.items())
    qemu_img("check", path)
    with open_image(path) as source:
        assert source.size_bytes == size_bytes
        assert sum(length for _, length in source.extents()) <= len(written) * CLUSTER_BYTES
        for offset, content in written.items():
            assert source.read(offset, len(content)) == content


def test_a_file_that_was_broken_off_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb+") as file:
        Qcow2Writer(file.fileno(), MIB).write(0, os.urandom(MIB))
    assert path.read_bytes()[:4] == bytes(4)


def test_parts_of_clusters_are_not_taken(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb+") as file:
        writer = Qcow2Writer(file.fileno(), MIB)
        for offset, length in ((512, CLUSTER_BYTES), (0, 512)):
            with pytest.raises(ValueError, match="whole clusters"):
                writer.write(offset, bytes(length))
