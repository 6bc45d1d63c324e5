"""Frames and packs: up to 32 blocks compressed and sealed together, and the objects that hold them.

A pack is its frames one after the other, a sealed footer that lists each frame's length and each
block's digest, and a trailer. An *entry* is the number of a block in its pack, counted over the
frames in order; (pack, entry) is a place. Layout: docs/store-format.md.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from opengallery.imagestore.blocks import BLOCK_BYTES, DIGEST_BYTES, Digests, as_array, digest_blocks
from opengallery.imagestore.bulk import ALL_GOOD, compress, decompress
from opengallery.imagestore.cache import FrameCache
from opengallery.imagestore.errors import CorruptBlock
from opengallery.imagestore.keys import DataKey, NotAuthentic
from opengallery.imagestore.objects import Objects
from opengallery.imagestore.workers import SCRATCH_BYTES, SCRATCH_SEALED_BYTES, Worker

FRAME_BLOCKS = 32
# 60 MiB before compression: even what does not compress stays under 64 MiB with its footer, every place
# is known before anything is compressed, and a footer comes in one read.
PACK_BLOCKS = 15_360
# Frames that are read together: so much, with gaps up to that, and as many as a worker opens at once.
GROUP_BYTES = 4 << 20
MAX_GAP_BYTES = 32 << 10
GROUP_FRAMES = 32
PACK_MAX_BYTES = 64 << 20
MAGIC = b"OGPACK\x00\x01"
TRAILER = struct.Struct("<Q32s8s")
COUNTS = struct.Struct("<II")
FOOTER_READ_BYTES = 640 << 10


class PackHome(Protocol):
    """What reading a pack needs of its store."""

    name: str
    key: DataKey
    objects: Objects
    cache: FrameCache


@dataclass(frozen=True)
class Footer:
    """What a pack holds. `first_entry` and `offsets` have one element more than there are frames."""

    pack_id: str
    checksum: bytes
    digests: Digests
    offsets: NDArray[np.int64]
    first_entry: NDArray[np.int64]

    def frames_of(self, entries: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the frame of each entry."""
        return np.searchsorted(self.first_entry, entries, side="right") - 1

    def frame_digests(self, frame: int) -> Digests:
        """Return the digests of the blocks of `frame`, in order."""
        return self.digests[self.first_entry[frame] : self.first_entry[frame + 1]]

    @cached_property
    def size_bytes(self) -> int:
        """What keeping this footer costs in memory."""
        return self.digests.nbytes + self.offsets.nbytes + self.first_entry.nbytes + 500


def pack_path(pack_id: str) -> str:
    """Where the pack lies in its store."""
    return f"packs/{pack_id[:2]}/{pack_id}"


def seal_frame(key: DataKey, content: bytes | memoryview) -> bytes:
    """Compress and seal the blocks of one frame. Lets go of the GIL while it compresses."""
    return key.frame.seal(compress(content))


def open_frame(home: PackHome, footer: Footer, frame: int, sealed: bytes | memoryview) -> bytes:
    """Return the blocks of a frame after checking every digest. Raises `CorruptBlock`."""
    digests = footer.frame_digests(frame)
    size_bytes = len(digests) * BLOCK_BYTES
    try:
        content = decompress(home.key.frame.open(sealed), size_bytes)
    except NotAuthentic:
        raise CorruptBlock(
            home.name, footer.pack_id, digests[0].tobytes().hex(), f"frame {frame} is damaged"
        ) from None
    found = digest_blocks(np.frombuffer(content, np.uint8).reshape(-1, BLOCK_BYTES), home.key.block_key)
    if b"".join(found) != digests.tobytes():
        wrong = int(np.flatnonzero((as_array(found) != digests).any(axis=1))[0])
        raise CorruptBlock(
            home.name, footer.pack_id, digests[wrong].tobytes().hex(), "a block does not match its digest"
        )
    return content


