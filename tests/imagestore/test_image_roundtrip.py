"""Any image in, the same bytes out."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from opengallery.imagestore import BLOCK_BYTES, SEGMENT_BYTES, FrameCache, ImageStore

from .image_sources import KEY, PiecesSource, blocks, image

# Pieces of a few alphabets: unique blocks, repeated blocks, zeros; lengths odd and whole.
PIECE = st.tuples(
    st.sampled_from(["unique", "repeat", "zeros", "hole", "far"]),
    st.integers(1, 40 * BLOCK_BYTES) | st.integers(1, 40).map(lambda count: count * BLOCK_BYTES),
    st.integers(0, 3),
)


def build(pieces: list[tuple[str, int, int]]) -> PiecesSource:
    """Lay pieces one after the other; "far" jumps over most of a segment."""
    offset = 0
    placed: list[tuple[int, bytes]] = []
    for kind, length, seed in pieces:
        if kind == "unique":
            placed.append((offset, blocks(-(-length // BLOCK_BYTES), seed)[:length]))
        elif kind == "repeat":
            placed.append((offset, (bytes([seed + 1]) * BLOCK_BYTES * 41)[:length]))
        elif kind == "zeros":
            placed.append((offset, bytes(length)))
        elif kind == "far":
            length += SEGMENT_BYTES - 7 * BLOCK_BYTES
        offset += length
    return PiecesSource(offset, placed)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(PIECE, max_size=7),
    others=st.lists(PIECE, max_size=3),
    ranges=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 200_000)), max_size=6),
    cache_bytes=st.sampled_from([0, 100_000, 1 << 24]),
)
def test_any_image_reads_back_at_any_range(
    pieces: list[tuple[str, int, int]],
    others: list[tuple[str, int, int]],
    ranges: list[tuple[float, int]],
    cache_bytes: int,
) -> None:
    source = build(pieces)
    with tempfile.TemporaryDirectory() as index_dir:
        store = ImageStore(
            MemoryStore(),
            prefix="",
            key=KEY,
            index_dir=Path(index_dir),
            name="memory",
            cache=FrameCache(cache_bytes),
        )
        store.put(build(others))
        report = store.put(source)
        reader = store.open(report.image_id)
        assert reader.size_bytes == source.size_bytes
        edges = [(offset - 5, len(content) + 10) for offset, content in source.pieces]
        for offset, length in [
            *edges,
            *((int(at * source.size_bytes), length) for at, length in ranges),
        ]:
            offset = max(0, offset)
            length = max(0, min(length, source.size_bytes - offset))
            assert reader.read(offset, length) == source.read(offset, length)
        covered = list(reader.extents())
        for offset, content in source.pieces:
            for position in range(0, len(content), 997):
                if content[position]:
                    place = offset + position
                    assert any(start <= place < start + length for start, length in covered)


def test_every_kind_of_store_gives_the_same_image(store: ImageStore) -> None:
    source = image(blocks(100, 1), bytes(50_000), blocks(30, 2), b"odd end")
    report = store.put(source)
    assert store.has(report.image_id)
    assert list(store.images()) == [report.image_id]
    assert store.open(report.image_id).read(0, source.size_bytes) == source.read(0, source.size_bytes)
    # Pinned: an id that changes orphans every image that was ever stored.
    assert report.image_id == "e1acc3a4d390e2eb2eedf9241dd2d41710b8291ca40fb71aebaf73a4d2660c16"
    store.delete(report.image_id)
    store.delete(report.image_id)
    assert not store.has(report.image_id)


@pytest.mark.usefixtures("small_packs")
def test_the_image_id_does_not_depend_on_what_the_store_held(
    make_store: Callable[..., ImageStore],
) -> None:
    source = image(blocks(100, 1), bytes(BLOCK_BYTES * 9), blocks(30, 2))
    fresh, used = make_store("fresh"), make_store("used")
    used.put(image(blocks(17, 2), blocks(3, 9), blocks(50, 1)))
    assert fresh.put(source).image_id == used.put(source).image_id


def test_the_size_is_part_of_the_image_id(directory_store: ImageStore) -> None:
    content = blocks(2, 1)
    ids = {
        directory_store.put(image(content, size_bytes=len(content) + more)).image_id
        for more in (0, 1, BLOCK_BYTES, SEGMENT_BYTES)
    }
    assert len(ids) == 4


def test_an_empty_image_and_one_of_zeros_need_no_pack(directory_store: ImageStore) -> None:
    for source in (image(), image(bytes(3 * BLOCK_BYTES + 1)), image(size_bytes=40 << 40)):
        report = directory_store.put(source)
        assert (report.new_bytes, report.size_bytes) == (0, source.size_bytes)
        reader = directory_store.open(report.image_id)
        assert reader.read(max(0, source.size_bytes - 5), 10) == bytes(min(5, source.size_bytes))
    assert directory_store.stats().packs == 0


@pytest.mark.usefixtures("small_packs")
def test_an_image_of_several_segments_and_packs(directory_store: ImageStore) -> None:
    pieces = [
        (0, blocks(90, 1)),
        (SEGMENT_BYTES - 5 * BLOCK_BYTES, blocks(50, 2)),
        (3 * SEGMENT_BYTES + 100, blocks(45, 3)),
    ]
    source = PiecesSource(3 * SEGMENT_BYTES + 400 * BLOCK_BYTES + 17, pieces)
    reader = directory_store.open(directory_store.put(source).image_id)
    for offset, content in pieces:
        assert reader.read(offset, len(content)) == content
    assert directory_store.stats().packs == 5
    edge = SEGMENT_BYTES - 9000
    assert reader.read(edge, 18_000) == source.read(edge, 18_000)


def test_reading_beyond_the_end_gives_what_is_there(directory_store: ImageStore) -> None:
    reader = directory_store.open(directory_store.put(image(b"abc")).image_id)
    assert (reader.read(1, 10), reader.read(3, 1), reader.read(0, 0)) == (b"bc", b"", b"")
    with pytest.raises(ValueError):
        reader.read(-1, 2)
