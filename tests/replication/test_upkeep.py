"""Upkeep finds what rots in any store, has it repaired, frees what nobody needs, and ends when told."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.database import Database
from opengallery.imagestore import open_image, transfer, verify
from opengallery.replication import upkeep
from opengallery.replication.progress import replicas
from opengallery.replication.stores import Stores
from opengallery.replication.workflows import ingest, repair, replicate
from opengallery.settings import ImageSettings

TENANT = "tenant"
FAST = 1e12
ImageFile = Callable[..., Path]


@pytest.mark.usefixtures("running")
def test_what_rots_is_brought_again_from_another_region(
    database: Database, stores: Stores, image_file: ImageFile, tmp_path: Path
) -> None:
    image_id = ingest("disk", TENANT, str(image_file("a.raw", 8, [0, 5])), "north").image_id
    replicate("version", "disk", [{"region": "west", "count": 2}])
    (pack,) = (tmp_path / "disks/west-01").rglob("packs/*/*")
    content = bytearray(pack.read_bytes())
    content[1000] ^= 1
    pack.write_bytes(content)
    told: list[tuple[str, str, str]] = []

    def mend(*replica: str) -> None:
        told.append(replica)
        assert repair(*replica) == ""

    upkeep.look_after(stores, FAST, threading.Event(), mend)
    assert told == [("west-01", TENANT, image_id)]
    assert verify(stores.open("west-01", TENANT), image_id).is_good
    with database.read() as connection:
        assert {replica.state for replica in replicas(connection, "version")} == {"Completed"}
    upkeep.look_after(stores, FAST, threading.Event(), mend)
    assert len(told) == 1


def test_a_store_that_cannot_be_collected_does_not_keep_the_others_waiting(
    stores: Stores, image_file: ImageFile, tmp_path: Path
) -> None:
    with open_image(image_file("a.raw", 4, [1])) as source:
        image_id = stores.open("west-01", TENANT).put(source).image_id
    transfer(stores.open("west-01", TENANT), stores.open("west-02", TENANT), image_id)
    for name in ("west-01", "west-02"):
        (manifest,) = (tmp_path / "disks" / name).rglob("manifests/*/*")
        manifest.write_bytes(b"")
    told: list[str] = []
    upkeep.look_after(stores, FAST, threading.Event(), lambda store, *_: told.append(store))
    assert told == ["west-01", "west-02"]


def test_upkeep_ends_within_moments_of_the_server(
    stores: Stores, image_file: ImageFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_image(image_file("a.raw", 4, [1])) as source:
        stores.open("west-01", TENANT).put(source)
    monkeypatch.setattr(upkeep, "FIRST_AFTER_S", 0.0)
    closing = threading.Event()
    # At this rate the scrub would take days.
    monkeypatch.setattr("opengallery.replication.upkeep.scrub", slow_scrub := SlowScrub())
    thread = threading.Thread(target=upkeep.run, args=(stores, ImageSettings(), closing, print))
    thread.start()
    assert slow_scrub.began.wait(20)
    time.sleep(0.05)
    closing.set()
    thread.join(20)
    assert not thread.is_alive()


class SlowScrub:
    """The real scrub at a byte a second."""

    def __init__(self) -> None:
        self.began = threading.Event()

    def __call__(self, store: object, bytes_per_s: float, is_ending: Callable[[float], bool]) -> object:
        from opengallery.imagestore import scrub

        self.began.set()
        return scrub(store, 1, is_ending)  # type: ignore[arg-type]


def test_settings_turn_it_off(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "look_after", lambda *_: pytest.fail("it was turned off"))
    monkeypatch.setattr(upkeep, "FIRST_AFTER_S", 0.0)
    upkeep.run(stores, ImageSettings(upkeep_hours=0), threading.Event(), print)
