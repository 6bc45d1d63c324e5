"""An arena: memory that this process and its workers see both, so that blocks need not be sent.

Writers lay blocks into it, workers digest, compress and open them in place (`bulk`). Its pages are given
back when it is released; the mapping stays and is used again.
"""

import itertools
import mmap
import os

import numpy as np
from numpy.typing import NDArray

# What a worker process says when it is up, and what it is told before an arena's file comes.
READY = "ready"
MAP = "map"

_numbers = itertools.count()


class Arena:
    """`size_bytes` of memory, shared by its file descriptor `file`, or private when `file` is None."""

    def __init__(self, size_bytes: int, *, is_shared: bool) -> None:
        """Reserve the memory; pages come when they are touched."""
        self.number = next(_numbers)
        self.size_bytes = size_bytes
        self.file: int | None = os.memfd_create("blocks", os.MFD_CLOEXEC) if is_shared else None
        if self.file is None:
            self._map = mmap.mmap(-1, size_bytes)
        else:
            os.ftruncate(self.file, size_bytes)
            self._map = mmap.mmap(self.file, size_bytes)
        self.memory: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)

    def release_pages(self) -> None:
        """Give the memory back to the system; what was in it is gone."""
        self._map.madvise(mmap.MADV_REMOVE if self.file is not None else mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file; the memory goes with the last view of it."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def map_arena(file: int, size_bytes: int) -> NDArray[np.uint8]:
    """Map an arena that another process made."""
    return np.frombuffer(mmap.mmap(file, size_bytes), np.uint8)
