"""A stand-in for ARM, and the `gallery` command that is led to it."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from opengallery.cli.main import main

from .stand_in import CLIENT, SECRET, SUBSCRIPTION, TENANT, StandIn


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


Gallery = Callable[..., Outcome]


@pytest.fixture
def arm() -> Iterator[StandIn]:
    """A stand-in with the resource group `rg` in West Central US."""
    stand_in = StandIn()
    stand_in.add(f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg", {"location": "westcentralus"})
    yield stand_in
    stand_in.close()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the caller's own environment that the command reads."""
    for name in list(os.environ):
        if name.startswith(("AZURE_", "GALLERY_", "REQUESTS_", "SSL_CERT")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_CONFIG_DIR", str(tmp_path / "azure"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def gallery(
    arm: StandIn,
    environment: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Gallery:
    """Run the command, led to the stand-in as `gallery env` would."""
    monkeypatch.setenv("GALLERY_ENDPOINT", arm.url)
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", SUBSCRIPTION)

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gallery", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run
