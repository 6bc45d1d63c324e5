"""Put: read a source once, write the blocks that are not held, then the manifest."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opengallery.imagestore.blocks import (
    BLOCK_BYTES,
    DIGEST_BYTES,
    MAX_IMAGE_BYTES,
    SEGMENT_BLOCKS,
    BlockSource,
    as_array,
    as_blocks,
    chunks,
    digest_blocks,
    find_data,
    segment_blocks,
)
from opengallery.imagestore.errors import CorruptBlock, IndexMismatch, StoreChanged, UnusableImage
from opengallery.imagestore.index import NOT_HELD
from opengallery.imagestore.manifest import ManifestWriter
from opengallery.imagestore.writing import ENTRY_MASK, BlockWriter, check_places

if TYPE_CHECKING:
    from opengallery.imagestore.store import ImageStore

ATTEMPTS = 3
READ_AHEAD_CHUNKS = 2


@dataclass(frozen=True)
class PutProgress:
    """How far a put has come: `done_bytes` of `size_bytes`, holes counted."""

    done_bytes: int
    size_bytes: int
    new_bytes: int


@dataclass(frozen=True)
class PutReport:
    """What a put did. `new_bytes`: of blocks not held before; `stored_bytes`: written to the store."""

    image_id: str
    size_bytes: int
    read_bytes: int
    new_bytes: int
    stored_bytes: int


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

    def run(self) -> PutReport:
        store, source = self._store, self._source
        with self._writer, self._manifest:
            segment = -1
            for first, content in self._read_ahead():
                if first // SEGMENT_BLOCKS != segment:
                    self._end_segment(segment)
                    segment = first // SEGMENT_BLOCKS
                    self._begin_segment(segment)
                self._add(first - segment * SEGMENT_BLOCKS, content)
                self._report(first * BLOCK_BYTES + len(content))
            self._end_segment(segment)
            self._writer.close()
            packs = {number: store.index.pack_id(number) for number in self._manifest.packs}
            image_id = self._manifest.finish(packs)
            manifest_bytes = store.commit_manifest(self._manifest)
            self._report(source.size_bytes)
        return PutReport(
            image_id,
            source.size_bytes,
            self._read_bytes,
            self._writer.new_blocks * BLOCK_BYTES,
            self._writer.stored_bytes + manifest_bytes,
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
        self._manifest.add(segment, self._places >> 32, self._places & ENTRY_MASK, self._digests)

    def _add(self, start: int, content: bytes) -> None:
        """Add a chunk of the current segment that begins at its block `start`."""
        blocks = as_blocks(content)
        data = find_data(blocks)
        if not len(data):
            return
        if len(data) < len(blocks):
            blocks = blocks[data]
        digests = digest_blocks(blocks, self._store.key.block_key)
        array = as_array(digests)
        places = self._writer.places(array)
        missing = np.flatnonzero(places == NOT_HELD).tolist()
        if missing:
            new: dict[bytes, int] = {}
            for number in missing:
                new.setdefault(digests[number], number)
            added = self._writer.add(blocks[list(new.values())], list(new))
            place_of = dict(zip(new, added, strict=True))
            places[missing] = [place_of[digests[number]] for number in missing]
        self._places[start + data] = places
        self._digests[start + data] = array

    def _read_ahead(self) -> Iterator[tuple[int, bytes]]:
        """Yield (first block, bytes) of the chunks, reading the next ones in a thread meanwhile."""
        source = self._source
        pending: deque[tuple[int, Future[bytes]]] = deque()

        def read(offset: int, length: int) -> bytes:
            content = source.read(offset, length)
            if len(content) != length:
                raise UnusableImage(f"The source gave {len(content)} bytes at {offset}, not {length}.")
            return content

        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
            for first, count in chunks(source.extents(), source.size_bytes):
                offset = first * BLOCK_BYTES
                length = min(count * BLOCK_BYTES, source.size_bytes - offset)
                self._read_bytes += length
                pending.append((first, pool.submit(read, offset, length)))
                if len(pending) > READ_AHEAD_CHUNKS:
                    ready, future = pending.popleft()
                    yield ready, future.result()
            while pending:
                ready, future = pending.popleft()
                yield ready, future.result()

    def _report(self, done_bytes: int) -> None:
        if self._progress is not None:
            self._progress(
                PutProgress(done_bytes, self._source.size_bytes, self._writer.new_blocks * BLOCK_BYTES)
            )
