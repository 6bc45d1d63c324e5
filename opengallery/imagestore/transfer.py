"""Transfer: bring an image from store to store; only the blocks that are missing move.

The pieces are segments of 256 MiB, each safe to do again: blocks that a piece brought before it was
killed are found in the target's packs. `finish_transfer` writes the manifest last. Both stores have
the same data key, so a frame whose blocks are all missing is copied as it is, after it was checked.
What is damaged in the source does not stop the rest: other siblings have only that left to bring.
"""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from opengallery.imagestore.blocks import BLOCK_BYTES, Digests, as_list, segments_in
from opengallery.imagestore.errors import CorruptBlock, IndexMismatch, StoreChanged, WrongKey
from opengallery.imagestore.index import NOT_HELD
from opengallery.imagestore.layout import FooterChecksums, Layout, neighbours, read_layout
from opengallery.imagestore.manifest import HOLE, Manifest, ManifestWriter
from opengallery.imagestore.packs import GROUP_FRAMES, Footer, open_sealed, read_frames
from opengallery.imagestore.store import ImageStore
from opengallery.imagestore.workers import Worker, workers
from opengallery.imagestore.writing import ENTRY_MASK, BlockWriter, check_places

ATTEMPTS = 3
GROUPS_AHEAD = 4
# Fewer are opened here before worker processes would have started.
FEW_FRAMES = 256


@dataclass(frozen=True)
class Moved:
    """What a transfer moved.

    `moved_bytes`: compressed, read from the source's packs. `saved_bytes`: of blocks that did not
    have to move, holes not counted. `data_bytes`: of all blocks that are no holes. `stored_bytes`:
    written to the target.
    """

    moved_bytes: int = 0
    saved_bytes: int = 0
    data_bytes: int = 0
    stored_bytes: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        """Add up the pieces of an image."""
        return Moved(
            self.moved_bytes + other.moved_bytes,
            self.saved_bytes + other.saved_bytes,
            self.data_bytes + other.data_bytes,
            self.stored_bytes + other.stored_bytes,
        )


def segments(source: ImageStore, image_id: str) -> int:
    """Return how many pieces the image has. Raises `ImageNotFound`."""
    return segments_in(source.manifest(image_id).size_bytes)


def transfer(
    source: ImageStore,
    target: ImageStore,
    image_id: str,
    progress: Callable[[Moved], None] | None = None,
) -> Moved:
    """Bring a whole image; `progress` gets what has moved so far."""
    total = Moved()
    for segment in range(segments(source, image_id)):
        before = total

        def report(piece: Moved, before: Moved = before) -> None:
            if progress is not None:
                progress(before + piece)

        total += transfer_segment(source, target, image_id, segment, report)
    return total + finish_transfer(source, target, image_id)


def transfer_segment(
    source: ImageStore,
    target: ImageStore,
    image_id: str,
    segment: int,
    progress: Callable[[Moved], None] | None = None,
) -> Moved:
    """Bring what one segment needs, durably; `progress` gets what this piece has moved so far.

    In it `data_bytes` grows from what was there already to the data of the segment.

    Raises `ImageNotFound`, `StoreUnavailable`, and `CorruptBlock` of the source when everything that is good
    there was brought: take another sibling for the rest.
    """
    _check_keys(source, target)
    manifest = source.manifest(image_id)
    if segment not in manifest.sections:
        return Moved()
    footers = FooterChecksums(source, manifest)
    layout = read_layout(source, manifest, segment, footers)
    for attempt in range(1, ATTEMPTS + 1):
        target.refresh_index()
        try:
            return _move(source, target, footers, layout, progress)
        except StoreChanged:
            # A writer that stood still for long finds its unfinished files swept away.
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("the last attempt returns or raises")


