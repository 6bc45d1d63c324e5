"""Key rotation: the data keys stay, the master key changes, and no crash in between loses them."""

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from opengallery.database import Database, metadata
from opengallery.replication import key_rotation, keys
from opengallery.replication.key_rotation import NEW_ENVIRONMENT, rotate
from opengallery.replication.keys import ENVIRONMENT, MasterKeyError, TenantKeys
from opengallery.settings import Settings

TENANTS = [f"tenant-{number}" for number in range(5)]


def data_keys(data: Path, database: Database) -> dict[str, bytes]:
    """Every tenant's data key, as a server that starts now reads them."""
    found = TenantKeys(Settings(data=data), database)
    return {tenant: found.data_key(tenant) for tenant in TENANTS}


def test_the_data_keys_stay_and_the_old_master_key_opens_nothing(database: Database, tmp_path: Path) -> None:
    before = data_keys(tmp_path, database)
    old = (tmp_path / "master.key").read_text()
    done = rotate(tmp_path, database)
    assert done.tenants == len(TENANTS)
    assert (tmp_path / "master.key").read_text() != old
    assert stat.S_IMODE((tmp_path / "master.key").stat().st_mode) == 0o600
    assert not (tmp_path / "master.key.next").exists()
    assert data_keys(tmp_path, database) == before
    (tmp_path / "master.key").write_text(old)
    with pytest.raises(MasterKeyError):
        data_keys(tmp_path, database)


def test_a_server_that_runs_meanwhile_goes_on(database: Database, tmp_path: Path) -> None:
    running = TenantKeys(Settings(data=tmp_path), database)
    first = running.data_key("early")
    rotate(tmp_path, database)
    late = running.data_key("late")
    unseen = TenantKeys(Settings(data=tmp_path), database)
    assert (unseen.data_key("early"), unseen.data_key("late")) == (first, late)


def test_rotations_and_new_tenants_race_and_nothing_is_lost(database: Database, tmp_path: Path) -> None:
    running = TenantKeys(Settings(data=tmp_path), database)
    found: dict[str, bytes] = {}

    def make(first: int) -> None:
        for number in range(first, first + 10):
            found[f"new-{number}"] = running.data_key(f"new-{number}")

    threads = [threading.Thread(target=make, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        rotate(tmp_path, database)
    for thread in threads:
        thread.join()
    later = TenantKeys(Settings(data=tmp_path), database)
    assert len(found) == 30
    assert {tenant: later.data_key(tenant) for tenant in found} == found


@pytest.mark.parametrize("step", ["_write_next", "_wrap_anew", "_take_place"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_rotation_killed_at_any_step_leaves_a_usable_gallery(tmp_path: Path, step: str, when: str) -> None:
    url = f"sqlite:///{tmp_path / 'gallery.sqlite'}"
    database = Database(url)
    with database.write() as connection:
        metadata.create_all(connection)
    before = data_keys(tmp_path, database)
    program = f"""
import os, signal
from pathlib import Path
from opengallery.database import Database
from opengallery.replication import key_rotation
real = key_rotation.{step}
def killed(*arguments):
    if {when == "after"}:
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
key_rotation.{step} = killed
key_rotation.rotate(Path({str(tmp_path)!r}), Database({url!r}))
"""
    ended = subprocess.run([sys.executable, "-c", program], env=os.environ, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert data_keys(tmp_path, database) == before
    fresh = TenantKeys(Settings(data=tmp_path), database).data_key("after the crash")
    assert rotate(tmp_path, database).tenants == len(TENANTS) + 1
    assert data_keys(tmp_path, database) == before
    assert TenantKeys(Settings(data=tmp_path), database).data_key("after the crash") == fresh
    assert not (tmp_path / "master.key.next").exists()


def test_keys_from_the_environment_are_rotated_to_the_one_that_is_given(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, "ab" * 32)
    before = data_keys(tmp_path, database)
    with pytest.raises(MasterKeyError, match=NEW_ENVIRONMENT):
        rotate(tmp_path, database)
    monkeypatch.setenv(NEW_ENVIRONMENT, "cd" * 32)
    assert rotate(tmp_path, database).tenants == len(TENANTS)
    assert rotate(tmp_path, database).tenants == len(TENANTS)  # done again, it changes nothing
    with pytest.raises(MasterKeyError):
        data_keys(tmp_path, database)
    monkeypatch.setenv(ENVIRONMENT, "cd" * 32)
    assert data_keys(tmp_path, database) == before


def test_a_wrong_master_key_rotates_nothing(database: Database, tmp_path: Path) -> None:
    before = data_keys(tmp_path, database)
    kept = (tmp_path / "master.key").read_text()
    (tmp_path / "master.key").write_text("00" * 32)
    with pytest.raises(MasterKeyError, match="nothing was changed"):
        rotate(tmp_path, database)
    (tmp_path / "master.key").write_text(kept)
    assert data_keys(tmp_path, database) == before
    rotate(tmp_path, database)
    assert data_keys(tmp_path, database) == before


def test_without_a_master_key_nothing_is_made(database: Database, tmp_path: Path) -> None:
    with pytest.raises(MasterKeyError, match=ENVIRONMENT):
        rotate(tmp_path, database)
    assert not (tmp_path / keys.MASTER_FILE).exists()
    assert not (tmp_path / key_rotation.NEXT_FILE).exists()
