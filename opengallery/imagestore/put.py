"""Put: read a source once, write the blocks that are not held, then the manifest."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import zstandard
from numpy.typing import NDArray

from opengallery.imagestore.blocks import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    MAX_IMAGE_BYTES,
    SEGMENT_BLOCKS,
    BlockSource,
    Digests,
    as_list,
    chunks,
    segment_blocks,
)
from opengallery.imagestore.bulk import Memory
from opengallery.imagestore.errors import CorruptBlock, IndexMismatch, StoreChanged, UnusableImage
from opengallery.imagestore.index import NOT_HELD
from opengallery.imagestore.manifest import ManifestWriter, segment_digest
from opengallery.imagestore.packs import Footer, frame_groups, open_frames, read_footer
from opengallery.imagestore.scatter import FrameUse
from opengallery.imagestore.workers import Worker
from opengallery.imagestore.writing import ENTRY_MASK, SLOT_BLOCKS, BlockWriter, check_places, heads_of

if TYPE_CHECKING:
    from opengallery.imagestore.store import ImageStore

ATTEMPTS = 3
READ_AHEAD_CHUNKS = 3
GATHER_BLOCKS = 4096
# So much is done before worker processes would have started.
FEW_CHUNKS = 8


@dataclass(frozen=True)
class PutProgress:
    """How far a put has come: `done_bytes` of `size_bytes`, holes counted."""

    done_bytes: int
    size_bytes: int
    new_bytes: int


@dataclass(frozen=True)
class PutReport:
    """What a put did.

    `new_bytes`: of blocks not held before; `stored_bytes`: written to the store; `gathered_bytes`: of blocks
    that were held but lay so scattered that they were written anew.
    """

    image_id: str
    size_bytes: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int
    gathered_bytes: int = 0


def put_image(
    store: "ImageStore", source: BlockSource, progress: Callable[[PutProgress], None] | None
) -> PutReport:
    """Store the image of `source`. See `ImageStore.put`."""
    if source.size_bytes > MAX_IMAGE_BYTES:
        raise UnusableImage(f"An image has at most {MAX_IMAGE_BYTES >> 40} TiB; this one is larger.")
    changed = StoreChanged(f"Store '{store.name}' changed under {ATTEMPTS} attempts to put an image.")
    for _ in range(ATTEMPTS):
        try:
            store.refresh_index()
            return _Put(store, source, progress).run()
        except IndexMismatch as error:
            store.index.discard()
            changed.__cause__ = error
        except CorruptBlock as error:
            if error.store != store.name or not error.pack:
                raise
            store.quarantine(error.pack, error.reason)
            changed.__cause__ = error
        except StoreChanged as error:
            changed.__cause__ = error
    raise changed


class _Put:
    """One attempt."""

    def __init__(
        self, store: "ImageStore", source: BlockSource, progress: Callable[[PutProgress], None] | None
    ) -> None:
        self._store, self._source, self._progress = store, source, progress
        self._writer = BlockWriter(store.objects, store.key, store.index)
        self._manifest = ManifestWriter(store.objects, store.key, source.size_bytes)
        self._read_bytes = 0
        self._moved_blocks = 0
        self._use = FrameUse()
        self._segments: dict[int, tuple[bytes, bytes]] = {}

    def run(self) -> PutReport:
        store, source = self._store, self._source
        with self._writer, self._manifest, closing(self._digested()) as digested:
            segment = -1
            for first, length, slot, data, digests in digested:
                if first // SEGMENT_BLOCKS != segment:
                    self._end_segment(segment)
                    segment = first // SEGMENT_BLOCKS
                    self._begin_segment(segment)
                self._add(first - segment * SEGMENT_BLOCKS, slot, data, digests)
                self._report(first * BLOCK_BYTES + length)
            self._end_segment(segment)
            self._gather()
            self._writer.close()
            for number, (places, digest) in self._segments.items():
                known = unpack_places(places)
                self._manifest.add(number, known >> 32, known & ENTRY_MASK, digest)
            packs = {number: store.index.pack_id(number) for number in self._manifest.packs}
            image_id = self._manifest.finish(packs)
            manifest_bytes = store.commit_manifest(self._manifest)
            self._report(source.size_bytes)
        return PutReport(
            image_id,
            source.size_bytes,
            self._read_bytes,
            (self._writer.new_blocks - self._moved_blocks) * BLOCK_BYTES,
            self._writer.stored_bytes + manifest_bytes,
            self._moved_blocks * BLOCK_BYTES,
        )

    def _begin_segment(self, segment: int) -> None:
        count = segment_blocks(self._source.size_bytes, segment)
        self._places = np.full(count, NOT_HELD, np.int64)
        self._digests = np.zeros((count, DIGEST_BYTES), np.uint8)

    def _end_segment(self, segment: int) -> None:
        if segment < 0:
            return
        # A frame holds blocks of one segment only, so a transfer by segments can copy it as it is.
        self._writer.end_frame()
        store = self._store
        check_places(store, store.index, self._places, self._digests, self._writer.own_packs)
        packs = self._places >> 32
        for number in np.unique(packs).tolist():
            if number != NOT_HELD and number not in self._writer.own_packs:
                footer = read_footer(store, store.index.pack_id(number))
                self._use.count(number, footer, self._places[packs == number] & ENTRY_MASK)
        self._segments[segment] = (pack_places(self._places), segment_digest(store.key, self._digests))

    def _gather(self) -> None:
        """Write the blocks anew that lie too scattered for a reader."""
        scattered = self._use.scattered(self._writer.new_blocks)
        if not scattered:
            return
        for segment, (packed, digest) in self._segments.items():
            places = unpack_places(packed)
            packs = places >> 32
            is_moved = np.zeros(len(places), bool)
            for number, is_gone in scattered.items():
                footer = read_footer(self._store, self._store.index.pack_id(number))
                blocks = np.flatnonzero(packs == number)
                is_moved[blocks] = is_gone[footer.frames_of(places[blocks] & ENTRY_MASK)]
            moved = np.flatnonzero(is_moved)
            for start in range(0, len(moved), GATHER_BLOCKS):
                chosen = moved[start : start + GATHER_BLOCKS]
                places[chosen] = self._move(places[chosen])
            self._writer.end_frame()
            self._segments[segment] = (pack_places(places), digest)

    def _move(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Write the blocks at `places` of the store anew, in this order; return their new places."""
        store, pool = self._store, self._writer.pool
        _, first, copies = np.unique(places, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        wanted = places[first[order]]
        blocks = np.empty((len(wanted), BLOCK_BYTES), np.uint8)
        digests = np.empty((len(wanted), DIGEST_BYTES), np.uint8)

        def load(worker: Worker, footer: Footer, group: list[int], mine: NDArray[np.int64]) -> None:
            opened = open_frames(worker, store, footer, group)
            entries = wanted[mine] & ENTRY_MASK
            frames = footer.frames_of(entries)
            for frame in group:
                chosen = frames == frame
                rows = np.frombuffer(opened[frame], np.uint8).reshape(-1, BLOCK_BYTES)
                blocks[mine[chosen]] = rows[entries[chosen] - footer.first_entry[frame]]

        jobs: list[Future[None]] = []
        try:
            for number in np.unique(wanted >> 32).tolist():
                footer = read_footer(store, store.index.pack_id(number))
                mine = np.flatnonzero(wanted >> 32 == number)
                digests[mine] = footer.digests[wanted[mine] & ENTRY_MASK]
                frames = footer.frames_of(wanted[mine] & ENTRY_MASK)
                for group in frame_groups(footer, np.unique(frames).tolist()):
                    in_group = mine[(frames >= group[0]) & (frames <= group[-1])]
                    jobs.append(pool.submit(load, footer, group, in_group))
        finally:
            wait(jobs)
        for job in jobs:
            job.result()
        self._moved_blocks += len(wanted)
        return np.array(self._writer.add(blocks, as_list(digests)), np.int64)[rank[copies]]

    def _add(self, start: int, slot: int, data: NDArray[np.int64], digests: Digests) -> None:
        """Add a chunk of the current segment that begins at its block `start` and lies in `slot`.

        `data`: the numbers, in the chunk, of its blocks that are not zero; `digests` are theirs.
        """
        writer = self._writer
        places = writer.places(digests)
        missing = np.flatnonzero(places == NOT_HELD)
        if len(missing):
            new, copies = first_of_each(digests[missing])
            added = writer.add_slot(slot, data[missing[new]], digests[missing[new]])
            places[missing] = added[copies]
        else:
            writer.free_slot(slot)
        self._places[start + data] = places
        self._digests[start + data] = digests

    def _digested(self) -> Generator[tuple[int, int, int, NDArray[np.int64], Digests], None, None]:
        """Yield (first block, bytes, slot, data, digests) of the chunks, with the next ones under way."""
        source, writer, key = self._source, self._writer, self._store.key
        pending: deque[tuple[int, int, int, Future[Future[tuple[bytes, bytes]]]]] = deque()

        def digest(worker: Worker, slot: int, length: int) -> tuple[bytes, bytes]:
            start = slot * SLOT_BLOCKS * BLOCK_BYTES
            found: tuple[bytes, bytes] = worker.run("digest", writer.arena, key, start, length)
            return found

        def read(slot: int, offset: int, length: int) -> Future[tuple[bytes, bytes]]:
            memory = writer.slot_memory(slot)
            read_into(source, offset, memory[:length])
            whole = -(-length // BLOCK_BYTES) * BLOCK_BYTES
            memory[length:whole] = 0
            return writer.pool.submit(digest, slot, whole)

        def oldest() -> tuple[int, int, int, NDArray[np.int64], Digests]:
            first, length, slot, future = pending.popleft()
            data, digests = future.result().result()
            return (
                first,
                length,
                slot,
                np.frombuffer(data, "<i4").astype(np.int64),
                np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES),
            )

        # One thread reads, in order: a source may be a stream.
        reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        try:
            for number, (first, count) in enumerate(chunks(source.extents(), source.size_bytes)):
                if number >= FEW_CHUNKS:
                    writer.pool.expect_much()
                offset = first * BLOCK_BYTES
                length = min(count * BLOCK_BYTES, source.size_bytes - offset)
                self._read_bytes += length
                slot = writer.take_slot()
                pending.append((first, length, slot, reader.submit(read, slot, offset, length)))
                if len(pending) > READ_AHEAD_CHUNKS:
                    yield oldest()
            while pending:
                yield oldest()
        finally:
            # Whatever ends this, no job may go on with the arena or the source.
            reader.shutdown(cancel_futures=True)
            for _, _, _, future in pending:
                if not future.cancelled() and future.exception() is None:
                    wait([future.result()])

    def _report(self, done_bytes: int) -> None:
        if self._progress is not None:
            self._progress(
                PutProgress(done_bytes, self._source.size_bytes, self._writer.new_blocks * BLOCK_BYTES)
            )


def read_into(source: BlockSource, offset: int, memory: Memory) -> None:
    """Fill `memory` from byte `offset` of the source. Raises `UnusableImage` when it gives too little."""
    read_into = getattr(source, "read_into", None)
    if read_into is not None:
        # Sources that can write into our memory spare a copy.
        read_into(offset, memory.data)
        return
    content = source.read(offset, len(memory))
    if len(content) != len(memory):
        raise UnusableImage(f"The source gave {len(content)} bytes at {offset}, not {len(memory)}.")
    memory[:] = np.frombuffer(content, np.uint8)


def pack_places(places: NDArray[np.int64]) -> bytes:
    """Keep a segment's places until the manifest is written; neighbours cost next to nothing."""
    steps = np.diff(places, prepend=0)
    return zstandard.ZstdCompressor(level=1).compress(steps.tobytes())


def unpack_places(packed: bytes) -> NDArray[np.int64]:
    """Return the places of a segment."""
    return np.cumsum(np.frombuffer(zstandard.ZstdDecompressor().decompress(packed), np.int64))


def first_of_each(digests: Digests) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each digest stands first, in order, and for each digest its number among those."""
    if len(np.unique(heads_of(digests))) == len(digests):
        return np.arange(len(digests)), np.arange(len(digests))
    seen: dict[bytes, int] = {}
    copies = [seen.setdefault(digest, len(seen)) for digest in as_list(digests)]
    numbers = np.array(copies, np.int64)
    return np.unique(numbers, return_index=True)[1], numbers
