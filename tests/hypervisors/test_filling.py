"""Data disks that begin with an image: read from replicas, which may fail, and seen by a real guest."""

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengallery.hypervisors import HypervisorError, NoLiveReplica, Port, Qemu, ReplicaUrl
from opengallery.hypervisors.filling import PIECE_BYTES, fill, pieces
from opengallery.hypervisors.machine import DataDisk, DiskContent
from opengallery.imagestore.qcow2 import CLUSTER_BYTES

from .qemu_lab import MIB, Replicas, Ssh, spec, wait_until_ready

KIB = 1024
SIZE_BYTES = 24 * MIB + 4 * KIB
EXTENTS = ((0, 8 * KIB), (3 * MIB + 4 * KIB, 9 * MIB), (SIZE_BYTES - 4 * KIB, 4 * KIB))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that has data in `EXTENTS` only."""
    path = tmp_path_factory.mktemp("data") / "data.raw"
    with path.open("wb") as file:
        for number, (offset, length) in enumerate(EXTENTS):
            file.seek(offset)
            file.write(bytes([number + 1, 0x5A]) * (length // 2))
    return path


@pytest.fixture
def serving(data: Path) -> Iterable[Replicas]:
    """Replicas of it."""
    found = Replicas(data, "")
    yield found
    found.close()


def disk(*replicas: ReplicaUrl, size_bytes: int = SIZE_BYTES, lun: int = 0) -> DataDisk:
    """A data disk that begins with the image."""
    return DataDisk(lun, size_bytes, DiskContent(replicas, SIZE_BYTES, lambda: EXTENTS))


def content(qcow2: Path) -> bytes:
    """What is on the disk; checked to be a whole qcow2 file."""
    subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", str(qcow2)], check=True)
    raw = qcow2.with_suffix(".raw")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(qcow2), str(raw)], check=True)
    return raw.read_bytes()


def wanted() -> bool:
    """Still."""
    return True


@given(
    st.lists(st.tuples(st.integers(0, 4096), st.integers(1, 4096)), max_size=8),
    st.integers(1, 40_000),
)
def test_pieces_cover_what_has_data_once(gaps: list[tuple[int, int]], blocks: int) -> None:
    size_bytes, at, extents = blocks * 4096, 0, []
    for gap, length in gaps:
        start, end = at + gap * 4096, min(at + (gap + length) * 4096, size_bytes)
        if start < end:
            extents.append((start, end - start))
            at = end
    found = list(pieces(extents, size_bytes))
    # Said once more, as by another store, nothing is read again.
    assert list(pieces([*extents, *extents], size_bytes)) == found
    covered = {cluster for start, length in found for cluster in range(start, start + length, CLUSTER_BYTES)}
    assert len(covered) == sum(-(-length // CLUSTER_BYTES) for _, length in found)
    assert all(
        block - block % CLUSTER_BYTES in covered
        for start, length in extents
        for block in range(start, start + length, 4096)
    )
    assert all(start % CLUSTER_BYTES == 0 and length <= PIECE_BYTES for start, length in found)
    assert all(start + length <= size_bytes for start, length in found)


@pytest.mark.parametrize("size_bytes", [SIZE_BYTES, SIZE_BYTES + 4 * KIB, 1 << 30])
def test_a_disk_holds_its_image_and_zeros(
    serving: Replicas, data: Path, tmp_path: Path, size_bytes: int
) -> None:
    path = tmp_path / "data-0.qcow2"
    fill(path, "vm", disk(serving.serve("replica=a"), size_bytes=size_bytes), wanted)
    assert path.stat().st_blocks * 512 < 12 * MIB
    assert path.stat().st_mode & 0o777 == 0o600
    found = content(path)
    assert len(found) == size_bytes
    assert found[:SIZE_BYTES] == data.read_bytes()
    assert not any(found[SIZE_BYTES:])


def test_an_image_of_zeros_needs_nobody(serving: Replicas, tmp_path: Path) -> None:
    path = tmp_path / "data-0.qcow2"
    fill(path, "vm", DataDisk(0, 8 * MIB, DiskContent((serving.dead(),), 8 * MIB, tuple)), wanted)
    assert content(path) == bytes(8 * MIB)


def test_the_next_replica_serves_what_one_does_not(serving: Replicas, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "data-0.qcow2"
    dying = serving.serve("replica=a", "die", "1")
    stranger = ReplicaUrl(serving.serve("replica=other").url, "replica=mine")
    fill(path, "vm", disk(serving.dead(), stranger, dying, serving.serve("replica=b")), wanted)
    assert content(path) == data.read_bytes()


def test_a_silent_replica_costs_its_time_once(serving: Replicas, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "data-0.qcow2"
    silent, good = serving.serve("replica=a", "hang", "0"), serving.serve("replica=b")
    fill(path, "vm", disk(silent, good), wanted)
    assert serving.is_stopped(silent)
    assert content(path) == data.read_bytes()


def test_nothing_is_left_of_a_disk_that_can_not_be_filled(serving: Replicas, tmp_path: Path) -> None:
    path = tmp_path / "data-0.qcow2"
    with pytest.raises(NoLiveReplica, match="No replica serves machine 'vm, data disk 0': http"):
        fill(path, "vm", disk(serving.dead(), serving.serve("replica=a", "die", "1")), wanted)
    with pytest.raises(NoLiveReplica, match="it was told of none"):
        fill(path, "vm", disk(), wanted)
    with pytest.raises(HypervisorError, match="not wanted any more"):
        fill(path, "vm", disk(serving.serve("replica=b")), lambda: False)
    assert not path.exists()
    with pytest.raises(HypervisorError, match="can't be written: No such file or directory"):
        fill(path / "there", "vm", disk(serving.serve("replica=c")), wanted)


def test_a_machine_that_is_deleted_meanwhile_is_filled_no_further(
    qemu: Qemu, serving: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletion comes in the middle of the first disk: the second is not begun."""
    made: list[int] = []

    def note(path: Path, machine_id: str, data_disk: DataDisk, is_wanted: Callable[[], bool]) -> None:
        made.append(data_disk.lun)
        qemu._deleting.add(machine_id)
        fill(path, machine_id, data_disk, is_wanted)

    monkeypatch.setattr("opengallery.hypervisors.folder.fill", note)
    good = serving.serve("replica=a")
    described = replace(spec("going"), data_disks=(disk(good), disk(good, lun=1)))
    with pytest.raises(HypervisorError, match="not wanted any more"):
        qemu.create(described)
    assert made == [0]
    assert qemu.state("going") == "absent"
    qemu.delete("going")
    monkeypatch.undo()
    qemu.create(described)
    assert qemu.state("going") == "stopped"
    qemu.delete("going")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_guest_reads_and_writes_the_disk_that_it_got(
    qemu: Qemu, replicas: Replicas, serving: Replicas, data: Path, tmp_path: Path, ssh: Ssh
) -> None:
    dying, good = serving.serve("replica=a", "die", "1"), serving.serve("replica=b")
    key = (tmp_path / "key.pub").read_text().strip()
    filled, empty = disk(dying, good, lun=3), DataDisk(4, 8 * MIB)
    qemu.create(replace(spec("guest", key=key), data_disks=(filled, empty)))
    serving.close()
    qemu.start("guest", [replicas.serve("replica=guest.1.a")])
    qemu.forward("guest", [Port("127.0.0.1", int((tmp_path / "port").read_text()), 22)])
    wait_until_ready(qemu, "guest")
    device = ssh("grep -l lun3 /sys/block/vd*/serial").split("/")[3]
    digest = subprocess.run(["sha256sum", str(data)], capture_output=True, text=True, check=True).stdout
    assert ssh(f"sha256sum /dev/{device}").split()[0] == digest.split()[0]
    ssh(f"tr '\\0' Z < /dev/zero | dd of=/dev/{device} bs=4096 count=1 seek=2 conv=fsync,notrunc")
    targets = {None: tmp_path / "os.qcow2", 3: tmp_path / "three.qcow2", 4: tmp_path / "four.qcow2"}
    qemu.copy_disks("guest", targets)
    assert qemu.state("guest") == "running"
    before = data.read_bytes()
    assert content(targets[3]) == before[: 8 * KIB] + b"Z" * 4096 + before[12 * KIB :]
    assert content(targets[4]) == bytes(8 * MIB)
    qemu.delete("guest")
