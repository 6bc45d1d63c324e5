"""The images that one replica server reads: stores and readers opened when they are first asked for.

All of them share one bounded cache of decompressed frames. New stores and tenants come in while it runs.
"""

import threading
from collections import Counter, OrderedDict
from pathlib import Path

from opengallery.imagestore import CorruptBlock, FrameCache, ImageNotFound, ImageReader, ImageStore
from opengallery.replication.places import StorePlaces, open_store
from opengallery.settings import StoreSettings

READERS = 256


class UnknownReplica(Exception):
    """The path names a store, a tenant or an image that is not here."""


class UnreadableReplica(Exception):
    """The replica can't give these bytes now: another one can."""


class Images:
    """Reads of all images in some stores. Safe to use from many threads."""

    def __init__(self, index: Path, cache_bytes: int) -> None:
        """Know no store yet; `index` is the folder of the stores' derived indexes."""
        self._index = index
        self._cache = FrameCache(cache_bytes)
        self._places: dict[str, StoreSettings] = {}
        self._keys: dict[str, bytes] = {}
        self._stores: dict[tuple[str, str], ImageStore] = {}
        self._readers: OrderedDict[tuple[str, str, str], ImageReader] = OrderedDict()
        self._lock = threading.Lock()
        self.corrupt: Counter[tuple[str, str, str]] = Counter()

    def learn(self, places: StorePlaces) -> None:
        """Serve these stores and tenants from now on. What is known already stays open."""
        with self._lock:
            self._places.update({place.name: place for place in places.stores})
            self._keys.update(places.keys)

    def size_bytes(self, store: str, tenant_id: str, image_id: str) -> int:
        """The size of an image. Raises `UnknownReplica`, `UnreadableReplica`."""
        return self._reader(store, tenant_id, image_id).size_bytes

    def read(self, store: str, tenant_id: str, image_id: str, offset: int, length: int) -> bytes:
        """`length` checked bytes from byte `offset`. Raises `UnknownReplica`, `UnreadableReplica`.

        A block that is corrupt or missing is counted in `corrupt`; a reader that failed is not used
        again, so that a repaired replica is seen at the next read.
        """
        reader = self._reader(store, tenant_id, image_id)
        try:
            content = reader.read(offset, length)
        except CorruptBlock as error:
            self._forget(store, tenant_id, image_id, is_corrupt=True)
            raise UnreadableReplica(str(error)) from error
        except Exception as error:
            self._forget(store, tenant_id, image_id)
            raise UnreadableReplica(f"{type(error).__name__}: {error}") from error
        if len(content) != length:
            self._forget(store, tenant_id, image_id, is_corrupt=True)
            raise UnreadableReplica(f"{len(content)} bytes came for {length}.")
        return content

    def _reader(self, store: str, tenant_id: str, image_id: str) -> ImageReader:
        name = (store, tenant_id, image_id)
        with self._lock:
            if name in self._readers:
                self._readers.move_to_end(name)
                return self._readers[name]
            opened = self._store(store, tenant_id)
        try:
            reader = opened.open(image_id)
        except ImageNotFound as error:
            raise UnknownReplica(str(error)) from error
        except CorruptBlock as error:
            self._forget(store, tenant_id, image_id, is_corrupt=True)
            raise UnreadableReplica(str(error)) from error
        except Exception as error:
            raise UnreadableReplica(f"{type(error).__name__}: {error}") from error
        with self._lock:
            self._readers[name] = reader
            while len(self._readers) > READERS:
                self._readers.popitem(last=False)
        return reader

    def _store(self, store: str, tenant_id: str) -> ImageStore:
        place, key = self._places.get(store), self._keys.get(tenant_id)
        if place is None or key is None:
            raise UnknownReplica(f"No store '{store}' with tenant '{tenant_id}' is served here.")
        if (store, tenant_id) not in self._stores:
            self._stores[store, tenant_id] = open_store(place, tenant_id, key, self._index, self._cache)
        return self._stores[store, tenant_id]

    def _forget(self, store: str, tenant_id: str, image_id: str, is_corrupt: bool = False) -> None:
        with self._lock:
            self._readers.pop((store, tenant_id, image_id), None)
            if is_corrupt:
                self.corrupt[store, tenant_id, image_id] += 1
