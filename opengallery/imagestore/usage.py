"""Usage: which blocks of which pack the images need, and what that means in bytes.

`survey` is for `collect`, which looks for packs that are mostly dead; `usage` is for people. Both go
through the packs some at a time, so that memory does not grow with the store.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import BLOCK_BYTES
from opengallery.imagestore.errors import CorruptBlock, ImageNotFound
from opengallery.imagestore.fresh import Fresh
from opengallery.imagestore.manifest import HOLE, Manifest, read_runs
from opengallery.imagestore.packs import read_footer
from opengallery.imagestore.store import ImageStore

PACKS_AT_ONCE = 1024
NOBODY = -1
SEVERAL = -2


@dataclass(frozen=True)
class PackUsage:
    """One pack: who needs each entry (`NOBODY`, `SEVERAL` or one image's number), and what it takes."""

    pack_id: str
    users: NDArray[np.int32]
    entry_bytes: NDArray[np.float64]

    @property
    def is_live(self) -> NDArray[np.bool_]:
        """Which entries some image needs."""
        return np.not_equal(self.users, NOBODY)

    @property
    def live_share(self) -> float:
        """How much of the pack's frames is needed, 0 to 1."""
        return float(self.entry_bytes[self.is_live].sum() / max(self.entry_bytes.sum(), 1.0))


@dataclass
class ImageUsage:
    """One image. Bytes, but `ratio`: its data over its share of what is stored.

    `data_bytes` are those of blocks that are no holes, `stored_bytes` what the frames that it needs
    take (shared or not) and its manifest, `freed_bytes` what deleting it frees once collect has run.
    """

    image_id: str
    size_bytes: int
    data_bytes: int
    stored_bytes: int
    freed_bytes: int

    @property
    def ratio(self) -> float:
        """How many bytes of data one stored byte stands for."""
        return self.data_bytes / self.stored_bytes if self.stored_bytes else 0.0


@dataclass
class StoreUsage:
    """A prefix of a store, in bytes.

    `logical_bytes`: the sizes of all images. `data_bytes`: of their blocks that are no holes.
    `unique_bytes`: of blocks that are needed, each counted once where it lies. `stored_bytes`: packs
    and manifests. `dead_bytes`: the part of the packs that nothing needs. `unreadable` are images
    whose manifest is damaged.
    """

    logical_bytes: int = 0
    data_bytes: int = 0
    unique_bytes: int = 0
    stored_bytes: int = 0
    dead_bytes: int = 0
    images: list[ImageUsage] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def usage(store: ImageStore) -> StoreUsage:
    """Count what the prefix holds, image by image. Reads every manifest, and the footer of every pack."""
    total = StoreUsage()
    manifests: list[Manifest] = []
    for image_id in sorted(store.images()):
        try:
            manifests.append(store.manifest(image_id))
        except ImageNotFound:
            continue
        except CorruptBlock:
            total.unreadable.append(image_id)
    sizes = pack_sizes(store)
    total.stored_bytes = sum(sizes.values()) + sum(
        found.size_bytes for found in store.objects.list("manifests/")
    )
    freed = np.zeros(len(manifests))
    stored = np.zeros(len(manifests))
    live_bytes = 0.0
    for pack in survey(store, manifests, sizes, stored):
        is_live = pack.is_live
        total.unique_bytes += int(is_live.sum()) * BLOCK_BYTES
        live_bytes += float(pack.entry_bytes[is_live].sum())
        alone = pack.users >= 0
        np.add.at(freed, pack.users[alone], pack.entry_bytes[alone])
    total.dead_bytes = max(0, sum(sizes.values()) - round(live_bytes))
    for number, manifest in enumerate(manifests):
        total.logical_bytes += manifest.size_bytes
        total.data_bytes += manifest.data_blocks * BLOCK_BYTES
        total.images.append(
            ImageUsage(
                manifest.image_id,
                manifest.size_bytes,
                manifest.data_blocks * BLOCK_BYTES,
                round(stored[number]) + manifest.stored_bytes,
                round(freed[number]) + manifest.stored_bytes,
            )
        )
    return total


def pack_sizes(store: ImageStore) -> dict[str, int]:
    """Return the size in bytes of every pack that is there."""
    return {found.path.rsplit("/", 1)[1]: found.size_bytes for found in store.objects.list("packs/")}


def survey(
    store: ImageStore,
    manifests: list[Manifest],
    pack_ids: Iterable[str],
    stored: NDArray[np.float64] | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[PackUsage]:
    """Yield how the images of `manifests` use each of these packs, by their numbers in that list.

    `stored`, when given, gets what the entries that each image needs take, added up; `tick` is called
    between pieces of work. Packs whose footer is damaged are left out, and so are those of an image
    with a damaged segment: what it needs is not known.
    """
    home = Fresh(store)
    waiting = list(pack_ids)
    for start in range(0, len(waiting), PACKS_AT_ONCE):
        packs: dict[str, PackUsage] = {}
        for pack_id in waiting[start : start + PACKS_AT_ONCE]:
            tick()
            with suppress(CorruptBlock):
                footer = read_footer(home, pack_id)
                blocks = np.diff(footer.first_entry)
                entry_bytes = np.repeat(np.diff(footer.offsets) / blocks, blocks)
                packs[pack_id] = PackUsage(pack_id, np.full(len(entry_bytes), NOBODY, np.int32), entry_bytes)
        for number, manifest in enumerate(manifests):
            tick()
            try:
                needed = _needed(store, manifest, packs)
            except ImageNotFound:
                continue
            except CorruptBlock:
                for pack_id in manifest.packs:
                    packs.pop(pack_id, None)
                continue
            for pack_id, is_needed in needed.items():
                pack = packs[pack_id]
                pack.users[is_needed] = np.where(pack.users[is_needed] == NOBODY, number, SEVERAL)
                if stored is not None:
                    stored[number] += pack.entry_bytes[is_needed].sum()
        yield from packs.values()


def _needed(
    store: ImageStore, manifest: Manifest, packs: dict[str, PackUsage]
) -> dict[str, NDArray[np.bool_]]:
    """Return which entries of those of its packs that are in `packs` an image needs."""
    needed = {
        pack_id: np.zeros(len(packs[pack_id].users), bool) for pack_id in manifest.packs if pack_id in packs
    }
    if not needed:
        return {}
    for segment in manifest.sections:
        pack, entry = read_runs(store.objects, store.name, store.key, manifest, segment)
        for number in np.unique(pack).tolist():
            if number == HOLE or manifest.packs[number] not in needed:
                continue
            is_needed = needed[manifest.packs[number]]
            entries = entry[pack == number]
            if entries.max() >= len(is_needed):
                raise CorruptBlock(
                    store.name, manifest.packs[number], "", "the manifest names more blocks than it has"
                )
            is_needed[entries] = True
    return needed
