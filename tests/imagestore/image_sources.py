"""The data key of these tests, and sources of images, made of pieces at offsets; everything else is a hole."""

import random
from collections.abc import Iterator
from typing import Self

from opengallery.imagestore import BLOCK_BYTES, DataKey

KEY = DataKey(bytes(range(32)))


class PiecesSource:
    """An image of `size_bytes` with `pieces` (offset, bytes), in order and apart."""

    def __init__(self, size_bytes: int, pieces: list[tuple[int, bytes]]) -> None:
        self.size_bytes = size_bytes
        self.pieces = pieces

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def extents(self) -> Iterator[tuple[int, int]]:
        for offset, content in self.pieces:
            yield offset, len(content)

    def read(self, offset: int, length: int) -> bytes:
        wanted = bytearray(length)
        for start, content in self.pieces:
            low, high = max(offset, start), min(offset + length, start + len(content))
            if low < high:
                wanted[low - offset : high - offset] = content[low - start : high - start]
        return bytes(wanted)


def blocks(count: int, seed: int) -> bytes:
    """Blocks that differ from each other and from those of another seed, and compress to about half."""
    numbers = random.Random(seed)
    return b"".join(numbers.randbytes(BLOCK_BYTES // 2) * 2 for _ in range(count))


def image(*contents: bytes, size_bytes: int | None = None) -> PiecesSource:
    """An image that begins with `contents`, one after the other."""
    content = b"".join(contents)
    return PiecesSource(size_bytes if size_bytes is not None else len(content), [(0, content)])
