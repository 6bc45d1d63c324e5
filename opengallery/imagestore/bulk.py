"""What is done to many blocks at once, in memory that workers share: digest, seal, open.

Each works on `memory`, the bytes of an arena, and gives back a few small values, so it runs in a worker
process as well as here. All are idempotent.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import zstandard
from blake3 import blake3
from numpy.typing import NDArray

from opengallery.imagestore.blocks import BLOCK_BYTES, DIGEST_BYTES, find_data
from opengallery.imagestore.keys import DataKey, NotAuthentic

COMPRESSION_LEVEL = 2
# The longest a sealed frame can be beyond its blocks: zstd's bound and the seal.
FRAME_OVERHEAD_BYTES = 1024
ALL_GOOD: Final = -1

Memory = NDArray[np.uint8]

_thread = threading.local()


def compress(content: bytes | memoryview) -> bytes:
    """Compress the blocks of one frame. Lets go of the GIL."""
    compressor = getattr(_thread, "compressor", None)
    if compressor is None:
        compressor = _thread.compressor = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL)
    compressed: bytes = compressor.compress(content)
    return compressed


def decompress(compressed: bytes, size_bytes: int) -> bytes:
    """Decompress one frame of exactly `size_bytes`. Raises `NotAuthentic`."""
    decompressor = getattr(_thread, "decompressor", None)
    if decompressor is None:
        decompressor = _thread.decompressor = zstandard.ZstdDecompressor()
    try:
        if zstandard.frame_content_size(compressed) != size_bytes:
            raise NotAuthentic
        content: bytes = decompressor.decompress(compressed, max_output_size=size_bytes)
    except zstandard.ZstdError:
        raise NotAuthentic from None
    return content


def digest(memory: Memory, key: DataKey, start: int, length: int) -> tuple[bytes, bytes]:
    """Return the numbers (`<i4`) of the blocks in `memory[start:start + length]` that are not zero, and
    their digests."""
    blocks = memory[start : start + length].reshape(-1, BLOCK_BYTES)
    data = find_data(blocks)
    content = blocks.reshape(-1).data
    block_key = key.block_key
    digests = b"".join(
        [
            blake3(content[at : at + BLOCK_BYTES], key=block_key).digest()
            for at in (data * BLOCK_BYTES).tolist()
        ]
    )
    return data.astype("<i4").tobytes(), digests


def seal(memory: Memory, key: DataKey, blocks: bytes, counts: list[int], out: int) -> list[int]:
    """Compress and seal frames of `counts` blocks each and lay them one after the other at `out`.

    `blocks`: the numbers (`<i4`) of all their blocks in the arena. Returns the frames' lengths.
    """
    numbers = np.frombuffer(blocks, "<i4")
    rows = memory[: len(memory) // BLOCK_BYTES * BLOCK_BYTES].reshape(-1, BLOCK_BYTES)
    lengths = []
    first = 0
    for count in counts:
        chosen = numbers[first : first + count]
        first += count
        begin, end = int(chosen[0]), int(chosen[-1]) + 1
        # Neighbours need not be copied together.
        is_run = end - begin == count and bool((np.diff(chosen) == 1).all())
        content = rows[begin:end] if is_run else rows[chosen]
        sealed = key.frame.seal(compress(content.reshape(-1).data))
        memory[out : out + len(sealed)] = np.frombuffer(sealed, np.uint8)
        out += len(sealed)
        lengths.append(len(sealed))
    return lengths


def open_frames(
    memory: Memory, key: DataKey, start: int, lengths: list[int], digests: bytes, counts: list[int], out: int
) -> int:
    """Open the sealed frames that lie from `start` on, check every block, and lay the blocks at `out`.

    `counts`: the blocks of each frame. Returns `ALL_GOOD`, or the number of the first frame that is not.
    """
    checked = 0
    block_key = key.block_key
    for number, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        size_bytes = count * BLOCK_BYTES
        try:
            content = decompress(key.frame.open(memory[start : start + length].data), size_bytes)
        except NotAuthentic:
            return number
        view = memoryview(content)
        found = b"".join(
            [
                blake3(view[at : at + BLOCK_BYTES], key=block_key).digest()
                for at in range(0, size_bytes, BLOCK_BYTES)
            ]
        )
        if found != digests[checked : checked + count * DIGEST_BYTES]:
            return number
        checked += count * DIGEST_BYTES
        memory[out : out + size_bytes] = np.frombuffer(content, np.uint8)
        start += length
        out += size_bytes
    return ALL_GOOD


TASKS: dict[str, Callable[..., Any]] = {"digest": digest, "seal": seal, "open": open_frames}
