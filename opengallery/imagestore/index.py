"""Index: digest -> place, for writers. Derived from the footers of the packs; can be thrown away.

Runs are immutable arrays sorted by the first 8 bytes of the digest: small ones in memory for what this
process wrote lately, larger ones in files that are mapped and searched in bulk. Of each block a run keeps
the first 12 bytes of the digest and its rank, the number of the block among those of the run's packs.
Readers need no index. A wrong entry can do no harm: writers check each place against the pack's footer
before they rely on it (`IndexMismatch`), so the files carry a checksum of their header only and are not
synced.

Runs of about one size are merged when there are `FAN_IN` of them, slice by slice, so that their number
grows with the logarithm of the blocks and the memory not at all. Files have fences and filters (`runs`).
The newest runs are searched first: a block that was written anew, since its old place had become a
bad one (`scatter`), is found where it lies now. Larger runs are older, by the way they are merged.
"""

import secrets
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Any, BinaryIO

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from opengallery.imagestore.blocks import Digests
from opengallery.imagestore.runs import Run, fences_and_filters, marks_of, merged_slices, words_of

NOT_HELD = -1
MAGIC = b"OGINDX\x00\x03"
HEADER = struct.Struct("<8sQIII32s")
PACK_ID_BYTES = 32
ENTRY_BYTES = 8 + 4 + 4
FENCE_BYTES = 4
FILTER_BYTES = 8
SPILL_ENTRIES = 256 << 10
MAX_MEMORY_RUNS = 8
FAN_IN = 4
SMALLEST_ENTRIES = 16 << 10
SLICE_ENTRIES = 512 << 10
# How many digests a bucket has at most, on average: two or three cache lines, and bits enough in its filter.
BUCKET_ENTRIES = 12
LEFTOVER_S = 3600.0


