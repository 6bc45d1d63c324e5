"""The first start: made once, finished after a crash, never undoing what was revoked."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, select

from opengallery.database import Database
from opengallery.identity import first_start
from opengallery.identity.applications import applications, client_secrets, find_application
from opengallery.identity.directory import (
    find_subscription,
    list_subscriptions,
    list_tenants,
    principals,
    set_enabled,
    subscriptions,
    tenants,
)
from opengallery.identity.first_start import OtherGallery, bootstrap, read_first_start
from opengallery.identity.folder import IdentityFolder


def _everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table))]
            for table in (tenants, subscriptions, principals, client_secrets)
        }


def test_there_is_one_tenant_with_two_subscriptions_and_an_administrator(
    database: Database, tmp_path: Path
) -> None:
    first = bootstrap(database, tmp_path)
    with database.read() as connection:
        assert [tenant_id for tenant_id, _ in list_tenants(connection)] == [first.tenant_id]
        listed = [entry.subscription_id for entry in list_subscriptions(connection, first.tenant_id)]
        assert listed == [first.subscription_id, first.second_subscription_id]
        found = find_subscription(connection, first.subscription_id.upper())
        application = find_application(connection, first.app_id.upper())
    assert found is not None and found.tenant_id == first.tenant_id
    assert application is not None and application.is_enabled
    assert application.principal.object_id == first.object_id
    assert [secret.key_id for secret in application.secrets] == [first.key_id]


def test_a_second_start_changes_nothing(database: Database, tmp_path: Path) -> None:
    first = bootstrap(database, tmp_path)
    before = _everything(database)
    assert bootstrap(database, tmp_path) == first
    assert read_first_start(tmp_path) == first
    assert _everything(database) == before


def test_the_secret_is_in_a_private_file_and_nowhere_else(database: Database, tmp_path: Path) -> None:
    first = bootstrap(database, tmp_path)
    folder = tmp_path / "identity"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "administrator.json").stat().st_mode) == 0o600
    assert {path.name for path in folder.iterdir()} == {"administrator.json", "lock"}
    assert first.client_secret not in repr(_everything(database))
    assert first.client_secret not in repr(first)


def test_az_never_takes_the_secret_for_an_option(database: Database, tmp_path: Path) -> None:
    assert bootstrap(database, tmp_path).client_secret.isalnum()


def test_a_folder_that_others_could_read_is_made_private(database: Database, tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir(mode=0o755)
    bootstrap(database, tmp_path)
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700


@pytest.mark.parametrize("crash_in", ["_insert", "rename"])
def test_a_crash_at_any_step_is_made_good_by_the_next_start(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_in: str
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise Crash

    target = first_start if crash_in == "_insert" else IdentityFolder
    with monkeypatch.context() as patch:
        patch.setattr(target, crash_in, crash)
        with pytest.raises(Crash):
            bootstrap(database, tmp_path)
    chosen = msgspec.json.decode((tmp_path / "identity" / "administrator.new.json").read_bytes())
    assert read_first_start(tmp_path) is None
    first = bootstrap(database, tmp_path)
    assert first.client_secret == chosen["client_secret"]
    with database.read() as connection:
        application = find_application(connection, first.app_id)
        assert len(list_subscriptions(connection, first.tenant_id)) == 2
    assert application is not None
    assert [secret.key_id for secret in application.secrets] == [first.key_id]


def test_a_revoked_secret_and_a_disabled_administrator_stay_so(database: Database, tmp_path: Path) -> None:
    first = bootstrap(database, tmp_path)
    with database.write() as connection:
        connection.execute(delete(client_secrets))
        set_enabled(connection, first.object_id, False)
    bootstrap(database, tmp_path)
    with database.read() as connection:
        application = find_application(connection, first.app_id)
    assert application is not None
    assert not application.is_enabled
    assert application.secrets == ()


def test_a_lost_file_gives_the_same_administrator_a_new_secret(database: Database, tmp_path: Path) -> None:
    old = bootstrap(database, tmp_path)
    (tmp_path / "identity" / "administrator.json").unlink()
    new = bootstrap(database, tmp_path)
    assert new.client_secret != old.client_secret
    assert (new.tenant_id, new.object_id, new.app_id) == (old.tenant_id, old.object_id, old.app_id)
    assert (new.subscription_id, new.second_subscription_id) == (
        old.subscription_id,
        old.second_subscription_id,
    )
    with database.read() as connection:
        application = find_application(connection, new.app_id)
    assert application is not None
    assert [secret.key_id for secret in application.secrets] == [new.key_id]


def test_an_empty_database_gets_what_the_folder_holds(database: Database, tmp_path: Path) -> None:
    first = bootstrap(database, tmp_path)
    with database.write() as connection:
        for table in (client_secrets, applications, principals, subscriptions, tenants):
            connection.execute(delete(table))
    assert bootstrap(database, tmp_path) == first
    with database.read() as connection:
        assert find_application(connection, first.app_id) is not None


def test_starts_at_the_same_time_agree(database: Database, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: bootstrap(database, tmp_path), range(4)))
    assert made == [made[0]] * 4
    with database.read() as connection:
        assert len(list_tenants(connection)) == 1


def test_the_database_of_another_gallery_is_refused(database: Database, tmp_path: Path) -> None:
    bootstrap(database, tmp_path / "one")
    (tmp_path / "two" / "identity").mkdir(parents=True)
    content = msgspec.json.decode((tmp_path / "one" / "identity" / "administrator.json").read_bytes())
    content["tenant_id"] = "00000000-0000-0000-0000-000000000001"
    (tmp_path / "two" / "identity" / "administrator.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(OtherGallery, match="00000000-0000-0000-0000-000000000001"):
        bootstrap(database, tmp_path / "two")
