"""The lease of a collector: one works at a time, and a dead one is followed soon.

A lease is an object of its own, `collect/leases/<owner>`, that says until when it holds and is renewed
while its owner works. Who finds only leases that are over deletes them, writes its own, and looks
again: of two that come at once, at most one goes on. An owner that was paused notices, because its
renewal replaces its own object only, and that is gone.

The lease saves work; no image depends on it. What a collector that lost it has still in hand does no
harm: it deletes only packs that are doomed for ever, and replaces only the manifest that it has read.
"""

import json
import secrets
import time
from typing import Protocol, Self

from opengallery.imagestore.errors import ImageStoreError
from opengallery.imagestore.objects import Objects

LEASES = "collect/leases/"
LEASE_S = 60.0


class CollectRunning(ImageStoreError):
    """Another collector holds the lease of this store."""


class LeasedStore(Protocol):
    """What a lease needs of its store."""

    name: str
    objects: Objects


class Lease:
    """The right to collect one store, for `LEASE_S` at a time."""

    def __init__(self, store: LeasedStore) -> None:
        """Take the lease. Raises `CollectRunning`."""
        self._store = store
        self._refuse_others()
        self._path = LEASES + secrets.token_hex(16)
        self._renewed_s = time.time()
        store.objects.put(self._path, self._content())
        try:
            self._refuse_others()
            self._version = store.objects.version(self._path)
        except BaseException:
            store.objects.delete(self._path)
            raise

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back."""
        self._store.objects.delete(self._path)

    def hold(self) -> None:
        """Go on holding the lease; call it every few seconds. Raises `CollectRunning` when it is lost."""
        now_s = time.time()
        if abs(now_s - self._renewed_s) < LEASE_S / 6:
            return
        self._renewed_s = now_s
        writer = self._store.objects.writer()
        try:
            writer.write(self._content())
            if not writer.commit(self._path, version=self._version):
                raise CollectRunning(f"Another collector took over store '{self._store.name}'.")
            self._version = self._store.objects.version(self._path)
        except FileNotFoundError:
            raise CollectRunning(f"Another collector took over store '{self._store.name}'.") from None
        finally:
            writer.abort()

    def wait(self, length_s: float) -> None:
        """Sleep for `length_s` and hold the lease meanwhile. Raises `CollectRunning`."""
        until_s = time.monotonic() + length_s
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, LEASE_S / 6))
            self.hold()

    def _content(self) -> bytes:
        return json.dumps({"until_s": self._renewed_s + LEASE_S}).encode()

    def _refuse_others(self) -> None:
        """Delete the leases that are over. Raises `CollectRunning` when another one holds."""
        for found in self._store.objects.list(LEASES):
            if found.path == getattr(self, "_path", None):
                continue
            try:
                left_s = float(json.loads(self._store.objects.get(found.path))["until_s"]) - time.time()
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, TypeError):
                # Damaged: it holds for as long as a lease can.
                left_s = found.modified_s + LEASE_S - time.time()
            if 0 < left_s <= 2 * LEASE_S:
                raise CollectRunning(
                    f"Store '{self._store.name}' is being collected, or a collector died. "
                    f"Try again in {left_s:.0f} s."
                )
            self._store.objects.delete(found.path)
