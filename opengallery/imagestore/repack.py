"""Repack: write the blocks that are needed of mostly dead packs anew, so that the packs can go.

The packs are marked first, so that no writer relies on them any more; their live blocks go into new
packs, and each manifest that needs them is replaced by one of the same image that needs the new ones.
The old packs are deleted as all others are: by a later run that finds them marked and not needed.
Readers that have an old manifest open read it again when its packs are gone.

Killed at any moment this leaves good manifests, each either old or new, and at worst packs that
nothing needs. The replacement is conditional: an image deleted or repaired meanwhile stays so.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import BLOCK_BYTES, as_list
from opengallery.imagestore.errors import CorruptBlock, ImageNotFound, IndexMismatch, StoreChanged
from opengallery.imagestore.fresh import Fresh
from opengallery.imagestore.index import NOT_HELD
from opengallery.imagestore.layout import MAX_GAP_BYTES, READ_AHEAD_BYTES, FooterChecksums, read_layout
from opengallery.imagestore.lease import Lease
from opengallery.imagestore.manifest import ManifestWriter, manifest_path
from opengallery.imagestore.packs import Footer, open_frame, read_footer, read_frames
from opengallery.imagestore.store import ImageStore
from opengallery.imagestore.writing import ENTRY_MASK, BlockWriter, check_places


@dataclass
class RepackReport:
    """What was done. `kept_bytes` were written to new packs; `images` got a new manifest."""

    packs: int = 0
    kept_bytes: int = 0
    images: int = 0


def repack(
    store: ImageStore, victims: Mapping[str, NDArray[np.bool_]], images: list[str], lease: Lease
) -> RepackReport:
    """Move what `images` need out of the packs `victims`, which are marked, doomed or quarantined.

    `victims` says which entries of each pack are needed. A block that cannot be read is left where it
    is, with its images: `verify` finds them. Raises `CollectRunning`, `StoreUnavailable`.
    """
    report = RepackReport(packs=len(victims))
    report.kept_bytes = copy_live(store, victims, lease.hold)
    for image_id in images:
        lease.hold()
        try:
            report.images += _rewrite(store, image_id, set(victims), lease)
        except (CorruptBlock, ImageNotFound, StoreChanged):
            continue
        except IndexMismatch:
            store.index.discard()
            store.refresh_index()
    return report


def copy_live(
    store: ImageStore, victims: Mapping[str, NDArray[np.bool_]], tick: Callable[[], None] = lambda: None
) -> int:
    """Write these entries of packs that no writer relies on into new packs; return the bytes written.

    What another pack holds is left out, and so is what cannot be read. `tick` is called between reads.
    """
    store.refresh_index()
    home = Fresh(store)
    with BlockWriter(store.objects, store.key, store.index) as writer:
        for pack_id, is_live in victims.items():
            try:
                _copy(store, home, writer, pack_id, is_live, tick)
            except CorruptBlock as error:
                store.quarantine(pack_id, error.reason)
        writer.close()
        return writer.stored_bytes


def _copy(
    store: ImageStore,
    home: Fresh,
    writer: BlockWriter,
    pack_id: str,
    is_live: NDArray[np.bool_],
    tick: Callable[[], None],
) -> None:
    """Write the live blocks of one pack that are held nowhere else; skip frames that are damaged."""
    footer = read_footer(home, pack_id)
    wanted = np.flatnonzero(is_live)
    wanted = wanted[writer.places(footer.digests[wanted]) == NOT_HELD]
    slots: dict[int, list[int]] = {}
    frame_of = footer.frames_of(wanted)
    for frame, entry in zip(frame_of.tolist(), wanted.tolist(), strict=True):
        slots.setdefault(frame, []).append(entry - int(footer.first_entry[frame]))
    for frames in _reads(sorted(slots), footer):
        tick()
        try:
            sealed_frames = read_frames(home, footer, frames[0], frames[-1])
        except CorruptBlock as error:
            store.quarantine(pack_id, error.reason)
            continue
        for frame in frames:
            sealed = sealed_frames[frame - frames[0]]
            digests = as_list(footer.frame_digests(frame))
            try:
                content = open_frame(home, footer, frame, sealed)
            except CorruptBlock as error:
                store.quarantine(pack_id, error.reason)
                continue
            if len(slots[frame]) == len(digests):
                writer.add_sealed(bytes(sealed), digests)
            else:
                blocks = np.frombuffer(content, np.uint8).reshape(-1, BLOCK_BYTES)
                writer.add(blocks[slots[frame]], [digests[slot] for slot in slots[frame]])
    # What lay in two packs does not share a frame.
    writer.end_frame()


def _reads(frames: list[int], footer: Footer) -> Iterator[list[int]]:
    """Group frames that are worth one read."""
    group: list[int] = []
    for frame in frames:
        if group and (
            footer.offsets[frame] - footer.offsets[group[-1] + 1] > MAX_GAP_BYTES
            or footer.offsets[frame + 1] - footer.offsets[group[0]] > READ_AHEAD_BYTES
        ):
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def _rewrite(store: ImageStore, image_id: str, victims: set[str], lease: Lease) -> bool:
    """Replace a manifest by one that needs none of `victims`. False when it stays as it is."""
    path = manifest_path(image_id)
    try:
        version = store.objects.version(path)
    except FileNotFoundError:
        return False
    manifest = store.manifest(image_id)
    numbers = [number for number, pack_id in enumerate(manifest.packs) if pack_id in victims]
    if not numbers:
        return False
    index = store.index
    home = Fresh(store)
    footers = FooterChecksums(home, manifest)
    # Packs that stay keep their numbers in the old manifest; new ones come after them, by the index's.
    pack_ids = dict(enumerate(manifest.packs))
    with ManifestWriter(store.objects, store.key, manifest.size_bytes) as writer:
        for segment in manifest.sections:
            layout = read_layout(home, manifest, segment, footers)
            is_moved = np.isin(layout.pack, numbers)
            places = np.full(len(layout.pack), NOT_HELD, np.int64)
            places[is_moved] = index.lookup(layout.digests[is_moved])
            if (places[is_moved] == NOT_HELD).any():
                return False
            check_places(home, index, places, layout.digests, set())
            packs = places >> 32
            for number in np.unique(packs[is_moved]).tolist():
                pack_ids[len(manifest.packs) + number] = index.pack_id(number)
            writer.add(
                segment,
                np.where(is_moved, len(manifest.packs) + packs, layout.pack),
                np.where(is_moved, places & ENTRY_MASK, layout.entry),
                layout.digests,
            )
            lease.hold()
        new_id = writer.finish({number: pack_ids[number] for number in writer.packs})
        assert new_id == image_id, "the same digests make the same image"
        relied_on = [pack_ids[number] for number in writer.packs]
        if store.unreliable_packs(set(relied_on) - set(manifest.packs)):
            return False
        lease.hold()
        return writer.commit(version) > 0
