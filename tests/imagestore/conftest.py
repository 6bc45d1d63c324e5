"""Stores to test with, of each kind: our directory writer, and obstore."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore, MemoryStore

from opengallery.imagestore import DataKey, ImageStore

from .image_sources import KEY


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., ImageStore]:
    """Make a store of a kind ("directory", "memory", "local"); the same name opens the same one."""
    backends: dict[str, Any] = {}

    def make(name: str = "west-01", kind: str = "directory", key: DataKey = KEY) -> ImageStore:
        if name not in backends:
            backends[name] = {
                "directory": lambda: tmp_path / name,
                "memory": MemoryStore,
                "local": lambda: LocalStore(tmp_path / name, mkdir=True),
            }[kind]()
        index_dir = tmp_path / "index" / name
        return ImageStore(backends[name], prefix="tenants/t", key=key, index_dir=index_dir, name=name)

    return make


@pytest.fixture(params=["directory", "memory", "local"])
def store(request: pytest.FixtureRequest, make_store: Callable[..., ImageStore]) -> ImageStore:
    """One empty store of each kind."""
    return make_store("west-01", request.param)


@pytest.fixture
def directory_store(make_store: Callable[..., ImageStore]) -> ImageStore:
    """One empty directory store."""
    return make_store()


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs of 40 blocks, so that small images have many."""
    monkeypatch.setattr("opengallery.imagestore.writing.PACK_BLOCKS", 40)
