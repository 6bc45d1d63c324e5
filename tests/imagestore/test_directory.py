"""The directory writer: durable before it is acknowledged, and never over what is there."""

import os
import threading
from pathlib import Path

import pytest

from opengallery.imagestore import StoreUnavailable
from opengallery.imagestore.directory import DirectoryObjects


def test_put_never_replaces_unless_told(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    assert objects.put("a/b", b"one")
    assert not objects.put("a/b", b"two")
    assert objects.get("a/b") == b"one"
    assert objects.put("a/b", b"two", replace=True)
    assert objects.get("a/b") == b"two"
    assert not list((tmp_path / "temporary").iterdir())


def test_an_object_is_synced_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, link = os.fsync, os.link

    def record_fsync(file: int) -> None:
        calls.append(("fsync", str(Path(f"/proc/self/fd/{file}").readlink())))
        fsync(file)

    def record_link(source: Path, target: Path) -> None:
        calls.append(("link", str(target)))
        link(source, target)

    objects = DirectoryObjects(tmp_path)
    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "link", record_link)
    objects.put("packs/ab/one", b"content")
    kinds = [
        (kind, Path(path).relative_to(tmp_path).parts[0] if path != str(tmp_path) else "")
        for kind, path in calls
    ]
    assert kinds == [
        ("fsync", "temporary"),  # the content
        ("fsync", ""),  # the name of packs/
        ("fsync", "packs"),  # the name of packs/ab/
        ("link", "packs"),
        ("fsync", "packs"),  # the name of the object
    ]
    assert calls[-1][1] == str(tmp_path / "packs/ab")


def test_of_many_racing_writers_one_wins(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    won: list[bytes] = []

    def put(content: bytes) -> None:
        if objects.put("race", content):
            won.append(content)

    racers = [threading.Thread(target=put, args=(bytes([number]) * 1000,)) for number in range(16)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert won == [objects.get("race")]


def test_ranges_and_tails_end_where_the_object_ends(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put("a", b"0123456789")
    assert objects.range("a", 3, 4) == b"3456"
    assert objects.range("a", 8, 40) == b"89"
    assert objects.tail("a", 3) == (b"789", 10)
    assert objects.tail("a", 30) == (b"0123456789", 10)
    with pytest.raises(FileNotFoundError):
        objects.range("b", 0, 1)


def test_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path / "store")
    objects.put("packs/ab/one", b"x")
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store/packs/ab").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store/packs/ab/one").stat().st_mode & 0o777 == 0o600


def test_a_list_that_fails_is_not_taken_for_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = DirectoryObjects(tmp_path)
    objects.put("manifests/ab/one", b"x")
    scandir = os.scandir

    def failing(path: str) -> object:
        if str(path).endswith("/ab"):
            raise OSError(5, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(StoreUnavailable, match="Input/output error"):
        list(objects.list("manifests/"))
    assert list(objects.list("nothing/")) == []


def test_a_disk_that_refuses_says_what_to_do(tmp_path: Path) -> None:
    objects = DirectoryObjects(tmp_path)
    (tmp_path / "temporary").rmdir()
    with pytest.raises(StoreUnavailable, match="Check that directory"):
        objects.put("a", b"x")
