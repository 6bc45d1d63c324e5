"""Scatter: when an image's blocks lie in frames that are mostly of other images, write them anew.

An image that is changed in place version after version uses less and less of its older frames, but a
reader has to open each of them as a whole. A put counts what it uses of each frame; when reading the image
through would open much more than it needs, the blocks of the frames with the least use move into new
ones. What a version costs is bounded so: at most as much as the frames lose in use.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.packs import Footer

# Blocks that may be opened for a block that is needed; and so much is not worth a thought.
MAX_OPENED: Final = 1.25
MIN_WASTE_BLOCKS: Final = 4096


@dataclass
class _PackUse:
    sizes: NDArray[np.int64]
    used: NDArray[np.int64]


@dataclass
class FrameUse:
    """How many blocks of which frames an image uses. Packs have the caller's numbers."""

    _packs: dict[int, _PackUse] = field(default_factory=dict)

    def count(self, pack: int, footer: Footer, entries: NDArray[np.int64]) -> None:
        """Note that `entries` of a pack are needed."""
        use = self._packs.get(pack)
        if use is None:
            sizes = np.diff(footer.first_entry)
            use = self._packs[pack] = _PackUse(sizes, np.zeros(len(sizes), np.int64))
        use.used += np.bincount(footer.frames_of(np.unique(entries)), minlength=len(use.sizes))

    def scattered(self, own_blocks: int) -> dict[int, NDArray[np.bool_]]:
        """Return, by pack, which frames should not be used any more; `own_blocks` lie well anyway."""
        if not self._packs:
            return {}
        sizes = np.concatenate([use.sizes for use in self._packs.values()])
        used = np.minimum(np.concatenate([use.used for use in self._packs.values()]), sizes)
        needed = int(used.sum()) + own_blocks
        opened = int(sizes[used > 0].sum()) + own_blocks
        waste = opened - int(needed * MAX_OPENED)
        is_gone = np.zeros(len(sizes), bool)
        if waste >= MIN_WASTE_BLOCKS:
            order = np.argsort(np.where(used > 0, used / sizes, 2.0), kind="stable")
            saved = np.cumsum((sizes - used)[order] * (used[order] > 0))
            is_gone[order[: int(np.searchsorted(saved, waste)) + 1]] = True
        ends = np.cumsum([len(use.sizes) for use in self._packs.values()])[:-1]
        parts = np.split(is_gone & (used > 0), ends)
        return {pack: part for pack, part in zip(self._packs, parts, strict=True) if part.any()}
