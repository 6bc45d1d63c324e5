"""The cache of checked bytes: it has just what was put, within its bounds."""

import os
import random
import socket
from pathlib import Path

from opengallery.replica_server.checked_bytes import PIECE_BYTES, SLAB_BYTES, CheckedBytes, CheckedImage

MIB = 1 << 20


def found(image: CheckedImage, offset: int, end: int) -> bytes:
    """What the cache has from `offset` on, as sendfile would send it."""
    pieces = []
    while offset < end and (place := image.find(offset, end)) is not None:
        file, start, count = place
        pieces.append(os.pread(file, count, start))
        offset += count
    return b"".join(pieces)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_any_order_of_puts_and_finds_gives_the_bytes_of_the_image() -> None:
    numbers = random.Random(3)
    content = os.urandom(30 * MIB) + bytes(6 * MIB) + os.urandom(9 * MIB + 512)
    cache = CheckedBytes(16 * MIB, 1000)
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
    cache = CheckedBytes(16 * MIB, 1000)
    image = cache.image("tenant", "image")
    image.put(0, bytes(64 * MIB))
    assert found(image, 0, 64 * MIB) == bytes(64 * MIB)
    assert cache.used_bytes < MIB


def test_the_number_of_files_is_bounded() -> None:
    before = open_files()
    cache = CheckedBytes(1 << 40, 8)
    for number in range(50):
        cache.image("tenant", f"image {number}").put(3 * SLAB_BYTES, b"x" * PIECE_BYTES)
    assert open_files() <= before + 8
    assert found(cache.image("tenant", "image 49"), 3 * SLAB_BYTES, 3 * SLAB_BYTES + 9) == b"x" * 9
    assert cache.image("tenant", "image 3").find(3 * SLAB_BYTES, 3 * SLAB_BYTES + 9) is None


def test_images_and_tenants_are_kept_apart() -> None:
    cache = CheckedBytes(16 * MIB, 1000)
    cache.image("a", "image").put(0, b"a" * PIECE_BYTES)
    assert cache.image("b", "image").find(0, 1) is None
    assert cache.image("a", "other").find(0, 1) is None
    assert cache.image("a", "image").find(0, 1) is not None


def test_what_was_handed_to_a_socket_stays_as_it_was_when_its_slab_goes() -> None:
    """The pages wait in the socket, not copied, while their slab is dropped and others are filled."""
    cache = CheckedBytes(16 * MIB, 1000)
    image = cache.image("tenant", "image")
    content = os.urandom(SLAB_BYTES)
    image.put(0, content)
    listener = socket.create_server(("127.0.0.1", 0))
    reader = socket.create_connection(listener.getsockname())
    writer, _ = listener.accept()
    writer.setblocking(False)
    file, start, count = image.find(0, SLAB_BYTES) or (-1, 0, 0)
    sent = os.sendfile(writer.fileno(), file, start, count)
    for number in range(1, 12):
        image.put(number * SLAB_BYTES, os.urandom(SLAB_BYTES))
    assert image.find(0, 1) is None
    image.put(0, b"z" * SLAB_BYTES)
    received = b""
    while len(received) < sent:
        received += reader.recv(sent - len(received))
    assert received == content[:sent]
    for each in (listener, reader, writer):
        each.close()
