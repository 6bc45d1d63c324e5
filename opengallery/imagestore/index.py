"""Index: digest -> place, for writers. Derived from the footers of the packs; can be thrown away.

Runs are immutable arrays sorted by the first 8 bytes of the digest: small ones in memory for what this
process wrote lately, larger ones in files that are mapped and searched in bulk. Readers need no index.
A wrong entry can do no harm: writers check each place against the pack's footer before they rely on
it (`IndexMismatch`), so the files carry a checksum of their header only and are not synced.
"""

import secrets
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from opengallery.imagestore.blocks import Digests

NOT_HELD = -1
MAGIC = b"OGINDX\x00\x01"
HEADER = struct.Struct("<8sQI32s")
PACK_ID_BYTES = 32
ENTRY_BYTES = 8 + 24 + 4 + 4
SPILL_ENTRIES = 256 << 10
SMALL_ENTRIES = 1 << 20
MAX_SMALL_RUNS = 8
LEFTOVER_S = 3600.0


@dataclass(frozen=True)
class Run:
    """Sorted entries. `pack` holds the index's pack numbers in memory, the run's own in a file."""

    head: NDArray[np.uint64]
    rest: NDArray[np.uint64]
    pack: NDArray[np.uint32]
    entry: NDArray[np.uint32]
    numbers: NDArray[np.int64]
    file: Path | None = None


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
            words = np.ascontiguousarray(digests).view("<u8").reshape(-1, 4)
            order = np.argsort(words[:, 0], kind="stable")
            run = Run(
                words[order, 0],
                words[order, 1:],
                np.zeros(len(order), np.uint32),
                order.astype(np.uint32),
                np.array([number], np.int64),
            )
            self._runs = (*self._runs, run)
            self._settle(in_memory=True)

    def lookup(self, digests: Digests) -> NDArray[np.int64]:
        """Return the place of each digest, as pack number << 32 | entry, or `NOT_HELD`."""
        runs, is_usable = self._runs, self._is_usable
        words = np.ascontiguousarray(digests).view("<u8").reshape(-1, 4)
        places = np.full(len(words), NOT_HELD, np.int64)
        order = np.argsort(words[:, 0])
        for run in runs:
            wanted = order[places[order] == NOT_HELD]
            if not len(wanted):
                break
            positions = np.searchsorted(run.head, words[wanted, 0])
            while True:
                inside = positions < len(run.head)
                wanted, positions = wanted[inside], positions[inside]
                same = run.head[positions] == words[wanted, 0]
                wanted, positions = wanted[same], positions[same]
                if not len(wanted):
                    break
                packs = run.numbers[run.pack[positions]]
                held = (run.rest[positions] == words[wanted, 1:]).all(axis=1) & is_usable[packs]
                places[wanted[held]] = (packs[held] << 32) | run.entry[positions[held]].astype(np.int64)
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
            self._settle(in_memory=False)

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

    def _settle(self, *, in_memory: bool) -> None:
        """Keep the number of small runs, and what is in memory, bounded."""
        small = [
            run for run in self._runs if (run.file is None) == in_memory and len(run.head) < SMALL_ENTRIES
        ]
        entries = sum(len(run.head) for run in small)
        if in_memory and entries >= SPILL_ENTRIES:
            self.flush()
        elif len(small) > MAX_SMALL_RUNS:
            self._merge(small, to_file=not in_memory)

    def _merge(self, runs: list[Run], *, to_file: bool) -> None:
        if not runs:
            return
        packs = np.concatenate([run.numbers[run.pack] for run in runs])
        head = np.concatenate([run.head for run in runs])
        order = np.argsort(head, kind="stable")
        # Drop the entries of packs that are gone; should one come back, its footer is read again.
        is_kept = self._is_usable[packs[order]]
        self._is_covered -= {self.pack_id(number) for number in np.unique(packs[order[~is_kept]]).tolist()}
        order = order[is_kept]
        numbers, own = np.unique(packs[order], return_inverse=True)
        merged = Run(
            head[order],
            np.concatenate([run.rest for run in runs])[order],
            own.astype(np.uint32),
            np.concatenate([run.entry for run in runs])[order],
            numbers,
        )
        if to_file and len(order):
            merged = self._write(merged)
        gone = {id(run) for run in runs}
        kept = [run for run in self._runs if id(run) not in gone]
        self._runs = (*kept, merged) if len(order) else tuple(kept)
        for run in runs:
            if run.file is not None:
                run.file.unlink(missing_ok=True)

    def _write(self, run: Run) -> Run:
        ids = b"".join(bytes.fromhex(self.pack_id(number)) for number in run.numbers.tolist())
        checksum = blake3(struct.pack("<Q", len(run.head)) + ids).digest()
        file = self._directory / f"{secrets.token_hex(12)}.run"
        temporary = file.with_suffix(".new")
        try:
            with temporary.open("wb") as out:
                out.write(HEADER.pack(MAGIC, len(run.head), len(run.numbers), checksum))
                out.write(ids)
                out.write(bytes(-out.tell() % 64))
                for array in (run.head, run.rest, run.pack, run.entry):
                    out.write(np.ascontiguousarray(array).data.cast("B"))
            temporary.rename(file)
        except OSError:
            # A full disk is no reason to fail a put: the run stays in memory and can be derived again.
            temporary.unlink(missing_ok=True)
            return run
        return self._map(file) or run

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
            magic, count, pack_count, checksum = HEADER.unpack(content[: HEADER.size].tobytes())
            ids_end = HEADER.size + PACK_ID_BYTES * pack_count
            ids = content[HEADER.size : ids_end].tobytes()
            start = ids_end + -ids_end % 64
            if (
                magic != MAGIC
                or len(content) != start + ENTRY_BYTES * count
                or blake3(struct.pack("<Q", count) + ids).digest() != checksum
            ):
                return None
        except (OSError, ValueError, struct.error):
            return None
        numbers = [
            self._number(ids[offset : offset + PACK_ID_BYTES].hex())
            for offset in range(0, len(ids), PACK_ID_BYTES)
        ]
        self._make_room(max(numbers, default=0))
        fields = np.split(content[start:], np.cumsum([8 * count, 24 * count, 4 * count]))
        pack = fields[2].view(np.uint32)
        if count and int(pack.max()) >= pack_count:
            return None
        return Run(
            fields[0].view(np.uint64),
            fields[1].view(np.uint64).reshape(-1, 3),
            pack,
            fields[3].view(np.uint32),
            np.array(numbers, np.int64),
            file,
        )
