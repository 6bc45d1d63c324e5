"""A bounded cache of bytes that were read and checked, laid out like their image, ready for sendfile.

A slab is 4 MiB of an image in a memory file of its own, sparse: pieces of 64 KiB that nobody read yet,
and pieces of zeros, are holes in it. What falls out of the cache is a whole slab, by closing its file:
what the kernel still has to send of it stays as it is, because a page that is on its way to a socket
outlives its file and is never written again. All of it lives in one thread, without locks.

The pages are anonymous memory, never written to a disk by the cache. On a host that swaps, its swap
belongs to its memory: what comes back from there is not checked again.
"""

import os
from collections import OrderedDict

SLAB_BYTES = 4 << 20
PIECE_BYTES = 64 << 10
MIN_BYTES = 16 << 20
# A memory file costs the kernel about this much beside its pages, and a file descriptor.
SLAB_COST_BYTES = 4096
ZEROS = bytes(PIECE_BYTES)


class _Slab:
    """`present` has a bit for each piece that is here."""

    __slots__ = ("cost_bytes", "file", "image", "number", "present")

    def __init__(self, image: "CheckedImage", number: int) -> None:
        self.image, self.number = image, number
        self.file = os.memfd_create("checked", os.MFD_CLOEXEC)
        os.ftruncate(self.file, SLAB_BYTES)
        self.present = 0
        self.cost_bytes = SLAB_COST_BYTES


class CheckedImage:
    """What is here of one image: of all its replicas, since they have the same bytes."""

    __slots__ = ("_cache", "slabs")

    def __init__(self, cache: "CheckedBytes") -> None:
        """Nothing is here yet."""
        self._cache = cache
        self.slabs: dict[int, _Slab] = {}

    def find(self, offset: int, end: int) -> tuple[int, int, int] | None:
        """Where bytes `offset` to `end` are: (file, offset in it, how many of them follow there).

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
        self._cache.touch(slab)
        return slab.file, start, stop - start

    def put(self, offset: int, content: bytes) -> None:
        """Keep whole pieces from byte `offset` on; only the image's last piece may be shorter."""
        assert offset % PIECE_BYTES == 0
        end = offset + len(content)
        position = offset
        while position < end:
            number, start = divmod(position, SLAB_BYTES)
            stop = min(end - position + start, SLAB_BYTES)
            self._cache.fill(
                self, number, start, content[position - offset : position - offset + stop - start]
            )
            position += stop - start


class CheckedBytes:
    """The most recently used slabs of all images, up to `max_bytes` of memory and `max_slabs` files."""

    def __init__(self, max_bytes: int, max_slabs: int) -> None:
        """Start empty. A cache of less than 16 MiB could not hold what is read at one time."""
        self.max_bytes = max(max_bytes, MIN_BYTES)
        self.max_slabs = max(max_slabs, MIN_BYTES // SLAB_BYTES)
        self.used_bytes = 0
        self._images: dict[tuple[str, str], CheckedImage] = {}
        self._slabs: OrderedDict[_Slab, None] = OrderedDict()

    def image(self, tenant_id: str, image_id: str) -> CheckedImage:
        """What is here of an image. Keep it no longer than the request: an empty one is let go."""
        name = tenant_id, image_id
        found = self._images.get(name)
        if found is None:
            for other in [other for other, image in self._images.items() if not image.slabs]:
                del self._images[other]
            found = self._images[name] = CheckedImage(self)
        return found

    def touch(self, slab: _Slab) -> None:
        """Make a slab the most recently used."""
        self._slabs.move_to_end(slab)

    def fill(self, image: CheckedImage, number: int, start: int, content: bytes) -> None:
        """Write the pieces from `start` of a slab on that are not in it yet."""
        self._make_room(len(content) + SLAB_COST_BYTES)
        slab = image.slabs.get(number)
        if slab is None:
            slab = image.slabs[number] = _Slab(image, number)
            self.used_bytes += slab.cost_bytes
        self._slabs[slab] = None
        self._slabs.move_to_end(slab)
        for position in range(0, len(content), PIECE_BYTES):
            bit = 1 << (start + position) // PIECE_BYTES
            piece = content[position : position + PIECE_BYTES]
            if slab.present & bit:
                continue
            if piece != ZEROS[: len(piece)]:
                written = os.pwrite(slab.file, piece, start + position)
                assert written == len(piece)
            slab.present |= bit
        # Large pages can take more than was written.
        cost_bytes = SLAB_COST_BYTES + os.fstat(slab.file).st_blocks * 512
        self.used_bytes += cost_bytes - slab.cost_bytes
        slab.cost_bytes = cost_bytes

    def _make_room(self, wanted_bytes: int) -> None:
        while self._slabs and (
            self.used_bytes + wanted_bytes > self.max_bytes or len(self._slabs) >= self.max_slabs
        ):
            slab, _ = self._slabs.popitem(last=False)
            del slab.image.slabs[slab.number]
            os.close(slab.file)
            self.used_bytes -= slab.cost_bytes
