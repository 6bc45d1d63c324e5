"""The cache of checked bytes: it has just what was put, within its bounds."""

import os
import random
from pathlib import Path

import pytest

from opengallery.replica_server import checked_bytes
from opengallery.replica_server.checked_bytes import PIECE_BYTES, SLAB_BYTES, CheckedBytes, CheckedImage

MIB = 1 << 20


def found(image: CheckedImage, offset: int, end: int) -> bytes:
    """What the cache has from `offset` on."""
    pieces = []
    while offset < end and (place := image.find(offset, end)) is not None:
        memory, start, stop = place
        pieces.append(memory[start:stop])
        offset += stop - start
    return b"".join(pieces)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_any_order_of_puts_and_finds_gives_the_bytes_of_the_image() -> None:
    numbers = random.Random(3)
    content = os.urandom(30 * MIB) + bytes(6 * MIB) + os.urandom(9 * MIB + 512)
    cache = CheckedBytes(16 * MIB)
    image = cache.image("tenant", "image")
    hits = 0
    for _ in range(3000):
        first = numbers.randrange(len(content))
        end = min(len(content), first + numbers.choice([1, 512, 70_000, 300_000, 5 * MIB]))
        if numbers.random() < 0.3:
            start, stop = first - first % PIECE_BYTES, min(len(content), end + -end % PIECE_BYTES)
            image.put(start, content[start:stop])
            assert found(image, first, end) == content[first:end], "what was just put is there"
        else:
            here = found(image, first, end)
            hits += bool(here)
            assert here == content[first : first + len(here)]
        assert cache.used_bytes <= cache.max_bytes
    assert hits > 100


def test_holes_cost_nothing_and_are_there() -> None:
    cache = CheckedBytes(16 * MIB)
    image = cache.image("tenant", "image")
    image.put(0, bytes(64 * MIB))
    assert found(image, 0, 64 * MIB) == bytes(64 * MIB)
    assert cache.used_bytes < MIB


def test_the_number_of_slabs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked_bytes, "MAX_SLABS", 8)
    cache = CheckedBytes(1 << 40)
    for number in range(50):
        cache.image("tenant", f"image {number}").put(3 * SLAB_BYTES, b"x" * PIECE_BYTES)
    assert found(cache.image("tenant", "image 49"), 3 * SLAB_BYTES, 3 * SLAB_BYTES + 9) == b"x" * 9
    here = [number for number in range(50) if cache.image("tenant", f"image {number}").slabs]
    assert here == list(range(42, 50))


def test_memory_is_what_is_counted() -> None:
    before = resident_bytes()
    cache = CheckedBytes(64 * MIB)
    for number in range(1000):
        # Three pieces in each slab: what is not there takes no memory, and what went has given it back.
        cache.image("tenant", "image").put(number * SLAB_BYTES, os.urandom(3 * PIECE_BYTES))
    assert cache.used_bytes > 60 * MIB
    assert resident_bytes() - before < cache.used_bytes + 8 * MIB


def test_images_and_tenants_are_kept_apart() -> None:
    cache = CheckedBytes(16 * MIB)
    cache.image("a", "image").put(0, b"a" * PIECE_BYTES)
    assert cache.image("b", "image").find(0, 1) is None
    assert cache.image("a", "other").find(0, 1) is None
    assert cache.image("a", "image").find(0, 1) is not None
