"""Layouts: where the blocks of a segment lie, checked against the image id, and which reads that takes."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import BLOCK_BYTES, DIGEST_BYTES, Digests
from opengallery.imagestore.errors import CorruptBlock
from opengallery.imagestore.manifest import HOLE, Manifest, read_runs, segment_digest
from opengallery.imagestore.packs import Footer, PackHome, read_footer

READ_AHEAD_BYTES = 4 << 20
MAX_GAP_BYTES = 32 << 10
# A footer costs a round trip, and an image that was often changed needs dozens; each may take 640 KiB.
FOOTERS_AT_ONCE = 8


@dataclass(frozen=True)
class Layout:
    """One segment: pack (index into the manifest's list, or `HOLE`), entry and digest of each block."""

    pack: NDArray[np.int64]
    entry: NDArray[np.int64]
    digests: Digests


Place = tuple[int, int]


@dataclass(frozen=True)
class Extents:
    """One segment as neighbours: extent i is the blocks starts[i] to starts[i+1] of the segment.

    They lie one after the other in the frame places[i] (pack, frame), from byte begins[i] on; None is zeros.
    """

    starts: list[int]
    places: list[Place | None]
    begins: list[int]

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """Return the first and the last extent that bytes `start` to `stop` of the segment touch."""
        first = bisect_right(self.starts, start // BLOCK_BYTES) - 1
        last = bisect_left(self.starts, -(-stop // BLOCK_BYTES), hi=len(self.places)) - 1
        return first, max(first, last)

    def frames(self, start: int, stop: int) -> set[Place]:
        """Return the (pack, frame) that bytes `start` to `stop` of the segment need."""
        first, last = self.between(start, stop)
        return {place for place in self.places[first : last + 1] if place is not None}


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

    def footers(self, packs: list[int]) -> Iterator[Footer]:
        """Yield the footers of several packs, in order, some read at the same time. Raises `CorruptBlock`."""
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as readers:
            for first in range(0, len(packs), FOOTERS_AT_ONCE):
                yield from readers.map(self.footer, packs[first : first + FOOTERS_AT_ONCE])


def read_layout(home: PackHome, manifest: Manifest, segment: int, footers: FooterChecksums) -> Layout:
    """Return where a segment's blocks lie, checked against the segment's digest."""
    pack, entry = read_runs(home.objects, home.name, home.key, manifest, segment)
    digests = np.zeros((len(pack), DIGEST_BYTES), np.uint8)
    numbers = [number for number in np.unique(pack).tolist() if number != HOLE]
    for number, footer in zip(numbers, footers.footers(numbers), strict=True):
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


def neighbours(places: list[tuple[int, int]], footers: FooterChecksums) -> Iterator[tuple[int, list[int]]]:
    """Group sorted (pack, frame) so that each group is worth one read: (pack, its wanted frames)."""
    group: list[int] = []
    current = HOLE
    offsets = np.zeros(0, np.int64)
    for pack, frame in places:
        if pack == current and (
            offsets[frame] - offsets[group[-1] + 1] <= MAX_GAP_BYTES
            and offsets[frame + 1] - offsets[group[0]] <= READ_AHEAD_BYTES
        ):
            group.append(frame)
            continue
        if group:
            yield current, group
        if pack != current:
            current, offsets = pack, footers.footer(pack).offsets
        group = [frame]
    if group:
        yield current, group
