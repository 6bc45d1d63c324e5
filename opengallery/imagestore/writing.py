"""Writing blocks into a store: find those that are held, put the others into frames and packs.

`put` and `transfer` both write through `BlockWriter`. A place is an int: pack number of the index
<< 32 | entry. It is known as soon as a block is handed in. Blocks lie in an arena until workers have
compressed and sealed them there; sealed frames go into their pack in order, and a thread syncs packs.

The arena: `SLOTS` slots of `SLOT_BLOCKS` blocks; carries of one frame, for the blocks of a frame that is
not full when its slot is wanted again; and for each slot and carry the room that sealing needs.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.blocks import BLOCK_BYTES, CHUNK_BYTES, DIGEST_BYTES, Blocks, Digests, as_array
from opengallery.imagestore.bulk import FRAME_OVERHEAD_BYTES, Memory
from opengallery.imagestore.errors import IndexMismatch
from opengallery.imagestore.index import NOT_HELD, Index
from opengallery.imagestore.keys import DataKey
from opengallery.imagestore.objects import Objects
from opengallery.imagestore.packs import FRAME_BLOCKS, PACK_BLOCKS, PackHome, PackWriter, read_footer
from opengallery.imagestore.workers import Worker, WorkerPool, workers

ENTRY_MASK = 0xFFFFFFFF
MAX_WAITING = 64
MAX_COMMITS = 2
SLOTS = 10
CARRIES = 12
SLOT_BLOCKS = CHUNK_BYTES // BLOCK_BYTES
MAX_FRAMES_A_SLOT = 128
SLOT_SEALED_BYTES = (SLOT_BLOCKS + FRAME_BLOCKS) * BLOCK_BYTES + MAX_FRAMES_A_SLOT * FRAME_OVERHEAD_BYTES
CARRY_SEALED_BYTES = FRAME_BLOCKS * BLOCK_BYTES + FRAME_OVERHEAD_BYTES
CARRIES_START = SLOTS * SLOT_BLOCKS
SEALED_START = (CARRIES_START + CARRIES * FRAME_BLOCKS) * BLOCK_BYTES
CARRIES_SEALED_START = SEALED_START + SLOTS * SLOT_SEALED_BYTES
ARENA_BYTES = CARRIES_SEALED_START + CARRIES * CARRY_SEALED_BYTES
NO_BLOCKS = np.zeros(0, np.int64)


@dataclass
class _OpenPack:
    number: int
    writer: PackWriter
    digests: Digests
    entries: int = 0


@dataclass
class _Waiting:
    """Frames on their way into a pack, and what is free again when they are there."""

    pack: _OpenPack
    counts: list[int]
    lengths: Future[list[int]] | None = None
    sealed_at: int = 0
    sealed: bytes | memoryview = b""
    sealed_lengths: list[int] = field(default_factory=list)
    slot: int | None = None
    carry: int | None = None
    is_last: bool = False
    is_appended: bool = False


class BlockWriter:
    """Adds blocks to one store. For one thread; what it wrote is durable after `close`."""

    def __init__(self, objects: Objects, key: DataKey, index: Index, pool: WorkerPool | None = None) -> None:
        """Begin with no pack open."""
        self._objects, self._key, self._index = objects, key, index
        self.pool = pool if pool is not None else workers()
        self.arena = self.pool.borrow(ARENA_BYTES)
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")
        # By the digest's first 8 bytes; the rest is compared before a place is given out.
        self._held: dict[int, int] = {}
        self._open_packs: dict[int, _OpenPack] = {}
        self._pack: _OpenPack | None = None
        self._free_slots = deque(range(SLOTS))
        self._free_carries = deque(range(CARRIES))
        self._carry: int | None = None
        self._carried = 0
        self._waiting: deque[_Waiting] = deque()
        self._committing: deque[tuple[_OpenPack, Future[str]]] = deque()
        self._is_done = False
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
            heads = heads_of(digests[missing]).tolist()
            own = np.array([held.get(head, NOT_HELD) for head in heads], np.int64)
            for number in np.unique(own[own != NOT_HELD] >> 32).tolist():
                found = np.flatnonzero(own >> 32 == number)
                kept = self._open_packs[number].digests[own[found] & ENTRY_MASK]
                own[found[(kept != digests[missing[found]]).any(axis=1)]] = NOT_HELD
            places[missing] = own
        return places

    def take_slot(self) -> int:
        """Return a slot for `slot_memory`; it goes back by `add_slot` or `free_slot`. At most 5 at once."""
        while not self._free_slots:
            self._append_sealed()
        return self._free_slots.popleft()

    def slot_memory(self, slot: int) -> Memory:
        """Return the bytes of a slot."""
        start = slot * SLOT_BLOCKS * BLOCK_BYTES
        return self.arena.memory[start : start + SLOT_BLOCKS * BLOCK_BYTES]

    def free_slot(self, slot: int) -> None:
        """Take back a slot of which nothing is needed."""
        self._free_slots.append(slot)

    def add(self, blocks: Blocks, digests: list[bytes]) -> list[int]:
        """Add blocks that are not held, each once; return their places. They go on with the open frame."""
        places: list[int] = []
        for start in range(0, len(blocks), SLOT_BLOCKS):
            part = blocks[start : start + SLOT_BLOCKS]
            slot = self.take_slot()
            self.slot_memory(slot)[: part.size] = part.reshape(-1)
            chosen = as_array(digests[start : start + SLOT_BLOCKS])
            places.extend(self.add_slot(slot, np.arange(len(part)), chosen).tolist())
        return places

    def add_slot(self, slot: int, numbers: NDArray[np.int64], digests: Digests) -> NDArray[np.int64]:
        """Add the blocks `numbers` of a slot, as `add` does. The slot is the writer's from now on."""
        places = np.empty(len(numbers), np.int64)
        numbers = numbers + slot * SLOT_BLOCKS
        sealed_at = SEALED_START + slot * SLOT_SEALED_BYTES
        last: _Waiting | None = None
        start = 0
        while start < len(numbers):
            pack = self._open_pack()
            part = slice(start, min(len(numbers), start + PACK_BLOCKS - pack.entries))
            places[part] = self._place(pack, digests[part])
            pending = np.concatenate((self._carried_numbers(), numbers[part]))
            whole = len(pending)
            if pack.entries < PACK_BLOCKS:
                whole -= whole % FRAME_BLOCKS
            if whole:
                carry, self._carry, self._carried = self._carry, None, 0
                last = self._seal(pack, pending[:whole], sealed_at, carry)
                sealed_at += whole * BLOCK_BYTES + len(last.counts) * FRAME_OVERHEAD_BYTES
                self._keep(pending[whole:])
            else:
                self._keep(numbers[part])
            start = part.stop
            self._end_full_pack()
        if last is None or last.is_appended:
            self.free_slot(slot)
        else:
            # Frames are appended in order: when the last one is, nothing needs the slot any more.
            last.slot = slot
        return places

    def add_sealed(self, sealed: bytes | memoryview, digests: list[bytes]) -> list[int]:
        """Add a frame as it came from another store of the same data key."""
        places: list[int] = self.add_frames(sealed, [len(sealed)], [len(digests)], as_array(digests)).tolist()
        return places

    def add_frames(
        self, sealed: bytes | memoryview, lengths: list[int], counts: list[int], digests: Digests
    ) -> NDArray[np.int64]:
        """Add frames that lie one after the other in `sealed`, as they came from another store."""
        self.end_frame()
        places = np.empty(len(digests), np.int64)
        sealed = memoryview(sealed)
        ends = np.cumsum([0, *counts]).tolist()
        offsets = np.cumsum([0, *lengths]).tolist()
        first = 0
        while first < len(counts):
            if self._pack is not None and self._pack.entries + counts[first] > PACK_BLOCKS:
                self._end_pack()
            pack = self._open_pack()
            stop = first + 1
            while stop < len(counts) and pack.entries + ends[stop + 1] - ends[first] <= PACK_BLOCKS:
                stop += 1
            part = slice(ends[first], ends[stop])
            places[part] = self._place(pack, digests[part])
            self._wait_for(
                _Waiting(
                    pack,
                    counts[first:stop],
                    sealed=sealed[offsets[first] : offsets[stop]],
                    sealed_lengths=lengths[first:stop],
                )
            )
            first = stop
        return places

    def end_frame(self) -> None:
        """Let the next block begin a new frame."""
        if self._carry is not None and self._pack is not None:
            carry, numbers = self._carry, self._carried_numbers()
            self._carry, self._carried = None, 0
            self._seal(self._pack, numbers, CARRIES_SEALED_START + carry * CARRY_SEALED_BYTES, carry)

    def close(self) -> None:
        """Finish: when this returns, every block added is durable and in the index."""
        self.end_frame()
        self._end_pack()
        while self._waiting:
            self._append_sealed()
        while self._committing:
            self._end_commit()
        self._index.flush()
        self._end()

    def abort(self) -> None:
        """Leave no unfinished pack behind; finished ones stay, their blocks are found again."""
        if not self._is_done:
            self._end()
            for pack in self._open_packs.values():
                pack.writer.abort()

    def _end(self) -> None:
        self._is_done = True
        self._committer.shutdown(cancel_futures=True)
        # Workers must not write into an arena that somebody else has borrowed.
        futures = [waiting.lengths for waiting in self._waiting if waiting.lengths is not None]
        for future in futures:
            future.cancel()
        wait(futures)
        self._waiting.clear()
        self.pool.give_back(self.arena)

    def _open_pack(self) -> _OpenPack:
        if self._pack is None:
            number = self._index.reserve()
            digests = np.empty((PACK_BLOCKS, DIGEST_BYTES), np.uint8)
            self._pack = _OpenPack(number, PackWriter(self._objects, self._key), digests)
            self._open_packs[number] = self._pack
            self.own_packs.add(number)
        return self._pack

    def _place(self, pack: _OpenPack, digests: Digests) -> NDArray[np.int64]:
        first = pack.number << 32 | pack.entries
        pack.digests[pack.entries : pack.entries + len(digests)] = digests
        self._held.update(zip(heads_of(digests).tolist(), range(first, first + len(digests)), strict=True))
        pack.entries += len(digests)
        self.new_blocks += len(digests)
        return np.arange(first, first + len(digests))

    def _carried_numbers(self) -> NDArray[np.int64]:
        if self._carry is None:
            return NO_BLOCKS
        return CARRIES_START + self._carry * FRAME_BLOCKS + np.arange(self._carried)

    def _keep(self, numbers: NDArray[np.int64]) -> None:
        """Move the blocks of a frame that is not full out of their slot."""
        if not len(numbers):
            return
        if self._carry is None:
            while not self._free_carries:
                self._append_sealed()
            self._carry = self._free_carries.popleft()
        rows = self.arena.memory[:SEALED_START].reshape(-1, BLOCK_BYTES)
        start = CARRIES_START + self._carry * FRAME_BLOCKS + self._carried
        rows[start : start + len(numbers)] = rows[numbers]
        self._carried += len(numbers)

    def _seal(
        self, pack: _OpenPack, numbers: NDArray[np.int64], sealed_at: int, carry: int | None
    ) -> _Waiting:
        counts = [FRAME_BLOCKS] * (len(numbers) // FRAME_BLOCKS)
        if len(numbers) % FRAME_BLOCKS:
            counts.append(len(numbers) % FRAME_BLOCKS)
        blocks = numbers.astype("<i4").tobytes()

        def seal(worker: Worker) -> list[int]:
            lengths: list[int] = worker.run("seal", self.arena, self._key, blocks, counts, sealed_at)
            return lengths

        waiting = _Waiting(pack, counts, self.pool.submit(seal), sealed_at, carry=carry)
        self._wait_for(waiting)
        return waiting

    def _wait_for(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        while len(self._waiting) > MAX_WAITING:
            self._append_sealed()

    def _append_sealed(self) -> None:
        """Put the oldest frames into their pack, once they are sealed."""
        waiting = self._waiting[0]
        if waiting.lengths is not None:
            lengths = waiting.lengths.result()
            content = self.arena.memory[waiting.sealed_at : waiting.sealed_at + sum(lengths)].data
            waiting.pack.writer.add(content, lengths, waiting.counts)
        elif waiting.counts:
            waiting.pack.writer.add(waiting.sealed, waiting.sealed_lengths, waiting.counts)
        self._waiting.popleft()
        waiting.is_appended = True
        if waiting.slot is not None:
            self._free_slots.append(waiting.slot)
        if waiting.carry is not None:
            self._free_carries.append(waiting.carry)
        if waiting.is_last:
            pack = waiting.pack
            digests = pack.digests[: pack.entries]
            self._committing.append((pack, self._committer.submit(pack.writer.commit, digests)))
            while len(self._committing) > MAX_COMMITS:
                self._end_commit()

    def _end_full_pack(self) -> None:
        if self._pack is not None and self._pack.entries >= PACK_BLOCKS:
            self._end_pack()

    def _end_pack(self) -> None:
        if self._pack is not None:
            pack, self._pack = self._pack, None
            self._wait_for(_Waiting(pack, [], is_last=True))

    def _end_commit(self) -> None:
        pack, future = self._committing[0]
        pack_id = future.result()
        self._committing.popleft()
        digests = pack.digests[: pack.entries]
        self._index.add(pack_id, digests, pack.number)
        self.stored_bytes += pack.writer.stored_bytes
        for head in heads_of(digests).tolist():
            self._held.pop(head, None)
        del self._open_packs[pack.number]


def heads_of(digests: Digests) -> NDArray[np.int64]:
    """Return the first 8 bytes of each digest as a number."""
    return np.ascontiguousarray(digests).view("<i8").reshape(-1, DIGEST_BYTES // 8)[:, 0]


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