def finish_transfer(source: ImageStore, target: ImageStore, image_id: str) -> Moved:
    """Write the image's manifest in the target, after checking that every block is there.

    Brings what went missing since its segment was transferred. Raises as `transfer_segment` does.
    """
    _check_keys(source, target)
    manifest = source.manifest(image_id)
    footers = FooterChecksums(source, manifest)
    changed = StoreChanged(f"Store '{target.name}' changed under {ATTEMPTS} attempts to finish a transfer.")
    for _ in range(ATTEMPTS):
        try:
            target.refresh_index()
            return _write_manifest(source, target, manifest, footers)
        except IndexMismatch as error:
            target.index.discard()
            changed.__cause__ = error
        except CorruptBlock as error:
            if error.store != target.name or not error.pack:
                raise
            target.quarantine(error.pack, error.reason)
            changed.__cause__ = error
        except StoreChanged as error:
            changed.__cause__ = error
    raise changed


def _write_manifest(
    source: ImageStore, target: ImageStore, manifest: Manifest, footers: FooterChecksums
) -> Moved:
    total = Moved()
    with ManifestWriter(target.objects, target.key, manifest.size_bytes) as writer:
        for segment in manifest.sections:
            layout = read_layout(source, manifest, segment, footers)
            places = _places(target, layout)
            if (places[layout.pack != HOLE] == NOT_HELD).any():
                total += _move(source, target, footers, layout, None)
                places = _places(target, layout)
                if (places[layout.pack != HOLE] == NOT_HELD).any():
                    raise StoreChanged(f"Store '{target.name}' lost blocks that were just written.")
            check_places(target, target.index, places, layout.digests, set())
            writer.add(segment, places >> 32, places & ENTRY_MASK, layout.digests)
        image_id = writer.finish({number: target.index.pack_id(number) for number in writer.packs})
        assert image_id == manifest.image_id, "segments that match their digests make the same image"
        stored_bytes = target.commit_manifest(writer)
    return replace(total, stored_bytes=total.stored_bytes + stored_bytes, data_bytes=0, saved_bytes=0)


def _places(target: ImageStore, layout: Layout) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    places = np.full(len(layout.pack), NOT_HELD, np.int64)
    data = np.flatnonzero(layout.pack != HOLE)
    places[data] = target.index.lookup(layout.digests[data])
    return places


def _move(
    source: ImageStore,
    target: ImageStore,
    footers: FooterChecksums,
    layout: Layout,
    progress: Callable[[Moved], None] | None,
) -> Moved:
    """Write the blocks of `layout` that the target's index does not know."""
    data = np.flatnonzero(layout.pack != HOLE)
    with BlockWriter(target.objects, target.key, target.index) as writer:
        missing = _missing_slots(writer, footers, layout, data)
        saved_bytes = BLOCK_BYTES * (len(data) - sum(len(slots) for slots in missing.values()))
        moved = Moved(saved_bytes=saved_bytes, data_bytes=saved_bytes)
        if progress is not None:
            progress(moved)
        if len(missing) > FEW_FRAMES:
            writer.pool.expect_much()
        damage: list[CorruptBlock] = []
        with closing(_opened(source, footers, missing, damage)) as groups:
            for group in groups:
                moved += _write(writer, group, missing)
                if progress is not None:
                    progress(replace(moved, stored_bytes=writer.stored_bytes))
        writer.close()
        if damage:
            raise damage[0]
        return replace(moved, stored_bytes=writer.stored_bytes)


@dataclass(frozen=True)
class _Group:
    """Neighbouring frames of one pack of the source, read and checked; opened when not all is missing."""

    pack: int
    footer: Footer
    is_whole: bool
    sealed: dict[int, bytes]
    opened: dict[int, bytes]


