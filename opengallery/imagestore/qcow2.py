"""qcow2: writing a disk into a new file of this format, version 3, clusters of 64 KiB, not compressed.

Clusters of zeros are left out; the others lie in the order in which they came. The header is written
last, so that a file that was broken off is no image. Source: QEMU's docs/interop/qcow2.txt.
"""

import os
import struct
import threading

import numpy as np

CLUSTER_BITS = 16
CLUSTER_BYTES = 1 << CLUSTER_BITS
TABLE_ENTRIES = CLUSTER_BYTES // 8
REFCOUNTS_PER_BLOCK = CLUSTER_BYTES // 2
COPIED = 1 << 63
NOT_HELD = 0


class Qcow2Writer:
    """Writes into an open, empty file. `write` and `read` are safe to use from several threads."""

    def __init__(self, file: int, size_bytes: int) -> None:
        """Begin a disk of `size_bytes` in `file`, which stays the caller's."""
        self._file, self.size_bytes = file, size_bytes
        self._places = np.zeros(-(-size_bytes // CLUSTER_BYTES), np.uint64)
        self._next = 1  # the header's cluster is the first
        self._lock = threading.Lock()

    def write(self, offset: int, content: bytes) -> None:
        """Write at a multiple of 64 KiB, whole clusters unless the disk ends; each cluster once."""
        if offset % CLUSTER_BYTES or (
            len(content) % CLUSTER_BYTES and offset + len(content) != self.size_bytes
        ):
            raise ValueError("whole clusters are written")
        for start in range(0, len(content), CLUSTER_BYTES):
            cluster = content[start : start + CLUSTER_BYTES]
            if cluster.count(0) == len(cluster):
                continue
            with self._lock:
                place = self._next * CLUSTER_BYTES
                self._next += 1
            self._places[(offset + start) // CLUSTER_BYTES] = place
            _write(self._file, cluster.ljust(CLUSTER_BYTES, b"\0"), place)

    def read(self, offset: int, length: int) -> bytes:
        """What was written there, read from the file; zeros elsewhere."""
        pieces = []
        while length:
            within = offset % CLUSTER_BYTES
            count = min(length, CLUSTER_BYTES - within)
            place = int(self._places[offset // CLUSTER_BYTES])
            pieces.append(os.pread(self._file, count, place + within) if place else bytes(count))
            offset, length = offset + count, length - count
        return b"".join(pieces)

    def finish(self) -> None:
        """Write tables and header, and bring everything to the disk."""
        level1 = self._write_tables()
        level1_place = self._append(level1.astype(">u8").tobytes())
        refcounts_place, refcount_clusters = self._write_refcounts()
        os.fsync(self._file)
        header = struct.pack(
            ">4sIQIIQIIQQIIQQQQII",
            b"QFI\xfb", 3, 0, 0, CLUSTER_BITS, self.size_bytes, 0, len(level1), level1_place,
            refcounts_place, refcount_clusters, 0, 0, 0, 0, 0, 4, 104,
        )  # fmt: skip
        _write(self._file, header.ljust(CLUSTER_BYTES, b"\0"), 0)
        os.fsync(self._file)

    def _write_tables(self) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
        """Write the level 2 tables that hold something; return the level 1 table."""
        count = -(-len(self._places) // TABLE_ENTRIES)
        level1 = np.zeros(count, np.uint64)
        for number in range(count):
            entries = self._places[number * TABLE_ENTRIES : (number + 1) * TABLE_ENTRIES]
            if entries.any():
                table = np.where(entries != NOT_HELD, entries | np.uint64(COPIED), np.uint64(0))
                level1[number] = self._append(table.astype(">u8").tobytes()) | COPIED
        return level1

    def _write_refcounts(self) -> tuple[int, int]:
        """Every cluster is used once: as many blocks of ones as it takes, their own clusters counted."""
        used, blocks, tables = self._next, 0, 0
        while True:
            total = used + blocks + tables
            needed = -(-total // REFCOUNTS_PER_BLOCK)
            needed_tables = -(-needed // TABLE_ENTRIES)
            if (needed, needed_tables) == (blocks, tables):
                break
            blocks, tables = needed, needed_tables
        places = []
        for number in range(blocks):
            count = min(REFCOUNTS_PER_BLOCK, total - number * REFCOUNTS_PER_BLOCK)
            places.append(self._append(np.ones(count, ">u2").tobytes()))
        return self._append(np.array(places, ">u8").tobytes()), tables

    def _append(self, content: bytes) -> int:
        """Write at the end, filled up to whole clusters; return where."""
        place = self._next * CLUSTER_BYTES
        clusters = -(-len(content) // CLUSTER_BYTES)
        self._next += clusters
        _write(self._file, content.ljust(clusters * CLUSTER_BYTES, b"\0"), place)
        return place


def _write(file: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        count = os.pwrite(file, left, offset)
        left, offset = left[count:], offset + count
