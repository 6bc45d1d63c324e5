"""Fresh: a store's packs as they lie there now, read past the cache that its readers share.

For work that asks what the store gives today, or goes through all of it and would push everything
else out of the cache.
"""

from opengallery.imagestore.cache import FrameCache
from opengallery.imagestore.keys import DataKey
from opengallery.imagestore.objects import Objects
from opengallery.imagestore.packs import PackHome

FOOTER_CACHE_BYTES = 64 << 20


class Fresh:
    """The store of `home`, with a small cache of its own for footers."""

    def __init__(self, home: PackHome) -> None:
        """Begin with an empty cache."""
        self.name: str = home.name
        self.key: DataKey = home.key
        self.objects: Objects = home.objects
        self.cache = FrameCache(FOOTER_CACHE_BYTES)
