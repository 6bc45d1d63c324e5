"""Master key and tenants' data keys."""

import stat
import threading
from pathlib import Path

import pytest

from opengallery.database import Database
from opengallery.replication.keys import ENVIRONMENT, MasterKeyError, TenantKeys, master_key
from opengallery.settings import Settings


def test_the_master_key_is_made_once_and_only_for_its_owner(tmp_path: Path) -> None:
    key = master_key(tmp_path)
    assert len(key) == 32
    assert master_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["master.key"]


def test_racing_starts_agree_on_one_master_key(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(master_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8


def test_the_environment_gives_the_master_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "ab" * 32)
    assert master_key(tmp_path) == b"\xab" * 32
    assert not (tmp_path / "master.key").exists()
    monkeypatch.setenv(ENVIRONMENT, "too short")
    with pytest.raises(MasterKeyError, match=ENVIRONMENT):
        master_key(tmp_path)


def test_a_tenant_keeps_its_data_key(database: Database, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    first = TenantKeys(settings, database).data_key("tenant-1")
    assert TenantKeys(settings, database).data_key("tenant-1") == first
    assert TenantKeys(settings, database).data_key("tenant-2") != first
    assert TenantKeys(settings, database).tenants() == ["tenant-1", "tenant-2"]


def test_racing_servers_agree_on_one_data_key(database: Database, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    servers = [TenantKeys(settings, database) for _ in range(6)]
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda keys=keys: found.append(keys.data_key("tenant"))) for keys in servers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1


def test_another_master_key_opens_no_data_key(database: Database, tmp_path: Path) -> None:
    TenantKeys(Settings(data=tmp_path / "a"), database).data_key("tenant")
    with pytest.raises(MasterKeyError, match=r"master\.key"):
        TenantKeys(Settings(data=tmp_path / "b"), database).data_key("tenant")
