"""`gallery tenant` and `gallery subscription` on a data folder."""

from pathlib import Path

import pytest

from opengallery.database import Database
from opengallery.identity.applications import find_application
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.first_start import FirstStart, bootstrap
from opengallery.settings import load_settings

from .conftest import Gallery


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder as the first start leaves it."""
    folder = tmp_path / "data"
    folder.mkdir()
    database = Database(load_settings(folder).database)
    database.migrate()
    bootstrap(database, folder)
    database.close()
    return folder


@pytest.fixture
def first(data: Path) -> FirstStart:
    database = Database(load_settings(data).database)
    found = bootstrap(database, data)
    database.close()
    return found


def test_a_tenant_begins_with_an_administrator_and_a_subscription(gallery: Gallery, data: Path) -> None:
    made = gallery("tenant", "create", "--name", "Contoso", "--data", str(data)).json
    database = Database(load_settings(data).database)
    with database.read() as connection:
        application = find_application(connection, made["clientId"])
    database.close()
    assert application is not None
    assert application.principal.object_id == made["objectId"]
    assert application.principal.tenant_id == made["tenantId"]
    checker = SecretChecker()
    checker.submit(made["clientId"], made["clientSecret"], application.secrets).result(10)
    checker.close()
    listed = gallery("tenant", "list", "--data", str(data))
    assert {(entry["name"], entry["subscriptions"]) for entry in listed.json} == {
        ("Open Gallery", 2),
        ("Contoso", 1),
    }
    assert made["clientSecret"] not in listed.out
    content = b"".join(path.read_bytes() for path in data.glob("gallery.sqlite*"))
    assert made["tenantId"].encode() in content and made["clientSecret"].encode() not in content


def test_a_subscription_goes_to_the_first_tenant_or_to_the_named_one(
    gallery: Gallery, data: Path, first: FirstStart
) -> None:
    new = gallery("tenant", "create", "--name", "Contoso", "--data", str(data)).json
    mine = gallery("subscription", "create", "--name", "Builds", "--data", str(data)).json
    assert mine["tenantId"] == first.tenant_id
    for tenant in ("contoso", new["tenantId"].upper()):
        words = ("--name", f"For {tenant[:7]}", "--tenant", tenant, "--data", str(data))
        assert gallery("subscription", "create", *words).json["tenantId"] == new["tenantId"]
    listed = gallery("subscription", "list", "--tenant", "Contoso", "--data", str(data)).json
    assert {entry["tenantId"] for entry in listed} == {new["tenantId"]} and len(listed) == 3
    everything = gallery("subscription", "list", "--data", str(data)).json
    assert {entry["name"] for entry in everything} >= {"Builds", "Contoso", "Open Gallery 1"}


def test_a_name_is_given_once_and_has_bounds(gallery: Gallery, data: Path) -> None:
    for noun, taken in (("tenant", "open gallery"), ("subscription", "OPEN GALLERY 1")):
        outcome = gallery(noun, "create", "--name", taken, "--data", str(data))
        assert outcome.code == 1 and "already exists" in outcome.err
        for name in (" ", "a" * 65, "a\nb"):
            outcome = gallery(noun, "create", "--name", name, "--data", str(data))
            assert outcome.code == 1 and "name" in outcome.err


def test_what_is_not_there_is_named(gallery: Gallery, data: Path, tmp_path: Path) -> None:
    words = ("--name", "x", "--tenant", "Fabrikam", "--data", str(data))
    outcome = gallery("subscription", "create", *words)
    assert outcome.code == 1 and "There is no tenant 'Fabrikam'" in outcome.err
    outcome = gallery("tenant", "list", "--data", str(tmp_path / "elsewhere"))
    assert outcome.code == 1 and "There is no gallery in" in outcome.err


def test_a_folder_of_another_version_is_left_alone(gallery: Gallery, tmp_path: Path) -> None:
    (tmp_path / "gallery.sqlite").touch()
    outcome = gallery("tenant", "create", "--name", "x", "--data", str(tmp_path))
    assert outcome.code == 1 and "another version" in outcome.err
