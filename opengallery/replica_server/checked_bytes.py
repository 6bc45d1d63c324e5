"""A bounded cache of bytes that were read and checked, laid out like their image, ready to be sent.

A slab is 4 MiB of an image in anonymous memory: pieces of 64 KiB that nobody read yet, and pieces of
zeros, are never written and take none. What falls out of the cache is a whole slab. Sockets get copies:
that costs less than handing them 16 pages each time, and a slab can go at any moment. All of it lives
in one thread, without locks.

On a host that swaps, its swap belongs to its memory: what comes back from there is not checked again.
"""

import mmap
from collections import OrderedDict
from contextlib import suppress

from opengallery.replication.boot_pieces import PIECE_BYTES

SLAB_BYTES = 4 << 20
MIN_BYTES = 16 << 20
# What a slab costs beside its pieces: page tables, and what Python and the kernel know about it.
SLAB_COST_BYTES = 12 << 10
# Each is a mapping, of which a process may have 65,530.
MAX_SLABS = 1 << 14
ZEROS = bytes(PIECE_BYTES)


class _Slab:
    """`present` has a bit for each piece that is here."""

    __slots__ = ("cost_bytes", "image", "memory", "number", "present")

    def __init__(self, image: "CheckedImage", number: int) -> None:
        self.image, self.number = image, number
        self.memory = mmap.mmap(-1, SLAB_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):
            # A large page takes 2 MiB for a piece. A kernel that has none refuses.
            self.memory.madvise(mmap.MADV_NOHUGEPAGE)
        self.present = 0
        self.cost_bytes = SLAB_COST_BYTES


class CheckedImage:
    """What is here of one image: of all its replicas, since they have the same bytes."""

    __slots__ = ("_cache", "_used", "slabs")

    def __init__(self, cache: "CheckedBytes") -> None:
        """Nothing is here yet."""
        self._cache, self._used = cache, cache.recent.move_to_end
        self.slabs: dict[int, _Slab] = {}

    def find(self, offset: int, end: int) -> tuple[mmap.mmap, int, int] | None:
        """Where bytes `offset` to `end` are: (memory, start in it, end in it of what follows there).

        None when the first of them is not here. Good until anything is put: send it at once.
        """
        number, start = divmod(offset, SLAB_BYTES)
        slab = self.slabs.get(number)
        if slab is None:
            return None
        stop = min(end - offset + start, SLAB_BYTES)
        first = start // PIECE_BYTES
        missing = ((2 << (stop - 1) // PIECE_BYTES) - (1 << first)) & ~slab.present
        if missing:
            lowest = (missing & -missing).bit_length() - 1
            if lowest == first:
                return None
            stop = lowest * PIECE_BYTES
        self._used(slab)
        return slab.memory, start, stop

    def holds(self, offset: int, end: int) -> bool:
        """Whether all bytes from `offset` to `end` are here."""
        while offset < end:
            place = self.find(offset, end)
            if place is None:
                return False
            _, start, stop = place
            offset += stop - start
        return True

    def put(self, offset: int, content: bytes) -> None:
        """Keep whole pieces from byte `offset` on; only the image's last piece may be shorter."""
        assert offset % PIECE_BYTES == 0
        for position in range(0, len(content), PIECE_BYTES):
            number, start = divmod(offset + position, SLAB_BYTES)
            self._cache.fill(self, number, start, content[position : position + PIECE_BYTES])


class CheckedBytes:
    """The most recently used slabs of all images, up to `max_bytes` of memory."""

    def __init__(self, max_bytes: int) -> None:
        """Start empty. A cache of less than 16 MiB could not hold what is read at one time."""
        self.max_bytes = max(max_bytes, MIN_BYTES)
        self.used_bytes = 0
        self._images: dict[tuple[str, str], CheckedImage] = {}
        # The most recently used comes last.
        self.recent: OrderedDict[_Slab, None] = OrderedDict()

    def image(self, tenant_id: str, image_id: str) -> CheckedImage:
        """What is here of an image. Keep it no longer than the request: an empty one is let go."""
        name = tenant_id, image_id
        found = self._images.get(name)
        if found is None:
            for other in [other for other, image in self._images.items() if not image.slabs]:
                del self._images[other]
            found = self._images[name] = CheckedImage(self)
        return found

    def find(self, name: tuple[str, str], offset: int, end: int) -> tuple[mmap.mmap, int, int] | None:
        """Where bytes `offset` to `end` of the image of (tenant id, image id) are, as the image says it."""
        image = self._images.get(name)
        return None if image is None else image.find(offset, end)

    def fill(self, image: CheckedImage, number: int, start: int, piece: bytes) -> None:
        """Write the piece at `start` of a slab, if it is not there yet."""
        bit = 1 << start // PIECE_BYTES
        slab = image.slabs.get(number)
        if slab is None or not slab.present & bit:
            cost_bytes = 0 if piece == ZEROS[: len(piece)] else PIECE_BYTES
            self._make_room(cost_bytes + SLAB_COST_BYTES)
            # Making room may have dropped this very slab.
            slab = image.slabs.get(number) or self._add(image, number)
            if cost_bytes:
                slab.memory[start : start + len(piece)] = piece
                slab.cost_bytes += cost_bytes
                self.used_bytes += cost_bytes
            slab.present |= bit
        self.recent.move_to_end(slab)

    def _add(self, image: CheckedImage, number: int) -> _Slab:
        slab = image.slabs[number] = _Slab(image, number)
        self.recent[slab] = None
        self.used_bytes += slab.cost_bytes
        return slab

    def _make_room(self, wanted_bytes: int) -> None:
        while self.recent and (
            self.used_bytes + wanted_bytes > self.max_bytes or len(self.recent) >= MAX_SLABS
        ):
            slab, _ = self.recent.popitem(last=False)
            del slab.image.slabs[slab.number]
            slab.memory.close()
            self.used_bytes -= slab.cost_bytes
