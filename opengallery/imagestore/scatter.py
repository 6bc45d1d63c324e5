"""Scatter: when an image's blocks lie in frames that are mostly of other images, write them anew.

An image that is changed in place version after version uses less and less of its older frames, but a
reader has to open each of them as a whole. A put counts what it uses of each frame; when reading the image
through would open clearly more than it needs, the blocks of the frames with the least use move into new ones,
a few with each version. Waiting until much is lost would cost more: changes here and there wear all frames
alike, and then none is cheap to leave.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.packs import Footer

# Blocks that may be opened for a block that is needed; and so much is not worth a thought.
MAX_OPENED: Final = 1.1
MIN_WASTE_BLOCKS: Final = 4096
# A frame stays when more of it is used; and so many blocks may move for each that is new.
MAX_SHARE: Final = 0.75
MOVES_A_NEW_BLOCK: Final = 1


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
            leaving = np.flatnonzero((used > 0) & (used < sizes * MAX_SHARE))
            leaving = leaving[np.argsort(used[leaving] / sizes[leaving], kind="stable")]
            is_affordable = np.cumsum(used[leaving]) <= MOVES_A_NEW_BLOCK * own_blocks
            saved_before = np.cumsum((sizes - used)[leaving]) - (sizes - used)[leaving]
            is_gone[leaving[is_affordable & (saved_before < waste)]] = True
        ends = np.cumsum([len(use.sizes) for use in self._packs.values()])[:-1]
        parts = np.split(is_gone, ends)
        return {pack: part for pack, part in zip(self._packs, parts, strict=True) if part.any()}
