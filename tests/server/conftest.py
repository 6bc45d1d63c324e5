"""A real `gallery serve` in a process of its own, and a client that asks it by HTTPS."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .serving import Gallery


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for a server's data, which the server makes. Machines run as another user: not pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def gallery(data: Path) -> Iterator[Gallery]:
    """A server that runs; every process that it started is gone when the test is over."""
    running = Gallery(data)
    running.serve()
    yield running
    running.end()
