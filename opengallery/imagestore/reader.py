"""Reading an image: manifest -> runs -> frames -> bytes, each step checked against the image id.

The image id covers the segments' digests, a segment's digest covers its blocks' digests as the footers
give them, and a block's digest covers its bytes. Nothing that fails a check is given out.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    SEGMENT_BYTES,
    Digests,
)
from opengallery.imagestore.errors import CorruptBlock, ImageNotFound
from opengallery.imagestore.manifest import HOLE, Manifest, read_manifest, read_runs, segment_digest
from opengallery.imagestore.packs import Footer, PackHome, open_frame, read_footer, read_frames

READ_AHEAD_BYTES = 4 << 20
MAX_GAP_BYTES = 32 << 10


@dataclass(frozen=True)
class Layout:
    """One segment: pack (index into the manifest's list, or `HOLE`), entry and digest of each block."""

    pack: NDArray[np.int64]
    entry: NDArray[np.int64]
    digests: Digests


@dataclass(frozen=True)
class Extents:
    """One segment as neighbours: extent i is the blocks starts[i] to starts[i+1] of the segment.

    They lie one after the other in `frame` of `pack`, from `slot` on; pack `HOLE` is zeros.
    """

    starts: list[int]
    pack: list[int]
    frame: list[int]
    slot: list[int]


class FooterChecksums:
    """The footers that an image's segments were checked with: a later read must give the same ones."""

    def __init__(self, home: PackHome, manifest: Manifest) -> None:
        """Nothing is known yet."""
        self._home = home
        self._manifest = manifest
        self._known: dict[int, bytes] = {}
        self._lock = Lock()

    def footer(self, pack: int) -> Footer:
        """Return the footer of the manifest's pack number `pack`. Raises `CorruptBlock`."""
        footer = read_footer(self._home, self._manifest.packs[pack], self._known.get(pack))
        with self._lock:
            known = self._known.setdefault(pack, footer.checksum)
        if known != footer.checksum:
            raise CorruptBlock(self._home.name, footer.pack_id, "", "its footer has changed")
        return footer


def read_layout(home: PackHome, manifest: Manifest, segment: int, footers: FooterChecksums) -> Layout:
    """Return where a segment's blocks lie, checked against the segment's digest."""
    pack, entry = read_runs(home.objects, home.name, home.key, manifest, segment)
    digests = np.zeros((len(pack), DIGEST_BYTES), np.uint8)
    for number in np.unique(pack).tolist():
        if number == HOLE:
            continue
        footer = footers.footer(number)
        blocks = np.flatnonzero(pack == number)
        entries = entry[blocks]
        if entries.max() >= len(footer.digests):
            raise CorruptBlock(home.name, footer.pack_id, "", "the manifest names more blocks than it has")
        digests[blocks] = footer.digests[entries]
    section = manifest.sections.get(segment)
    if section is not None and segment_digest(home.key, digests) != section.digest:
        raise CorruptBlock(
            home.name, "", section.digest.hex(), f"segment {segment} does not match its digest"
        )
    return Layout(pack, entry, digests)


class ImageReader:
    """Random reads of one image. Safe to use from many threads; a `BlockSource` as well."""

    def __init__(self, home: PackHome, manifest: Manifest) -> None:
        """Read the image of `manifest` from `home`."""
        self._home = home
        self._opened = _Opened(home, manifest)
        self.image_id = manifest.image_id
        self.size_bytes = manifest.size_bytes

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held open."""

    def close(self) -> None:
        """Nothing is held open."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes of the image from byte `offset`, fewer only where the image ends.

        Holes read as zeros. Raises `CorruptBlock` (with store, pack, digest) when a block does not
        match its digest: the caller decides whether a sibling replica can serve it.
        """
        if offset < 0 or length < 0:
            raise ValueError("offset and length are not negative")
        opened = self._opened
        try:
            return opened.read(offset, length)
        except (CorruptBlock, ImageNotFound):
            # A repair may have written another manifest since this one was opened.
            home = self._home
            manifest = read_manifest(home.objects, home.name, home.key, self.image_id)
            if manifest.checksum == opened.manifest.checksum:
                raise
            self._opened = _Opened(home, manifest)
            return self._opened.read(offset, length)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what is no hole, in order."""
        return self._opened.extents()


class _Opened:
    """One manifest of the image and what was checked against it."""

    def __init__(self, home: PackHome, manifest: Manifest) -> None:
        self.manifest = manifest
        self._home = home
        self._cache = home.cache
        self._footers = FooterChecksums(home, manifest)
        self._scope = (home.key.check, home.name)

    def read(self, offset: int, length: int) -> bytes:
        end = min(offset + length, self.manifest.size_bytes)
        pieces: list[bytes | memoryview] = []
        while offset < end:
            segment = offset // SEGMENT_BYTES
            stop = min(end, (segment + 1) * SEGMENT_BYTES)
            base = segment * SEGMENT_BYTES
            if segment in self.manifest.sections:
                self._read_segment(segment, offset - base, stop - base, pieces)
            else:
                pieces.append(bytes(stop - offset))
            offset = stop
        return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)

    def extents(self) -> Iterator[tuple[int, int]]:
        for segment in self.manifest.sections:
            extents = self._extents(segment)
            base = segment * SEGMENT_BYTES
            start = None
            for i, pack in enumerate(extents.pack):
                if pack != HOLE and start is None:
                    start = base + extents.starts[i] * BLOCK_BYTES
                elif pack == HOLE and start is not None:
                    yield start, base + extents.starts[i] * BLOCK_BYTES - start
                    start = None
            if start is not None:
                end = min(base + extents.starts[-1] * BLOCK_BYTES, self.manifest.size_bytes)
                yield start, end - start

    def _read_segment(self, segment: int, start: int, stop: int, pieces: list[bytes | memoryview]) -> None:
        extents = self._extents(segment)
        starts = extents.starts
        first = bisect_right(starts, start // BLOCK_BYTES) - 1
        last = first
        while last + 1 < len(extents.pack) and starts[last + 1] * BLOCK_BYTES < stop:
            last += 1
        for begin in range(first, last + 1, 1024):
            end = min(begin + 1024, last + 1)
            frames = self._frames(
                {(extents.pack[i], extents.frame[i]) for i in range(begin, end) if extents.pack[i] != HOLE}
            )
            for i in range(begin, end):
                extent_start = starts[i] * BLOCK_BYTES
                low, high = max(start, extent_start), min(stop, starts[i + 1] * BLOCK_BYTES)
                if extents.pack[i] == HOLE:
                    pieces.append(bytes(high - low))
                else:
                    shift = extents.slot[i] * BLOCK_BYTES - extent_start
                    content = frames[extents.pack[i], extents.frame[i]]
                    pieces.append(memoryview(content)[low + shift : high + shift])

    def _frames(self, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return decompressed frames: those in the cache, and the others in few reads."""
        found: dict[tuple[int, int], bytes] = {}
        missing: list[tuple[int, int]] = []
        for place in wanted:
            content = self._cache.get((*self._scope, self.manifest.packs[place[0]], place[1]))
            if content is None:
                missing.append(place)
            else:
                found[place] = content
        missing.sort()
        for pack, frames in neighbours(missing, self._footers):
            footer = self._footers.footer(pack)
            for frame, sealed in zip(
                range(frames[0], frames[-1] + 1),
                read_frames(self._home, footer, frames[0], frames[-1]),
                strict=True,
            ):
                if frame in frames:
                    content = open_frame(self._home, footer, frame, sealed)
                    self._cache.put((*self._scope, footer.pack_id, frame), content, len(content) + 200)
                    found[pack, frame] = content
        return found

    def _extents(self, segment: int) -> Extents:
        key = (*self._scope, self.manifest.checksum, "segment", segment)
        found = self._cache.get(key)
        if isinstance(found, Extents):
            return found
        layout = read_layout(self._home, self.manifest, segment, self._footers)
        frame = np.zeros(len(layout.pack), np.int64)
        slot = np.zeros(len(layout.pack), np.int64)
        for number in np.unique(layout.pack).tolist():
            if number != HOLE:
                footer = self._footers.footer(number)
                blocks = np.flatnonzero(layout.pack == number)
                frame[blocks] = footer.frames_of(layout.entry[blocks])
                slot[blocks] = layout.entry[blocks] - footer.first_entry[frame[blocks]]
        is_hole = layout.pack == HOLE
        is_start = np.ones(len(frame), bool)
        is_start[1:] = (
            (np.diff(layout.pack) != 0) | (np.diff(frame) != 0) | (~is_hole[1:] & (np.diff(slot) != 1))
        )
        first = np.flatnonzero(is_start)
        extents = Extents(
            [*first.tolist(), len(frame)],
            layout.pack[first].tolist(),
            frame[first].tolist(),
            slot[first].tolist(),
        )
        self._cache.put(key, extents, 200 * len(first) + 500)
        return extents


def neighbours(places: list[tuple[int, int]], footers: FooterChecksums) -> Iterator[tuple[int, list[int]]]:
    """Group sorted (pack, frame) so that each group is worth one read: (pack, its wanted frames)."""
    group: list[int] = []
    current = HOLE
    for pack, frame in places:
        if group:
            offsets = footers.footer(current).offsets
            if (
                pack == current
                and offsets[frame] - offsets[group[-1] + 1] <= MAX_GAP_BYTES
                and offsets[frame + 1] - offsets[group[0]] <= READ_AHEAD_BYTES
            ):
                group.append(frame)
                continue
            yield current, group
        current, group = pack, [frame]
    if group:
        yield current, group
