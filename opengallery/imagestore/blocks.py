"""Blocks: 4096 bytes of an image at a 4096-byte boundary, the unit of deduplication.

Arrays of digests are numpy arrays of shape (n, 32), dtype uint8; the digest of a hole is 32 zero bytes.
"""

from collections.abc import Iterator
from typing import Protocol, Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

BLOCK_BYTES = 4096
DIGEST_BYTES = 32
SEGMENT_BLOCKS = 65_536
SEGMENT_BYTES = SEGMENT_BLOCKS * BLOCK_BYTES
CHUNK_BYTES = 4 << 20
MAX_IMAGE_BYTES = 64 << 40
HOLE_DIGEST = bytes(DIGEST_BYTES)

Digests = NDArray[np.uint8]
Blocks = NDArray[np.uint8]


class BlockSource(Protocol):
    """Bytes that can become an image. A context manager; `read` may come from another thread."""

    @property
    def size_bytes(self) -> int:
        """The size of the image."""

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield (offset, length) of what may hold data, in order; everything else is zero."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from byte `offset`."""

    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self) -> Self:
        """Give itself."""

    def __exit__(self, *_: object) -> None:
        """Close."""


def blocks_in(size_bytes: int) -> int:
    """How many blocks hold `size_bytes`."""
    return -(-size_bytes // BLOCK_BYTES)


def segments_in(size_bytes: int) -> int:
    """How many segments an image of `size_bytes` has."""
    return -(-size_bytes // SEGMENT_BYTES)


def segment_blocks(size_bytes: int, segment: int) -> int:
    """How many blocks `segment` of an image of `size_bytes` has."""
    return min(SEGMENT_BLOCKS, blocks_in(size_bytes) - segment * SEGMENT_BLOCKS)


def chunks(extents: Iterator[tuple[int, int]], size_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (first block, count): the extents widened to blocks, none twice, none over a segment's end."""
    next_block = 0
    last_block = blocks_in(size_bytes)
    for offset, length in extents:
        if length <= 0:
            continue
        first = max(next_block, offset // BLOCK_BYTES)
        end = min(last_block, blocks_in(offset + length))
        while first < end:
            segment_end = (first // SEGMENT_BLOCKS + 1) * SEGMENT_BLOCKS
            count = min(end - first, CHUNK_BYTES // BLOCK_BYTES, segment_end - first)
            yield first, count
            first += count
        next_block = max(next_block, end)


def as_blocks(content: bytes) -> Blocks:
    """View `content` as rows of one block; a last partial block is filled with zeros."""
    if len(content) % BLOCK_BYTES:
        content += bytes(-len(content) % BLOCK_BYTES)
    return np.frombuffer(content, np.uint8).reshape(-1, BLOCK_BYTES)


def find_data(blocks: Blocks) -> NDArray[np.intp]:
    """Return the numbers of the blocks that are not all zero."""
    return np.flatnonzero(blocks.view(np.uint64).any(axis=1))


def digest_blocks(blocks: Blocks, key: bytes) -> list[bytes]:
    """Digest each block: BLAKE3 keyed with `key`. One thread: at 4 KiB the GIL makes two slower."""
    content = np.ascontiguousarray(blocks).data.cast("B")
    return [
        blake3(content[start : start + BLOCK_BYTES], key=key).digest()
        for start in range(0, len(content), BLOCK_BYTES)
    ]


def as_array(digests: list[bytes]) -> Digests:
    """Turn digests into an array."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES)


def as_list(digests: Digests) -> list[bytes]:
    """Turn an array into digests."""
    content = digests.tobytes()
    return [content[start : start + DIGEST_BYTES] for start in range(0, len(content), DIGEST_BYTES)]
