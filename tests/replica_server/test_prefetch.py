"""What boots read: learned from reads, kept small, and made ready before machines ask for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opengallery.replica_server import boots as boots_module
from opengallery.replica_server.boots import BOOTS_OF_AN_IMAGE, Boots
from opengallery.replica_server.checked_bytes import CheckedBytes
from opengallery.replica_server.images import Images
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replica_server.warming import Warming
from opengallery.replication import boot_pieces
from opengallery.replication.boot_pieces import MAX_PIECES, PIECE_BYTES
from opengallery.replication.places import StorePlaces

MIB = 1 << 20
STORE, REGION, TENANT = "westeurope-01", "westeurope", "tenant"
READS = ((0, 1), (150, 40), (3, 12), (90, 7), (330, 20))
"""First piece and how many: one boot of the region's image."""


def boot(region: Any, machine: str = "machine-1") -> None:
    cookie = region.cookie(machine=machine)
    for first, count in READS:
        wanted = region.content[first * PIECE_BYTES : (first + count) * PIECE_BYTES]
        answer = region.get(
            f"bytes={first * PIECE_BYTES}-{(first + count) * PIECE_BYTES - 1}",
            Cookie=cookie,
        )
        assert answer.content == wanted


def in_order() -> list[int]:
    return [piece for first, count in READS for piece in range(first, first + count)]


def known(region: Any) -> list[int]:
    return boot_pieces.load(region.settings.data, TENANT, region.image_id)


def restart(region: Any) -> None:
    region.servers.close()
    region.servers = ReplicaServers(region.settings, region.stores)


def resident_bytes(region: Any) -> int:
    (pid,) = region.servers.pids().values()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_what_a_boot_reads_is_learned_and_survives_a_restart(
    region: Any, wait_until: Callable[..., None]
) -> None:
    boot(region)
    wait_until(lambda: known(region) == in_order())
    restart(region)
    region.get("bytes=0-9")
    assert known(region) == in_order()


def test_a_warmed_server_answers_a_boot_without_its_store(
    region: Any, wait_until: Callable[..., None]
) -> None:
    boot_pieces.add(region.settings.data, TENANT, region.image_id, in_order())
    wait_until(lambda: region.servers.warm(REGION, STORE, TENANT, region.image_id))
    for pack in region.packs(STORE):
        pack.unlink()
    boot(region)
    never_read = 120 * PIECE_BYTES
    assert region.get(f"bytes={never_read}-{never_read + 9}").status_code == 503


def test_the_first_read_of_a_boot_has_the_others_made_ready(
    region: Any, wait_until: Callable[..., None]
) -> None:
    boot_pieces.add(region.settings.data, TENANT, region.image_id, in_order())
    region.url()
    before = resident_bytes(region)
    region.get("bytes=0-511")
    wait_until(lambda: resident_bytes(region) > before + len(in_order()) * PIECE_BYTES)
    wait_until(lambda: region.servers.warm(REGION, STORE, TENANT, region.image_id))


def test_a_version_that_was_never_booted_has_nothing_and_works(region: Any) -> None:
    region.servers.warm(REGION, STORE, TENANT, region.image_id)
    region.servers.warm(REGION, STORE, TENANT, "0" * 64)
    region.servers.warm(REGION, "westeurope-09", TENANT, region.image_id)
    assert known(region) == []
    assert region.get("bytes=5000-6000").content == region.content[5000:6001]
    assert not (region.settings.data / "boot-pieces").exists()


def test_only_the_control_plane_has_replicas_warmed(region: Any) -> None:
    assert region.get(method="POST").status_code == 403
    assert region.get(method="POST", Authorization="Bearer x").status_code == 403


def test_without_prefetch_nothing_is_learned_or_warmed(region: Any) -> None:
    region.settings.replicas.prefetch = False
    restart(region)
    boot(region)
    region.servers.warm(REGION, STORE, TENANT, region.image_id)
    region.servers.close()
    assert not (region.settings.data / "boot-pieces").exists()


