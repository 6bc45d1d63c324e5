"""Reading an image: manifest -> runs -> frames -> bytes, each step checked against the image id.

The image id covers the segments' digests, a segment's digest covers its blocks' digests as the footers
give them, and a block's digest covers its bytes. Nothing that fails a check is given out.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Self

import numpy as np

from opengallery.imagestore.blocks import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
)
from opengallery.imagestore.errors import CorruptBlock, ImageNotFound, ImageStoreError
from opengallery.imagestore.layout import Extents, FooterChecksums, Place, neighbours, read_layout
from opengallery.imagestore.manifest import HOLE, Manifest, read_manifest
from opengallery.imagestore.packs import (
    GROUP_FRAMES,
    PackHome,
    open_frame,
    open_sealed,
    read_frames,
)
from opengallery.imagestore.workers import Worker, workers

# A stream that has read so much without a jump is read ahead of, so far.
STREAM_BYTES = 1 << 20
AHEAD_BYTES = 32 << 20
AHEAD_STEP_BYTES = 12 << 20
AHEAD_CACHE_BYTES = 4 * AHEAD_BYTES
MAX_STREAMS = 64
# Fewer frames than that are opened here.
FEW_FRAMES = 6
# So many have their frames in hand at the same time.
EXTENTS_AT_ONCE = 1024


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


@dataclass
class _Stream:
    """Reads that follow each other: how much they have read, and up to where frames are on their way."""

    read_bytes: int
    ahead_to: int


class _Opened:
    """One manifest of the image and what was checked against it."""

    def __init__(self, home: PackHome, manifest: Manifest) -> None:
        self.manifest = manifest
        self._home = home
        self._cache = home.cache
        self._footers = FooterChecksums(home, manifest)
        self._scope = (home.key.check, home.name)
        self._lock = Lock()
        # By where the next read of the stream would begin.
        self._streams: OrderedDict[int, _Stream] = OrderedDict()
        self._under_way: dict[tuple[int, int], Future[dict[tuple[int, int], bytes]]] = {}

    def read(self, offset: int, length: int) -> bytes:
        begin, end = offset, min(offset + length, self.manifest.size_bytes)
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
        self._follow(begin, end)
        return pieces[0] if len(pieces) == 1 and isinstance(pieces[0], bytes) else b"".join(pieces)

    def extents(self) -> Iterator[tuple[int, int]]:
        for segment in self.manifest.sections:
            extents = self._extents(segment)
            base = segment * SEGMENT_BYTES
            start = None
            for block, place in zip(extents.starts, extents.places, strict=False):
                if place is not None and start is None:
                    start = base + block * BLOCK_BYTES
                elif place is None and start is not None:
                    yield start, base + block * BLOCK_BYTES - start
                    start = None
            if start is not None:
                end = min(base + extents.starts[-1] * BLOCK_BYTES, self.manifest.size_bytes)
                yield start, end - start

    def _follow(self, begin: int, end: int) -> None:
        """Note a read; when it goes on where another one ended, have the next frames opened meanwhile."""
        if self._cache.max_bytes < AHEAD_CACHE_BYTES:
            return
        with self._lock:
            stream = self._streams.pop(begin, None) or _Stream(0, end)
            stream.read_bytes += end - begin
            self._streams[end] = stream
            if len(self._streams) > MAX_STREAMS:
                self._streams.popitem(last=False)
            if stream.read_bytes < STREAM_BYTES:
                return
            start = max(stream.ahead_to, end)
            stop = min(end + AHEAD_BYTES, self.manifest.size_bytes)
            if stop - start < AHEAD_STEP_BYTES and stop < self.manifest.size_bytes:
                return
            stream.ahead_to = max(stop, start)
        if stream.read_bytes >= AHEAD_BYTES:
            workers().expect_much()
        with suppress(CorruptBlock, ImageNotFound, ImageStoreError):
            # What is wrong there is told to the read that needs it.
            while start < stop:
                segment = start // SEGMENT_BYTES
                base = segment * SEGMENT_BYTES
                part = min(stop, base + SEGMENT_BYTES)
                if segment in self.manifest.sections:
                    wanted = self._extents(segment).frames(start - base, part - base)
                    self._open_in_workers([place for place in wanted if not self._is_at_hand(place)])
                start = part

    def _read_segment(self, segment: int, start: int, stop: int, pieces: list[bytes | memoryview]) -> None:
        extents = self._extents(segment)
        first, last = extents.between(start, stop)
        for begin in range(first, last + 1, EXTENTS_AT_ONCE):
            chosen = slice(begin, min(begin + EXTENTS_AT_ONCE, last + 1))
            places, starts = extents.places[chosen], extents.starts[begin : chosen.stop + 1]
            frames = self._frames(dict.fromkeys(place for place in places if place is not None))
            contents: dict[Place, bytes | memoryview] = dict(frames)
            if len(places) > 1:
                contents = {place: memoryview(content) for place, content in frames.items()}
            for place, from_byte, low, high in zip(
                places, extents.begins[chosen], starts[:-1], starts[1:], strict=True
            ):
                low_byte, high_byte = low * BLOCK_BYTES, high * BLOCK_BYTES
                if low_byte < start:
                    from_byte, low_byte = from_byte + start - low_byte, start
                length = min(high_byte, stop) - low_byte
                if place is None:
                    pieces.append(bytes(length))
                else:
                    pieces.append(contents[place][from_byte : from_byte + length])

    def _frames(self, wanted: Iterable[Place]) -> dict[Place, bytes]:
        """Return decompressed frames: those in the cache, those under way, and the others in few reads."""
        found: dict[Place, bytes] = {}
        missing: list[Place] = []
        packs, cache = self.manifest.packs, self._cache
        for place in wanted:
            content = cache.get((*self._scope, packs[place[0]], place[1]))
            if content is None and self._under_way:
                content = self._arriving(place)
            if content is None:
                missing.append(place)
            else:
                found[place] = content
        if not missing:
            return found
        missing.sort()
        if len(missing) > FEW_FRAMES:
            for future in self._open_in_workers(missing):
                found.update(future.result())
            return found
        for pack, frames in neighbours(missing, self._footers):
            footer = self._footers.footer(pack)
            sealed = read_frames(self._home, footer, frames[0], frames[-1])
            for frame in frames:
                content = open_frame(self._home, footer, frame, sealed[frame - frames[0]])
                cache.put((*self._scope, footer.pack_id, frame), content, len(content) + 200)
                found[pack, frame] = content
        return found

    def _arriving(self, place: tuple[int, int]) -> bytes | None:
        """Wait for a frame that is under way. None when it is not, or failed: then it is read again."""
        future = self._under_way.get(place)
        if future is None:
            return None
        with suppress(ImageStoreError, CancelledError):
            return future.result()[place]
        return None

    def _is_at_hand(self, place: tuple[int, int]) -> bool:
        key = (*self._scope, self.manifest.packs[place[0]], place[1])
        return place in self._under_way or self._cache.get(key) is not None

    def _open_in_workers(
        self, places: Iterable[tuple[int, int]]
    ) -> list[Future[dict[tuple[int, int], bytes]]]:
        """Have frames opened and put into the cache, some neighbours at a time."""
        batches: list[list[tuple[int, list[int]]]] = [[]]
        room = GROUP_FRAMES
        for pack, frames in neighbours(sorted(places), self._footers):
            first = 0
            while first < len(frames):
                group = frames[first : first + room]
                batches[-1].append((pack, group))
                first += len(group)
                room -= len(group)
                if not room:
                    batches.append([])
                    room = GROUP_FRAMES
        futures = []
        for batch in batches:
            if batch:
                future = workers().submit(self._open_batch, batch)
                members = [(pack, frame) for pack, group in batch for frame in group]
                with self._lock:
                    self._under_way.update(dict.fromkeys(members, future))
                future.add_done_callback(partial(self._arrived, members))
                futures.append(future)
        return futures

    def _arrived(self, members: list[tuple[int, int]], _: object) -> None:
        with self._lock:
            for place in members:
                self._under_way.pop(place, None)

    def _open_batch(self, worker: Worker, batch: list[tuple[int, list[int]]]) -> dict[tuple[int, int], bytes]:
        """Open some groups of neighbouring frames."""
        sealed = []
        for pack, group in batch:
            footer = self._footers.footer(pack)
            found = read_frames(self._home, footer, group[0], group[-1])
            sealed += [(footer, frame, found[frame - group[0]]) for frame in group]
        members = [(pack, frame) for pack, group in batch for frame in group]
        opened = dict(zip(members, open_sealed(worker, self._home, sealed), strict=True))
        for (pack, frame), content in opened.items():
            key = (*self._scope, self.manifest.packs[pack], frame)
            self._cache.put(key, content, len(content) + 200)
        return opened

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
        # Extents of one frame share its tuple.
        shared: dict[Place, Place] = {}
        places = [
            None if place[0] == HOLE else shared.setdefault(place, place)
            for place in zip(layout.pack[first].tolist(), frame[first].tolist(), strict=True)
        ]
        extents = Extents([*first.tolist(), len(frame)], places, (slot[first] * BLOCK_BYTES).tolist())
        self._cache.put(key, extents, 200 * len(first) + 500)
        return extents