def read_frames(home: PackHome, footer: Footer, first: int, last: int) -> list[bytes]:
    """Return the sealed frames `first` to `last` (included) in one read, not checked yet."""
    start, end = int(footer.offsets[first]), int(footer.offsets[last + 1])
    try:
        content = home.objects.range(pack_path(footer.pack_id), start, end - start)
    except FileNotFoundError:
        raise CorruptBlock(home.name, footer.pack_id, "", "the pack is missing") from None
    except OSError as error:
        raise CorruptBlock(home.name, footer.pack_id, "", f"the disk cannot read it: {error}") from error
    ends = footer.offsets[first : last + 2] - start
    return [content[ends[i] : ends[i + 1]] for i in range(last - first + 1)]


def open_frames(worker: Worker, home: PackHome, footer: Footer, frames: list[int]) -> dict[int, bytes]:
    """Read frames, ascending and few enough for a worker's scratch memory, in one read, and open them in
    the worker. Raises `CorruptBlock`."""
    sealed = read_frames(home, footer, frames[0], frames[-1])
    opened = open_sealed(worker, home, [(footer, frame, sealed[frame - frames[0]]) for frame in frames])
    return dict(zip(frames, opened, strict=True))


def open_sealed(
    worker: Worker, home: PackHome, sealed: list[tuple[Footer, int, bytes]], *, is_check: bool = False
) -> list[bytes]:
    """Open frames (footer, frame, sealed) in the worker, at most `GROUP_FRAMES`, checking every digest.

    Returns the blocks of each, or nothing with `is_check`. Raises `CorruptBlock`.
    """
    digests = [footer.frame_digests(frame) for footer, frame, _ in sealed]
    counts = [len(array) for array in digests]
    joined = b"".join([content for _, _, content in sealed])
    if len(joined) > SCRATCH_SEALED_BYTES or sum(counts) * BLOCK_BYTES > SCRATCH_BYTES:
        raise ValueError("too many frames at once")
    memory = worker.scratch.memory
    memory[: len(joined)] = np.frombuffer(joined, np.uint8)
    lengths = [len(content) for _, _, content in sealed]
    known = b"".join([array.tobytes() for array in digests])
    out = SCRATCH_SEALED_BYTES
    bad = worker.run("open", worker.scratch, home.key, 0, lengths, known, counts, out)
    if bad != ALL_GOOD:
        # Says what is wrong with it.
        return [open_frame(home, footer, frame, content) for footer, frame, content in sealed]
    if is_check:
        return []
    ends = (out + np.cumsum([0, *counts]) * BLOCK_BYTES).tolist()
    return [memory[start:end].tobytes() for start, end in pairwise(ends)]


def frame_groups(footer: Footer, frames: list[int]) -> Iterator[list[int]]:
    """Group ascending frames so that each group is worth one read and fits a worker's scratch memory."""
    group: list[int] = []
    for frame in frames:
        if group and (
            len(group) == GROUP_FRAMES
            or footer.offsets[frame] - footer.offsets[group[-1] + 1] > MAX_GAP_BYTES
            or footer.offsets[frame + 1] - footer.offsets[group[0]] > GROUP_BYTES
        ):
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def encode_footer(frame_bytes: list[int], frame_blocks: list[int], digests: Digests) -> bytes:
    """Lay a footer out, not sealed yet."""
    return b"".join(
        (
            COUNTS.pack(len(frame_bytes), len(digests)),
            np.array(frame_bytes, "<u4").tobytes(),
            np.array(frame_blocks, "<u4").tobytes(),
            digests.tobytes(),
        )
    )


