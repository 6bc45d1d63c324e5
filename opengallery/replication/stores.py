"""The stores of every region: where they lie, and one tenant's image store in each.

A region in the settings has just the stores it names. Any other region makes directory stores on
demand, `DIR/stores/<region>/<region>-01` up to `-100`, Azure's limit of replicas in a region.
"""

import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from opengallery.database import Database
from opengallery.imagestore import FrameCache, ImageStore
from opengallery.regions import REGIONS
from opengallery.replication.keys import TenantKeys
from opengallery.replication.places import open_store
from opengallery.settings import Settings, SettingsError, StoreSettings

EMBEDDED_CAPACITY = 100
CACHE_BYTES = 64 << 20
EMBEDDED_NAME = re.compile(r"(?P<region>[a-z0-9]+)-(?P<number>\d{2,3})")
STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class UnknownStore(Exception):
    """A replica names a store that the settings no longer have."""

    def __init__(self, name: str) -> None:
        """`name` as the replicas table has it."""
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        """Say what to do."""
        return f"The store '{self.name}' is in no region. Put it back into opengallery.toml."


class Stores:
    """All stores of one server. Safe to use from many threads."""

    def __init__(self, settings: Settings, database: Database, keys: TenantKeys | None = None) -> None:
        """Raises `SettingsError` when two stores share a name, or one lies nowhere."""
        self.data = settings.data
        self.max_size_bytes = settings.images.max_size_bytes
        self.keys = keys or TenantKeys(settings, database)
        self._named = {region: configured.stores for region, configured in settings.regions.items()}
        self._region_of: dict[str, str] = {}
        for region, stores in self._named.items():
            for store in stores:
                self._check(region, store)
                self._region_of[store.name] = region
        self._open: dict[tuple[str, str], ImageStore] = {}
        # One for all stores: memory must not grow with their number.
        self._cache = FrameCache(CACHE_BYTES)
        self._lock = threading.Lock()

    def _check(self, region: str, store: StoreSettings) -> None:
        if not STORE_NAME.fullmatch(store.name):
            raise SettingsError(
                f"Store name '{store.name}' of region '{region}' needs letters, digits, '.', '_' or '-'."
            )
        embedded = EMBEDDED_NAME.fullmatch(store.name)
        if store.name in self._region_of or (embedded and embedded["region"] != region):
            raise SettingsError(f"Store name '{store.name}' is used twice. Give every store its own name.")
        if (store.path is None) == (store.url is None):
            raise SettingsError(f"Store '{store.name}' of region '{region}' needs either a path or a url.")

    def capacity(self, region: str) -> int:
        """How many replicas of one image `region` can hold."""
        return len(self.candidates(region))

    def candidates(self, region: str) -> list[str]:
        """Every store that `region` has or can make, in the order in which they are filled."""
        if named := self._named.get(region):
            return [store.name for store in named]
        return [f"{region}-{number:02}" for number in range(1, EMBEDDED_CAPACITY + 1)]

    def names(self, region: str) -> list[str]:
        """The stores of `region` that are there: named in the settings, or made already."""
        if self._named.get(region):
            return self.candidates(region)
        folder = self.data / "stores" / region
        return [name for name in self.candidates(region) if (folder / name).is_dir()]

    def first(self, region: str) -> str:
        """The store into which bytes come first in `region`."""
        return self.candidates(region)[0]

    def is_named(self, region: str) -> bool:
        """Whether the settings name the stores of `region`, which may lie on different disks then."""
        return bool(self._named.get(region))

    def region_of(self, name: str) -> str:
        """The region of a store. Raises `UnknownStore`."""
        if name in self._region_of:
            return self._region_of[name]
        embedded = EMBEDDED_NAME.fullmatch(name)
        if embedded and name in self.candidates(embedded["region"]):
            return embedded["region"]
        raise UnknownStore(name)

    def place(self, name: str) -> StoreSettings:
        """Where a store lies. Raises `UnknownStore`."""
        region = self.region_of(name)
        for store in self._named.get(region, []):
            if store.name == name:
                return store
        return StoreSettings(name=name, path=str(self.data / "stores" / region / name))

    def parts(self, regions: Iterable[str] | None = None) -> Iterator[tuple[str, str, str]]:
        """Yield (region, store, tenant) of every tenant's part of every store that is there; makes nothing.

        `regions`: only these.
        """
        wanted = list(dict.fromkeys([*self._named, *REGIONS]) if regions is None else regions)
        for tenant_id in self.keys.tenants():
            for region in wanted:
                for name in self.names(region):
                    path = self.place(name).path
                    if path is None or (Path(path) / "tenants" / tenant_id).is_dir():
                        yield region, name, tenant_id

    def open(self, name: str, tenant_id: str) -> ImageStore:
        """The images of one tenant in one store. Raises `UnknownStore`, `SettingsError`."""
        with self._lock:
            if (name, tenant_id) not in self._open:
                key = self.keys.data_key(tenant_id)
                self._open[name, tenant_id] = open_store(
                    self.place(name), tenant_id, key, self.data / "index", self._cache
                )
            return self._open[name, tenant_id]