FOREIGN = {
    "empty": b"",
    "noise": bytes(range(256)) * 40,
    "cut": b'{"format":1,"piece_bytes":65536,"pieces":[1,2',
    "another list": b"[1,2,3]",
    "another format": b'{"format":2,"piece_bytes":65536,"pieces":[1]}',
    "other pieces": b'{"format":1,"piece_bytes":4096,"pieces":[1]}',
    "no numbers": b'{"format":1,"piece_bytes":65536,"pieces":["a",null]}',
    "negative": b'{"format":1,"piece_bytes":65536,"pieces":[-1,0]}',
    "large": b'{"format":1,"piece_bytes":65536,"pieces":[%s1]}' % (b"123456," * 300_000),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_damaged_or_foreign_file_means_that_nothing_is_known(tmp_path: Path, content: bytes) -> None:
    boot_pieces.add(tmp_path, TENANT, "image", [3, 1, 2])
    (path,) = (tmp_path / "boot-pieces" / TENANT).iterdir()
    path.write_bytes(content)
    assert boot_pieces.load(tmp_path, TENANT, "image") == []
    boot_pieces.add(tmp_path, TENANT, "image", [7])
    assert boot_pieces.load(tmp_path, TENANT, "image") == [7]


def test_what_is_kept_is_bounded_and_keeps_its_order(tmp_path: Path) -> None:
    boot_pieces.add(tmp_path, TENANT, "image", [9, 5, 9, 5])
    boot_pieces.add(tmp_path, TENANT, "image", [5, 8, *range(100, 2 * MAX_PIECES)])
    found = boot_pieces.load(tmp_path, TENANT, "image")
    assert found[:4] == [9, 5, 8, 100]
    assert len(found) == MAX_PIECES
    (path,) = (tmp_path / "boot-pieces" / TENANT).iterdir()
    assert path.stat().st_size < 64 << 10


class Clock:
    """The clock of `boots`, set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(boots_module, "time", made)
    return made


IMAGE = (TENANT, "image")


def test_a_boot_is_over_when_nothing_was_read_for_a_while(tmp_path: Path, clock: Clock) -> None:
    boots = Boots(tmp_path)
    assert boots.note(IMAGE, "m", 0, 512)
    clock.now_s += 10
    assert not boots.note(IMAGE, "m", 5 * PIECE_BYTES, 7 * PIECE_BYTES)
    clock.now_s += 12  # it is up; now it is hydrated
    for piece in range(200):
        boots.note(IMAGE, "m", piece * PIECE_BYTES, (piece + 1) * PIECE_BYTES)
    assert boots.pieces(IMAGE) == [0, 5, 6]


def test_what_does_not_begin_as_a_boot_is_not_learned(tmp_path: Path, clock: Clock) -> None:
    boots = Boots(tmp_path)
    assert not boots.note(IMAGE, "late", PIECE_BYTES, 2 * PIECE_BYTES)
    assert not boots.note(IMAGE, "copy", 0, 2 << 30)
    assert boots.pieces(IMAGE) == []
    for number in range(3 * BOOTS_OF_AN_IMAGE):
        clock.now_s += 60
        assert boots.note(IMAGE, f"m{number}", 0, 512), "each boot is worth to be ready for"
        boots.note(IMAGE, f"m{number}", number * PIECE_BYTES, number * PIECE_BYTES + 1)
    assert boots.pieces(IMAGE) == list(range(BOOTS_OF_AN_IMAGE))


@pytest.fixture
def warm(region: Any) -> Callable[..., CheckedBytes]:
    """Warms pieces of the region's image as a server does, until nothing is left to do."""

    def made(
        pieces: list[int], cache_bytes: int, is_wanted: Callable[[], bool] = lambda: False
    ) -> CheckedBytes:
        data = region.settings.data
        images = Images(data / "index", 16 * MIB)
        keys = {TENANT: region.stores.keys.data_key(TENANT)}
        images.learn(StorePlaces([region.stores.place(STORE)], keys))
        checked, boots = CheckedBytes(cache_bytes), Boots(data)
        boot_pieces.add(data, TENANT, region.image_id, pieces)
        warming = Warming(images, checked, boots, is_wanted)
        steps = warming.fulfil()
        waiting = next(steps)
        warming.wish((STORE, TENANT, region.image_id))
        while waiting.done() or warming.is_at_work:
            error = waiting.exception()
            waiting = steps.throw(error) if error else steps.send(waiting.result())
        return checked

    return made


def test_warming_takes_the_first_pieces_and_stays_within_its_part_of_the_cache(
    region: Any, warm: Callable[..., CheckedBytes]
) -> None:
    pieces = list(range(190, -1, -1))  # 12 MiB of data that a boot reads from its end on
    checked = warm(pieces * 2 + [10_000], 16 * MIB)
    image = checked.image(TENANT, region.image_id)
    there = [piece for piece in pieces if image.holds(piece * PIECE_BYTES, (piece + 1) * PIECE_BYTES)]
    assert there == pieces[: len(there)]
    assert 11 * MIB < len(there) * PIECE_BYTES <= 12 * MIB
    assert checked.used_bytes <= 13 * MIB


def test_warmed_bytes_are_those_of_the_image(region: Any, warm: Callable[..., CheckedBytes]) -> None:
    end = len(region.content)
    pieces = [end // PIECE_BYTES, 4, 5, 6, 7, 8, 9, 200, 1 << 39]
    image = warm(pieces, 64 * MIB).image(TENANT, region.image_id)
    for piece in pieces[:-1]:
        first = piece * PIECE_BYTES
        place = image.find(first, min(first + PIECE_BYTES, end))
        assert place is not None
        memory, start, stop = place
        assert memory[start:stop] == region.content[first : first + PIECE_BYTES]


def test_warming_stands_back_while_a_machine_waits(region: Any, warm: Callable[..., CheckedBytes]) -> None:
    waits = iter([True] * 5 + [False] * 100)
    seen: list[bool] = []

    def is_wanted() -> bool:
        seen.append(next(waits))
        return seen[-1]

    checked = warm([1, 50], 16 * MIB, is_wanted)
    assert seen == [True] * 5 + [False] * 2, "asked before each read, until nobody waits"
    assert checked.image(TENANT, region.image_id).holds(50 * PIECE_BYTES, 51 * PIECE_BYTES)


def test_a_replica_that_is_damaged_is_not_warmed(region: Any, warm: Callable[..., CheckedBytes]) -> None:
    for pack in region.packs(STORE):
        pack.chmod(0o600)
        pack.write_bytes(os.urandom(pack.stat().st_size))
    checked = warm([1, 50], 16 * MIB)
    assert not checked.image(TENANT, region.image_id).slabs