def decode_footer(pack_id: str, checksum: bytes, plain: bytes, frames_bytes: int) -> Footer:
    """Read a footer of a pack whose frames take `frames_bytes`. Raises `ValueError`."""
    frame_count, block_count = COUNTS.unpack_from(plain)
    if len(plain) != COUNTS.size + 8 * frame_count + DIGEST_BYTES * block_count:
        raise ValueError("its footer has the wrong length")
    sizes = np.frombuffer(plain, "<u4", frame_count, COUNTS.size)
    counts = np.frombuffer(plain, "<u4", frame_count, COUNTS.size + 4 * frame_count)
    digests = np.frombuffer(plain, np.uint8, offset=COUNTS.size + 8 * frame_count)
    offsets = np.zeros(frame_count + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    first_entry = np.zeros(frame_count + 1, np.int64)
    np.cumsum(counts, out=first_entry[1:])
    if (
        first_entry[-1] != block_count
        or offsets[-1] != frames_bytes
        or ((counts < 1) | (counts > FRAME_BLOCKS)).any()
    ):
        raise ValueError("its footer contradicts itself")
    return Footer(pack_id, checksum, digests.reshape(-1, DIGEST_BYTES), offsets, first_entry)


def read_footer(home: PackHome, pack_id: str, checksum: bytes | None = None) -> Footer:
    """Return the footer of a pack, from the cache or the store.

    `checksum`, when given, is that of the footer which the caller has checked before: another one is
    refused. Raises `CorruptBlock`.
    """
    found = home.cache.get(("footer", home.key.check, pack_id))
    if isinstance(found, Footer) and checksum in (None, found.checksum):
        return found
    path = pack_path(pack_id)
    try:
        tail, size_bytes = home.objects.tail(path, FOOTER_READ_BYTES)
        if len(tail) < TRAILER.size:
            raise ValueError("it is cut short")
        length, expected, magic = TRAILER.unpack_from(tail, len(tail) - TRAILER.size)
        if magic != MAGIC or length > size_bytes - TRAILER.size:
            raise ValueError("its trailer is damaged")
        if length + TRAILER.size > len(tail):
            tail, _ = home.objects.tail(path, length + TRAILER.size)
        sealed = tail[-TRAILER.size - length : -TRAILER.size]
        if blake3(sealed).digest() != expected or checksum not in (None, expected):
            raise ValueError("its footer does not match its checksum")
        footer = decode_footer(
            pack_id, expected, home.key.footer.open(sealed), size_bytes - TRAILER.size - length
        )
    except FileNotFoundError:
        raise CorruptBlock(home.name, pack_id, "", "the pack is missing") from None
    except OSError as error:
        raise CorruptBlock(home.name, pack_id, "", f"the disk cannot read it: {error}") from error
    except NotAuthentic:
        raise CorruptBlock(home.name, pack_id, "", "its footer is not authentic") from None
    except (ValueError, struct.error) as error:
        raise CorruptBlock(home.name, pack_id, "", str(error)) from None
    home.cache.put(("footer", home.key.check, pack_id), footer, footer.size_bytes)
    return footer


class PackWriter:
    """One pack in the making."""

    def __init__(self, objects: Objects, key: DataKey) -> None:
        """Begin a pack in `objects`."""
        self._object = objects.writer()
        self._key = key
        self._hasher = blake3()
        self._frame_bytes: list[int] = []
        self._frame_blocks: list[int] = []
        self.stored_bytes = 0

    def add(self, sealed: bytes | memoryview, lengths: list[int], counts: list[int]) -> None:
        """Append sealed frames of `lengths` bytes with `counts` blocks each, one after the other."""
        self._frame_bytes += lengths
        self._frame_blocks += counts
        self._write(sealed)

    def commit(self, digests: Digests) -> str:
        """Write footer and trailer and make the pack durable. Returns its id.

        `digests` are those of all blocks in all frames, in order.
        """
        sealed = self._key.footer.seal(encode_footer(self._frame_bytes, self._frame_blocks, digests))
        self._write(sealed)
        self._write(TRAILER.pack(len(sealed), blake3(sealed).digest(), MAGIC))
        pack_id = self._hasher.hexdigest()
        self._object.commit(pack_path(pack_id))
        return pack_id

    def abort(self) -> None:
        """Leave nothing behind; nothing happens after a commit."""
        self._object.abort()

    def _write(self, content: bytes | memoryview) -> None:
        self._object.write(content)
        self._hasher.update(content)
        self.stored_bytes += len(content)
