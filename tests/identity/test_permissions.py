"""The data folder: what others could read or change is taken from them when a server starts."""

import os
from pathlib import Path

import pytest

from opengallery.identity.permissions import TooOpen, tighten


def made(data: Path, name: str, mode: int) -> Path:
    path = data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("secret")
    path.chmod(mode)
    return path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    (data / "identity").mkdir(parents=True, mode=0o700)
    data.chmod(0o700)
    return data


def test_a_tidy_folder_stays_as_it_is(data: Path) -> None:
    made(data, "master.key", 0o600)
    made(data, "identity/ca.pem", 0o644)
    assert tighten(data) == []
    assert mode(data / "identity/ca.pem") == 0o644


@pytest.mark.parametrize(
    "name",
    [
        "master.key",
        "console.key",
        "gallery.sqlite",
        "gallery.sqlite-wal",
        "gallery.sqlite-shm",
        "opengallery.toml",
        "identity/token-keys.json",
        "identity/ca-key.pem",
        "identity/administrator.json",
        "identity/.token-keys.json.0123456789abcdef",
    ],
)
def test_a_secret_that_others_can_read_is_theirs_no_more(data: Path, name: str) -> None:
    for loose in (0o644, 0o640, 0o660, 0o666):
        path = made(data, name, loose)
        assert tighten(data) == [path]
        assert mode(path) == 0o600


def test_others_can_not_change_whom_clients_trust(data: Path) -> None:
    path = made(data, "identity/ca-bundle.pem", 0o666)
    assert tighten(data) == [path]
    assert mode(path) == 0o644


def test_folders_can_be_passed_through_but_not_listed(data: Path) -> None:
    (data / "machines").mkdir()
    for loose, tight in ((0o755, 0o711), (0o777, 0o711), (0o711, 0o711), (0o750, 0o710)):
        for folder in (data, data / "machines"):
            folder.chmod(loose)
        tighten(data)
        assert mode(data) == mode(data / "machines") == tight


def test_nobody_enters_the_folder_of_keys(data: Path) -> None:
    (data / "identity").chmod(0o711)
    assert tighten(data) == [data / "identity"]
    assert mode(data / "identity") == 0o700


def test_a_link_is_not_followed(data: Path, tmp_path: Path) -> None:
    elsewhere = made(tmp_path, "elsewhere", 0o644)
    (data / "link").symlink_to(elsewhere)
    (data / "gone").symlink_to(tmp_path / "nowhere")
    assert tighten(data) == []
    assert mode(elsewhere) == 0o644


def test_what_can_not_be_tightened_is_refused_with_what_to_do(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(data, "master.key", 0o644)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(TooOpen, match="chmod go-rwx") as refusal:
        tighten(data)
    assert str(path) in str(refusal.value)
