"""`gallery store` on a data folder with real stores."""

from pathlib import Path

import pytest

from opengallery.database import Database, metadata
from opengallery.imagestore import open_image
from opengallery.replication.stores import Stores
from opengallery.settings import load_settings

from .conftest import Gallery


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with one image of 3 MiB in two stores of two regions."""
    folder = tmp_path / "data"
    folder.mkdir()
    settings = load_settings(folder)
    database = Database(settings.database)
    metadata.create_all(database.engine)
    stores = Stores(settings, database)
    (tmp_path / "disk.raw").write_bytes(b"".join(bytes([n % 251]) * 4096 for n in range(768)))
    for name in ("westus-01", "eastus-01"):
        with open_image(tmp_path / "disk.raw") as source:
            stores.open(name, "tenant").put(source)
    database.close()
    return folder


def damage(store: Path) -> None:
    """Turn a byte over in the middle of every pack."""
    for pack in store.glob("tenants/tenant/packs/*/*"):
        content = bytearray(pack.read_bytes())
        content[100] ^= 0xFF
        pack.chmod(0o600)
        pack.write_bytes(content)


def test_stats_count_each_store(gallery: Gallery, data: Path) -> None:
    entries = gallery("store", "stats", "--data", str(data)).json
    assert {entry["store"] for entry in entries} == {"westus-01", "eastus-01"}
    for entry in entries:
        assert (entry["images"], entry["imageBytes"]) == (1, 3 << 20)
        assert 0 < entry["storedBytes"] < entry["imageBytes"]
        assert entry["uniqueBytes"] == 250 * 4096  # the 251 bytes, but not zero
        (image,) = entry["perImage"]
        assert 0 < image["deletingFreesBytes"] <= entry["storedBytes"]
        assert image["ratio"] > 1


def test_verify_finds_the_damaged_store_and_ends_with_1(gallery: Gallery, data: Path) -> None:
    sound = gallery("store", "verify", "--data", str(data))
    assert sound.code == 0
    assert [entry["state"] for entry in sound.json] == ["Good", "Good"]
    damage(data / "stores" / "westus" / "westus-01")
    outcome = gallery("store", "verify", "--data", str(data))
    assert outcome.code == 1
    assert {entry["store"]: entry["state"] for entry in outcome.json} == {
        "westus-01": "Damaged",
        "eastus-01": "Good",
    }
    assert "1 of 2 images are damaged" in outcome.err


def test_verify_repairs_from_another_region(gallery: Gallery, data: Path) -> None:
    damage(data / "stores" / "westus" / "westus-01")
    outcome = gallery("store", "verify", "--data", str(data), "--repair")
    assert outcome.code == 0
    assert {entry["store"]: entry["state"] for entry in outcome.json} == {
        "westus-01": "Repaired",
        "eastus-01": "Good",
    }
    assert gallery("store", "verify", "--data", str(data)).code == 0


def test_what_is_damaged_everywhere_stays_damaged(gallery: Gallery, data: Path) -> None:
    damage(data / "stores" / "westus" / "westus-01")
    damage(data / "stores" / "eastus" / "eastus-01")
    outcome = gallery("store", "verify", "--data", str(data), "--repair")
    assert (outcome.code, {entry["state"] for entry in outcome.json}) == (1, {"Damaged"})


def test_collect_goes_on_with_the_other_stores_and_names_the_image(gallery: Gallery, data: Path) -> None:
    (manifest,) = (data / "stores" / "westus" / "westus-01").glob("tenants/tenant/manifests/*/*")
    manifest.write_bytes(manifest.read_bytes()[:-1])
    outcome = gallery("store", "collect", "--data", str(data))
    assert outcome.code == 1
    assert [entry["store"] for entry in outcome.json] == ["eastus-01"]
    assert manifest.name in outcome.err
    assert "Repair it from another replica" in outcome.err
    assert gallery("store", "verify", "--data", str(data), "--repair").code == 0
    assert gallery("store", "collect", "--data", str(data)).code == 0


def test_a_region_is_looked_at_alone_by_either_of_its_names(gallery: Gallery, data: Path) -> None:
    damage(data / "stores" / "westus" / "westus-01")
    outcome = gallery("store", "verify", "--data", str(data), "--region", "East US")
    assert (outcome.code, [entry["region"] for entry in outcome.json]) == (0, ["eastus"])
    assert gallery("store", "verify", "--data", str(data), "--region", "nowhere").code == 1


def test_collect_frees_what_no_image_needs(gallery: Gallery, data: Path) -> None:
    settings = load_settings(data)
    store = Stores(settings, Database(settings.database)).open("westus-01", "tenant")
    for image_id in list(store.images()):
        store.delete(image_id)
    command = ["store", "collect", "--data", str(data), "--grace-hours", "0"]
    marked = gallery(*command).json
    assert {entry["store"]: entry["markedPacks"] for entry in marked} == {"westus-01": 1, "eastus-01": 0}
    freed = gallery(*command, "--region", "westus").json
    assert freed[0]["deletedPacks"] == 1
    assert gallery("store", "stats", "--data", str(data), "--region", "westus").json[0]["packs"] == 0


def test_a_folder_without_gallery_is_refused_and_left_alone(gallery: Gallery, tmp_path: Path) -> None:
    for verb in ("verify", "collect", "stats"):
        outcome = gallery("store", verb, "--data", str(tmp_path / "none"))
        assert outcome.code == 1
        assert "There is no gallery" in outcome.err
    assert not (tmp_path / "none").exists()