def _opened(
    source: ImageStore,
    footers: FooterChecksums,
    missing: dict[tuple[int, int], list[int]],
    damage: list[CorruptBlock],
) -> Generator[_Group, None, None]:
    """Yield the frames that are needed, with the next ones under way in workers; add what is bad to `damage`."""
    pool = workers()

    def load(worker: Worker, pack: int, frames: list[int], is_whole: bool) -> list[_Group]:
        try:
            return [open_group(worker, pack, frames, is_whole)]
        except CorruptBlock as error:
            if len(frames) == 1:
                damage.append(error)
                return []
        return [group for frame in frames for group in load(worker, pack, [frame], is_whole)]

    def open_group(worker: Worker, pack: int, frames: list[int], is_whole: bool) -> _Group:
        footer = footers.footer(pack)
        found = read_frames(source, footer, frames[0], frames[-1])
        sealed = {frame: found[frame - frames[0]] for frame in frames}
        opened = open_sealed(
            worker, source, [(footer, frame, content) for frame, content in sealed.items()], is_check=is_whole
        )
        return _Group(pack, footer, is_whole, sealed, dict(zip(frames, opened, strict=not is_whole)))

    pending: deque[Future[list[_Group]]] = deque()
    try:
        # Whole frames first, so that they do not cut the others' blocks into small frames.
        for is_whole in (True, False):
            chosen = sorted(
                place
                for place, slots in missing.items()
                if is_whole == (len(slots) == len(footers.footer(place[0]).frame_digests(place[1])))
            )
            for pack, neighbouring in neighbours(chosen, footers):
                for first in range(0, len(neighbouring), GROUP_FRAMES):
                    frames = neighbouring[first : first + GROUP_FRAMES]
                    pending.append(pool.submit(load, pack, frames, is_whole))
                    if len(pending) > GROUPS_AHEAD:
                        yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)


def _write(writer: BlockWriter, group: _Group, missing: dict[tuple[int, int], list[int]]) -> Moved:
    footer = group.footer
    moved_bytes = blocks = 0
    if group.is_whole:
        frames = list(group.sealed)
        counts = [len(footer.frame_digests(frame)) for frame in frames]
        digests = np.concatenate([footer.frame_digests(frame) for frame in frames])
        sealed = b"".join(group.sealed.values())
        writer.add_frames(sealed, [len(content) for content in group.sealed.values()], counts, digests)
        moved_bytes, blocks = len(sealed), len(digests)
    else:
        for frame, content in group.opened.items():
            slots = missing[group.pack, frame]
            digests = footer.frame_digests(frame)[slots]
            writer.add(np.frombuffer(content, np.uint8).reshape(-1, BLOCK_BYTES)[slots], as_list(digests))
            moved_bytes += len(group.sealed[frame])
            blocks += len(slots)
    return Moved(moved_bytes, 0, blocks * BLOCK_BYTES)


def _missing_slots(
    writer: BlockWriter,
    footers: FooterChecksums,
    layout: Layout,
    data: np.ndarray[tuple[int], np.dtype[np.intp]],
) -> dict[tuple[int, int], list[int]]:
    """Return, by the source's (pack, frame), the slots of the blocks that the target lacks, each once."""
    _, first = np.unique((layout.pack[data] << 32) | layout.entry[data], return_index=True)
    blocks = data[first]
    blocks = blocks[writer.places(layout.digests[blocks]) == NOT_HELD]
    wanted: Digests = layout.digests[blocks]
    missing: dict[tuple[int, int], list[int]] = {}
    seen: set[bytes] = set()
    packs, entries = layout.pack[blocks], layout.entry[blocks]
    for pack in np.unique(packs).tolist():
        footer = footers.footer(pack)
        chosen = np.flatnonzero(packs == pack)
        frames = footer.frames_of(entries[chosen])
        slots = entries[chosen] - footer.first_entry[frames]
        for digest, frame, slot in zip(as_list(wanted[chosen]), frames.tolist(), slots.tolist(), strict=True):
            # The source may hold a block twice, after a race of two writers.
            if digest not in seen:
                seen.add(digest)
                missing.setdefault((pack, frame), []).append(slot)
    return missing


def _check_keys(source: ImageStore, target: ImageStore) -> None:
    if source.key != target.key:
        raise WrongKey(
            f"Stores '{source.name}' and '{target.name}' have different data keys. "
            "An image moves between stores of one tenant only."
        )