class Index:
    """The index of one store prefix, in the folder `directory`. Safe to use from many threads."""

    def __init__(self, directory: Path) -> None:
        """Open the runs that are there; those that are damaged are deleted."""
        self._directory = directory
        self._lock = RLock()
        self._runs: tuple[Run, ...] = ()
        self._ids: list[str | None] = []
        self._numbers: dict[str, int] = {}
        self._is_usable = np.zeros(64, bool)
        self._is_covered: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(directory.glob("*.run")):
            self._load(file)
        self._runs = tuple(sorted(self._runs, key=_age))
        for leftover in directory.glob("*.new"):
            with suppress(FileNotFoundError):
                if leftover.stat().st_mtime < time.time() - LEFTOVER_S:
                    leftover.unlink()

    def reserve(self) -> int:
        """Return the number of a pack in the making."""
        with self._lock:
            self._ids.append(None)
            return len(self._ids) - 1

    def pack_id(self, number: int) -> str:
        """Return the id of a finished pack."""
        pack_id = self._ids[number]
        assert pack_id is not None
        return pack_id

    def add(self, pack_id: str, digests: Digests, number: int | None = None) -> None:
        """Make the blocks of a pack findable; `number` if it was reserved."""
        with self._lock:
            if number is None:
                number = self._number(pack_id)
            self._ids[number] = pack_id
            self._numbers[pack_id] = number
            self._is_covered.add(pack_id)
            self._make_room(number)
            self._is_usable[number] = True
            head, more = words_of(digests)
            order = np.argsort(head, kind="stable")
            run = Run(
                head[order],
                more[order],
                order.astype(np.uint32),
                np.array([number], np.int64),
                np.array([0, len(order)], np.int64),
            )
            self._runs = (run, *self._runs)
            self._settle_memory()

    def lookup(self, digests: Digests) -> NDArray[np.int64]:
        """Return the place of each digest, as pack number << 32 | entry, or `NOT_HELD`."""
        runs, is_usable = self._runs, self._is_usable
        head, more = words_of(digests)
        places = np.full(len(head), NOT_HELD, np.int64)
        marks = marks_of(more)
        missing = np.argsort(head)
        for run in runs:
            missing = missing[places[missing] == NOT_HELD]
            if not len(missing):
                break
            wanted = missing[run.may_hold(head[missing], marks[missing])]
            positions = run.search(head[wanted])
            while True:
                inside = positions < len(run.head)
                wanted, positions = wanted[inside], positions[inside]
                same = run.head[positions] == head[wanted]
                wanted, positions = wanted[same], positions[same]
                if not len(wanted):
                    break
                packs, entries = run.locate(positions)
                held = (run.more[positions] == more[wanted]) & is_usable[packs]
                places[wanted[held]] = (packs[held] << 32) | entries[held]
                # A digest may stand twice, the first time in a pack that is not usable.
                wanted, positions = wanted[~held], positions[~held] + 1
        return places

    def begin_refresh(self) -> int:
        """Call before listing the packs; give the answer to `refresh`."""
        with self._lock:
            return len(self._ids)

    def refresh(
        self,
        began: int,
        listed: Iterable[str],
        excluded: set[str],
        load: Callable[[str], Digests | None],
    ) -> None:
        """Follow the store: use the `listed` packs but the `excluded`; `load` reads a new footer.

        Packs that this process added since `began` stay as they are: the list may be older.
        """
        usable = set(listed) - excluded
        with self._lock:
            for pack_id, number in self._numbers.items():
                if number < began:
                    self._is_usable[number] = pack_id in usable
            for pack_id in excluded & self._numbers.keys():
                self._is_usable[self._numbers[pack_id]] = False
            unknown = [pack_id for pack_id in usable if pack_id not in self._is_covered]
        for pack_id in sorted(unknown):
            digests = load(pack_id)
            if digests is not None:
                self.add(pack_id, digests)

    def forget(self, pack_ids: Iterable[str]) -> None:
        """Rely on these packs no more."""
        with self._lock:
            for pack_id in pack_ids:
                if pack_id in self._numbers:
                    self._is_usable[self._numbers[pack_id]] = False

    def flush(self) -> None:
        """Write what is only in memory into a file."""
        with self._lock:
            self._merge([run for run in self._runs if run.file is None], to_file=True)
            self._settle_files()

    def discard(self) -> None:
        """Throw everything away; the next `refresh` builds it again from the footers."""
        with self._lock:
            for file in self._directory.glob("*.run"):
                file.unlink(missing_ok=True)
            self._runs = ()
            self._is_covered.clear()

    def _number(self, pack_id: str) -> int:
        number = self._numbers.get(pack_id)
        if number is None:
            number = self.reserve()
            self._ids[number] = pack_id
            self._numbers[pack_id] = number
        return number

    def _make_room(self, number: int) -> None:
        if number >= len(self._is_usable):
            grown = np.zeros(max(2 * len(self._is_usable), number + 1), bool)
            grown[: len(self._is_usable)] = self._is_usable
            self._is_usable = grown

    def _settle_memory(self) -> None:
        """Keep what is in memory bounded."""
        small = [run for run in self._runs if run.file is None]
        if sum(len(run.head) for run in small) >= SPILL_ENTRIES:
            self.flush()
        elif len(small) > MAX_MEMORY_RUNS:
            self._merge(small, to_file=False)

    def _settle_files(self) -> None:
        """Merge the runs of a size when there are many of them; what comes out may be one too many."""
        while True:
            sizes: dict[int, list[Run]] = {}
            for run in self._runs:
                if run.file is not None:
                    sizes.setdefault(_size_class(run), []).append(run)
            crowded = [runs for runs in sizes.values() if len(runs) >= FAN_IN]
            if not crowded:
                return
            self._merge(min(crowded, key=lambda runs: len(runs[0].head)), to_file=True)

    def _merge(self, runs: list[Run], *, to_file: bool) -> None:
        if not runs:
            return
        bases, numbers, starts = self._keep(runs)
        count = int(starts[-1])
        merged: Run | None = None
        if count and to_file:
            merged = self._write(runs, bases, numbers, starts)
        if count and merged is None:
            # In memory, or the disk is full: no reason to fail a put, it can be derived again.
            whole = next(merged_slices(runs, bases, np.zeros(0, np.uint64)))
            merged = Run(*whole, numbers, starts)
        gone = {id(run) for run in runs}
        kept = [run for run in self._runs if id(run) not in gone]
        self._runs = tuple(sorted((*kept, *([merged] if merged else [])), key=_age))
        for run in runs:
            if run.file is not None:
                run.file.unlink(missing_ok=True)

    def _keep(self, runs: list[Run]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64], NDArray[np.int64]]:
        """Choose the packs that stay: for each run the new first rank of its packs (-1: gone), then the
        numbers and first ranks of all."""
        numbers: dict[int, None] = {}
        starts = [0]
        bases = []
        for run in runs:
            base = np.full(len(run.numbers), -1, np.int64)
            for own, number in enumerate(run.numbers.tolist()):
                if not self._is_usable[number]:
                    # Should the pack come back, its footer is read again.
                    self._is_covered.discard(self.pack_id(number))
                elif number not in numbers:
                    base[own] = starts[-1]
                    numbers[number] = None
                    starts.append(starts[-1] + int(run.starts[own + 1] - run.starts[own]))
            bases.append(base)
        return bases, np.array(list(numbers), np.int64), np.array(starts, np.int64)

    def _write(
        self,
        runs: list[Run],
        bases: list[NDArray[np.int64]],
        numbers: NDArray[np.int64],
        starts: NDArray[np.int64],
    ) -> Run | None:
        """Merge into a file. None when the disk is full."""
        count = int(starts[-1])
        bits = max(1, (count // BUCKET_ENTRIES).bit_length())
        head = _head(count, bits, [self.pack_id(number) for number in numbers.tolist()], starts)
        slices = -(-count // SLICE_ENTRIES)
        # Each slice has whole buckets.
        bounds = [(number << bits) // slices for number in range(slices + 1)]
        cuts = np.array([bound << (64 - bits) for bound in bounds[1:-1]], np.uint64)
        fences_at = len(head) + count * ENTRY_BYTES
        filters_at = fences_at + _padded(((1 << bits) + 1) * FENCE_BYTES)
        file = self._directory / f"{secrets.token_hex(12)}.run"
        temporary = file.with_suffix(".new")
        try:
            with temporary.open("wb") as out:
                out.write(head)
                done = 0
                for (first, end), slice_ in zip(
                    pairwise(bounds), merged_slices(runs, bases, cuts), strict=True
                ):
                    offset = len(head)
                    for array in slice_:
                        _write_at(out, offset + done * array.itemsize, array)
                        offset += count * array.itemsize
                    sizes, filters = fences_and_filters(slice_[0], slice_[1], first, end, 1 << bits)
                    ends = (np.cumsum(sizes) + done).astype("<u4")
                    _write_at(out, fences_at + (first + 1) * FENCE_BYTES, ends)
                    _write_at(out, filters_at + first * FILTER_BYTES, filters)
                    done += len(slice_[0])
            temporary.rename(file)
        except OSError:
            temporary.unlink(missing_ok=True)
            return None
        return self._map(file)

    def _load(self, file: Path) -> None:
        run = self._map(file)
        if run is None:
            file.unlink(missing_ok=True)
            return
        ids = {self.pack_id(number) for number in run.numbers.tolist()}
        if ids <= self._is_covered:
            # Two processes merged the same runs.
            file.unlink(missing_ok=True)
            return
        self._is_covered |= ids
        self._runs = (*self._runs, run)

    def _map(self, file: Path) -> Run | None:
        try:
            content = np.memmap(file, np.uint8, "r")
            magic, count, pack_count, bits, _, checksum = HEADER.unpack(content[: HEADER.size].tobytes())
            ids_end = HEADER.size + PACK_ID_BYTES * pack_count
            starts_end = ids_end + 8 * (pack_count + 1)
            listed = content[HEADER.size : starts_end].tobytes()
            begin = _padded(starts_end)
            fences_bytes = ((1 << min(bits, 40)) + 1) * FENCE_BYTES
            filters_bytes = (1 << min(bits, 40)) * FILTER_BYTES
            if (
                magic != MAGIC
                or not count
                or not 1 <= bits <= 40
                or len(content) != begin + ENTRY_BYTES * count + _padded(fences_bytes) + filters_bytes
                or blake3(struct.pack("<QI", count, bits) + listed).digest() != checksum
            ):
                return None
        except (OSError, ValueError, struct.error):
            return None
        numbers = [
            self._number(listed[offset : offset + PACK_ID_BYTES].hex())
            for offset in range(0, PACK_ID_BYTES * pack_count, PACK_ID_BYTES)
        ]
        self._make_room(max(numbers, default=0))
        lengths = [8 * count, 4 * count, 4 * count, fences_bytes, _padded(fences_bytes) - fences_bytes]
        fields = np.split(content[begin:], np.cumsum(lengths))
        fences = fields[3].view(np.uint32)
        if fences[0] != 0 or fences[-1] != count or (fences[1:] < fences[:-1]).any():
            return None
        return Run(
            fields[0].view(np.uint64),
            fields[1].view(np.uint32),
            fields[2].view(np.uint32),
            np.array(numbers, np.int64),
            np.frombuffer(listed, "<i8", pack_count + 1, PACK_ID_BYTES * pack_count).astype(np.int64),
            fences,
            fields[5].view(np.uint64),
            file,
            file.stat().st_mtime_ns,
        )


def _size_class(run: Run) -> int:
    """Runs of one class are merged with each other, into one of the next."""
    return max(0, (len(run.head) // SMALLEST_ENTRIES).bit_length() + 1) // 2


def _age(run: Run) -> tuple[int, int]:
    """Sorts the newest first: what is in memory, then small files before large ones."""
    return -1 if run.file is None else _size_class(run), -run.made_ns


def _head(count: int, bits: int, pack_ids: list[str], starts: NDArray[np.int64]) -> bytes:
    listed = b"".join(map(bytes.fromhex, pack_ids)) + starts.astype("<i8").tobytes()
    checksum = blake3(struct.pack("<QI", count, bits) + listed).digest()
    head = HEADER.pack(MAGIC, count, len(pack_ids), bits, 0, checksum) + listed
    return head + bytes(_padded(len(head)) - len(head))


def _padded(length: int) -> int:
    """The length up to the next cache line."""
    return length + -length % 64


def _write_at(out: BinaryIO, offset: int, array: NDArray[Any]) -> None:
    out.seek(offset)
    out.write(np.ascontiguousarray(array).data.cast("B"))
