"""Where stores lie: on demand in the data folder, or named in the settings, in directories or elsewhere."""

import os
from pathlib import Path

import pytest

from opengallery.database import Database
from opengallery.imagestore import open_image
from opengallery.replication.places import open_store
from opengallery.replication.stores import Stores, UnknownStore
from opengallery.settings import RegionSettings, Settings, SettingsError, StoreSettings


def test_stores_are_made_on_demand(settings: Settings, stores: Stores) -> None:
    assert stores.names("east") == []
    assert stores.first("east") == "east-01"
    assert not (settings.data / "stores").exists()
    store = stores.open("east-03", "tenant")
    assert stores.names("east") == ["east-03"]
    assert (settings.data / "stores" / "east" / "east-03" / "tenants" / "tenant" / "format.json").exists()
    assert stores.open("east-03", "tenant") is store


def test_a_region_holds_a_hundred_replicas_or_what_its_settings_name(stores: Stores) -> None:
    assert (stores.capacity("east"), stores.candidates("east")[-1]) == (100, "east-100")
    assert (stores.capacity("west"), stores.names("west")) == (3, ["west-01", "west-02", "west-03"])
    assert stores.first("north") == "north-01"


def test_a_store_is_in_one_region(stores: Stores) -> None:
    assert stores.region_of("west-02") == "west"
    assert stores.region_of("east-17") == "east"
    for unknown in ("west-04", "east-101", "east-00", "cellar", "../east-01"):
        with pytest.raises(UnknownStore, match=r"opengallery\.toml"):
            stores.region_of(unknown)


def test_tenants_share_no_block(stores: Stores, tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(os.urandom(1 << 20))
    images = set()
    for tenant in ("tenant-1", "tenant-2"):
        with open_image(tmp_path / "a.raw") as source:
            report = stores.open("east-01", tenant).put(source)
        assert report.new_bytes == 1 << 20
        images.add(report.image_id)
    assert len(images) == 2


def test_a_store_that_is_no_directory_is_opened_by_its_url(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"content!" * 4096)
    (tmp_path / "bucket").mkdir()
    place = StoreSettings("bucket-01", url=f"file://{tmp_path / 'bucket'}")
    store = open_store(place, "tenant", b"k" * 32, tmp_path / "index")
    with open_image(tmp_path / "a.raw") as source:
        image_id = store.put(source).image_id
    again = open_store(place, "tenant", b"k" * 32, tmp_path / "other index")
    assert again.open(image_id).read(8, 8) == b"content!"


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"west": [StoreSettings("a", "/a")], "east": [StoreSettings("a", "/b")]}, "used twice"),
        ({"west": [StoreSettings("east-01", "/a")]}, "used twice"),
        ({"west": [StoreSettings("a")]}, "either a path or a url"),
        ({"west": [StoreSettings("a", "/a", "s3://a")]}, "either a path or a url"),
        ({"west": [StoreSettings("a/b", "/a")]}, "needs letters"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(
    database: Database, tmp_path: Path, regions: dict[str, list[StoreSettings]], message: str
) -> None:
    settings = Settings(
        data=tmp_path, regions={name: RegionSettings(stores) for name, stores in regions.items()}
    )
    with pytest.raises(SettingsError, match=message):
        Stores(settings, database)


@pytest.mark.parametrize(
    ("url", "options"), [("bogus://bucket", {}), ("s3://bucket", {"no_such_option": "1"})]
)
def test_a_url_that_can_not_be_opened_is_a_settings_error(
    tmp_path: Path, url: str, options: dict[str, str]
) -> None:
    with pytest.raises(SettingsError, match="'bucket-01' can't be opened"):
        open_store(StoreSettings("bucket-01", url=url, options=options), "tenant", b"k" * 32, tmp_path)
