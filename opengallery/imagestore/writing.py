"""Writing blocks into a store: find those that are held, put the others into frames and packs.

`put` and `transfer` both write through `BlockWriter`. A place is an int: pack number of the index
<< 32 | entry. It is known as soon as a block is handed in; compression, sealing and syncing follow in
threads, because zstd and fsync let go of the GIL.
"""

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import Blocks, Digests, as_list
from opengallery.imagestore.errors import IndexMismatch
from opengallery.imagestore.index import NOT_HELD, Index
from opengallery.imagestore.keys import DataKey
from opengallery.imagestore.objects import Objects
from opengallery.imagestore.packs import (
    FRAME_BLOCKS,
    PACK_BLOCKS,
    PackHome,
    PackWriter,
    read_footer,
    seal_frame,
)

ENTRY_MASK = 0xFFFFFFFF
BATCH_FRAMES = 16
MAX_BATCHES = 8
MAX_COMMITS = 2
SEALING_THREADS = min(4, os.cpu_count() or 1)


@dataclass
class _OpenPack:
    number: int
    writer: PackWriter
    entries: int = 0


class BlockWriter:
    """Adds blocks to one store. For one thread; what it wrote is durable after `close`."""

    def __init__(self, objects: Objects, key: DataKey, index: Index) -> None:
        """Begin with no pack open."""
        self._objects, self._key, self._index = objects, key, index
        self._pool = ThreadPoolExecutor(SEALING_THREADS + 1, thread_name_prefix="blocks")
        self._held: dict[bytes, int] = {}
        self._pack: _OpenPack | None = None
        self._frame: list[Blocks] = []
        self._frame_digests: list[bytes] = []
        self._batch: list[tuple[list[bytes], bytes | Blocks]] = []
        self._sealing: deque[tuple[_OpenPack, Future[list[tuple[list[bytes], bytes]]]]] = deque()
        self._committing: deque[tuple[_OpenPack, Future[tuple[str, Digests]]]] = deque()
        self.own_packs: set[int] = set()
        self.new_blocks = 0
        self.stored_bytes = 0

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what was not closed."""
        self.abort()

    def places(self, digests: Digests) -> NDArray[np.int64]:
        """Return where each block is held, by the store or by what was added here; or `NOT_HELD`."""
        places = self._index.lookup(digests)
        missing = np.flatnonzero(places == NOT_HELD)
        if len(missing) and self._held:
            held = self._held
            places[missing] = [held.get(digest, NOT_HELD) for digest in as_list(digests[missing])]
        return places

    def add(self, blocks: Blocks, digests: list[bytes]) -> list[int]:
        """Add blocks that are not held, each once; return their places. They go on with the open frame."""
        places: list[int] = []
        start = 0
        while start < len(digests):
            pack = self._open_pack()
            room = min(FRAME_BLOCKS - len(self._frame_digests), PACK_BLOCKS - pack.entries)
            chosen = digests[start : start + room]
            self._frame.append(blocks[start : start + room])
            self._frame_digests += chosen
            places += self._place(pack, chosen)
            start += room
            if len(self._frame_digests) == FRAME_BLOCKS or pack.entries == PACK_BLOCKS:
                self.end_frame()
        return places

    def add_sealed(self, sealed: bytes, digests: list[bytes]) -> list[int]:
        """Add a frame as it came from another store of the same data key."""
        self.end_frame()
        if self._pack is not None and self._pack.entries + len(digests) > PACK_BLOCKS:
            self._end_pack()
        places = self._place(self._open_pack(), digests)
        self._batch.append((digests, sealed))
        self._end_batch(BATCH_FRAMES)
        return places

    def end_frame(self) -> None:
        """Let the next block begin a new frame."""
        if self._frame:
            blocks = self._frame[0] if len(self._frame) == 1 else np.concatenate(self._frame)
            self._batch.append((self._frame_digests, blocks))
            self._frame, self._frame_digests = [], []
            self._end_batch(BATCH_FRAMES)

    def close(self) -> None:
        """Finish: when this returns, every block added is durable and in the index."""
        self.end_frame()
        self._end_pack()
        while self._committing:
            self._end_commit()
        self._index.flush()
        self._pool.shutdown()

    def abort(self) -> None:
        """Leave no unfinished pack behind; finished ones stay, their blocks are found again."""
        self._pool.shutdown(cancel_futures=True)
        writers = {id(pack): pack.writer for pack, _ in (*self._sealing, *self._committing)}
        if self._pack is not None:
            writers[id(self._pack)] = self._pack.writer
        for writer in writers.values():
            writer.abort()

    def _open_pack(self) -> _OpenPack:
        if self._pack is not None and self._pack.entries >= PACK_BLOCKS:
            self._end_pack()
        if self._pack is None:
            self._pack = _OpenPack(self._index.reserve(), PackWriter(self._objects, self._key))
            self.own_packs.add(self._pack.number)
        return self._pack

    def _place(self, pack: _OpenPack, digests: list[bytes]) -> list[int]:
        first = pack.number << 32 | pack.entries
        places = list(range(first, first + len(digests)))
        self._held.update(zip(digests, places, strict=True))
        pack.entries += len(digests)
        self.new_blocks += len(digests)
        return places

    def _end_batch(self, at_least: int) -> None:
        if self._pack is not None and len(self._batch) >= max(1, at_least):
            batch, self._batch = self._batch, []
            self._sealing.append((self._pack, self._pool.submit(_seal, self._key, batch)))
            while len(self._sealing) > MAX_BATCHES:
                self._append_sealed()

    def _append_sealed(self) -> None:
        pack, future = self._sealing[0]
        for digests, sealed in future.result():
            pack.writer.add(sealed, digests)
        self._sealing.popleft()

    def _end_pack(self) -> None:
        if self._pack is None:
            return
        self._end_batch(0)
        while self._sealing:
            self._append_sealed()
        pack, self._pack = self._pack, None
        self._committing.append((pack, self._pool.submit(pack.writer.commit)))
        while len(self._committing) > MAX_COMMITS:
            self._end_commit()

    def _end_commit(self) -> None:
        pack, future = self._committing[0]
        pack_id, digests = future.result()
        self._committing.popleft()
        self._index.add(pack_id, digests, pack.number)
        self.stored_bytes += pack.writer.stored_bytes
        for digest in as_list(digests):
            self._held.pop(digest, None)


def check_places(
    home: PackHome, index: Index, places: NDArray[np.int64], digests: Digests, own: set[int]
) -> None:
    """Check places that the index gave against the footers. Raises `IndexMismatch`, `CorruptBlock`.

    `own` are the numbers of the packs that the caller wrote itself. Holes have the place `NOT_HELD`.
    """
    packs = places >> 32
    for number in np.unique(packs).tolist():
        if number == NOT_HELD or number in own:
            continue
        footer = read_footer(home, index.pack_id(number))
        blocks = np.flatnonzero(packs == number)
        entries = places[blocks] & ENTRY_MASK
        if entries.max() >= len(footer.digests) or (footer.digests[entries] != digests[blocks]).any():
            raise IndexMismatch(f"Store '{home.name}': the index does not match pack {footer.pack_id}.")


def _seal(key: DataKey, batch: list[tuple[list[bytes], bytes | Blocks]]) -> list[tuple[list[bytes], bytes]]:
    return [
        (digests, content if isinstance(content, bytes) else seal_frame(key, content.data.cast("B")))
        for digests, content in batch
    ]
