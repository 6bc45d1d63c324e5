"""What the workflows work on, and whose turn it is to move bytes.

At most `MOVING_AT_ONCE` steps move bytes, and one a store writes: two would store the blocks that
they have in common twice.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opengallery.database import Database
from opengallery.imagestore import ImageStoreError, UnusableImage
from opengallery.replication.stores import Stores, UnknownStore
from opengallery.settings import SettingsError

MOVING_AT_ONCE = 3


class ReplicaFailed(Exception):
    """A replica can't be made; the message says why. (DBOS keeps it by pickle: one text, no more.)"""


class Closing(BaseException):
    """The server ends. No Exception, so that DBOS records nothing and does the step again next time."""


@dataclass(frozen=True)
class Runtime:
    """What the steps work on."""

    database: Database
    stores: Stores


_runtime: Runtime | None = None
_closing = threading.Event()
_moving = threading.BoundedSemaphore(MOVING_AT_ONCE)
_writing: dict[str, threading.Lock] = {}


def bind(database: Database, stores: Stores) -> None:
    """Give the steps what they work on; before `DBOS.launch`, which takes up unfinished work."""
    global _runtime
    _runtime = Runtime(database, stores)
    _closing.clear()


def close() -> None:
    """Let every running step end within moments; the next start does them again. Before `DBOS.destroy`."""
    _closing.set()


def runtime() -> Runtime:
    """What `bind` gave."""
    assert _runtime is not None, "opengallery.replication.workflows.bind was not called"
    return _runtime


@contextmanager
def translated() -> Iterator[None]:
    """Errors of stores become `ReplicaFailed`; an image that can't be used stays what it is."""
    try:
        yield
    except UnusableImage:
        raise
    except (ImageStoreError, OSError, SettingsError, UnknownStore) as error:
        raise ReplicaFailed(str(error)) from error


@contextmanager
def moving_bytes(store: str) -> Iterator[None]:
    """Wait for one's turn to write into `store`."""
    with _writing.setdefault(store, threading.Lock()), _moving, translated():
        stop_if_closing()
        yield


@contextmanager
def reading_bytes() -> Iterator[None]:
    """Wait for one's turn to read a store through."""
    with _moving, translated():
        stop_if_closing()
        yield


def stop_if_closing() -> None:
    """Raise `Closing` when the server ends."""
    if _closing.is_set():
        raise Closing
