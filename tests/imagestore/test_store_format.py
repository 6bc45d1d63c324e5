"""Format 1 is readable for ever: a reader written from docs/store-format.md alone, and an old store.

`store-v1/` was written by the first release and never changes. `read_image` uses nothing of the package.
"""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from opengallery.imagestore import ImageStore, verify

from .image_sources import KEY, PiecesSource

OLD_STORE = Path(__file__).parent / "store-v1"
SEGMENT = 65_536


def derived(use: str) -> bytes:
    return blake3(KEY.secret, derive_key_context=f"opengallery imagestore 1 {use}").digest()


def opened(use: str, sealed: bytes, associated: bytes) -> bytes:
    return AESGCM(derived(use)).decrypt(sealed[:12], sealed[12:], associated)


def split(content: bytes, magic: bytes) -> tuple[bytes, bytes]:
    """Return what comes before the sealed last part of an object, and that part, checked."""
    length, checksum, found = struct.unpack("<Q32s8s", content[-48:])
    sealed = content[-48 - length : -48]
    assert (found, checksum) == (magic, blake3(sealed).digest())
    return content[: -48 - length], sealed


def read_pack(root: Path, pack_id: str) -> list[tuple[bytes, bytes]]:
    """Return (digest, block) of each entry."""
    content = (root / "packs" / pack_id[:2] / pack_id).read_bytes()
    assert blake3(content).hexdigest() == pack_id
    frames, sealed = split(content, b"OGPACK\x00\x01")
    footer = opened("footer", sealed, b"opengallery footer 1")
    frame_count, block_count = struct.unpack_from("<II", footer)
    lengths = struct.unpack_from(f"<{frame_count}I", footer, 8)
    counts = struct.unpack_from(f"<{frame_count}I", footer, 8 + 4 * frame_count)
    digests = footer[8 + 8 * frame_count :]
    assert (len(digests), sum(counts), sum(lengths)) == (32 * block_count, block_count, len(frames))
    entries: list[tuple[bytes, bytes]] = []
    offset = 0
    for length, count in zip(lengths, counts, strict=True):
        frame = opened("frame", frames[offset : offset + length], b"opengallery frame 1")
        blocks = zstandard.ZstdDecompressor().decompress(frame)
        assert 1 <= count <= 32
        assert len(blocks) == 4096 * count
        for slot in range(count):
            digest = digests[32 * len(entries) : 32 * len(entries) + 32]
            block = blocks[4096 * slot : 4096 * slot + 4096]
            assert blake3(block, key=derived("block digest")).digest() == digest
            entries.append((digest, block))
        offset += length
    return entries


def read_image(root: Path, image_id: str) -> tuple[int, dict[int, bytes]]:
    """Return the size of an image, and its blocks that are no holes."""
    content = (root / "manifests" / image_id[:2] / image_id).read_bytes()
    _, sealed = split(content, b"OGMANI\x00\x01")
    table = zstandard.ZstdDecompressor().decompress(
        opened("manifest", sealed, b"opengallery manifest 1table")
    )
    size_bytes, data_blocks, pack_count, section_count = struct.unpack_from("<QQII", table)
    packs = [read_pack(root, table[24 + 32 * i : 56 + 32 * i].hex()) for i in range(pack_count)]
    rows = table[24 + 32 * pack_count :]
    assert len(rows) == 52 * section_count
    block_count = -(-size_bytes // 4096)
    segment_digests = [bytes(32)] * -(-block_count // SEGMENT)
    blocks: dict[int, bytes] = {}
    for i in range(section_count):
        segment, offset, length, segment_digest = struct.unpack_from("<QQI32s", rows, 52 * i)
        associated = b"opengallery manifest 1" + struct.pack("<Q", segment)
        section = opened("manifest", content[offset : offset + length], associated)
        runs = np.frombuffer(zstandard.ZstdDecompressor().decompress(section), "<u4").reshape(3, -1)
        digests = []
        for count, pack, first in runs.T.tolist():
            for number in range(count):
                if pack == 0xFFFFFFFF:
                    digests.append(bytes(32))
                    continue
                digest, block = packs[pack][first + number]
                blocks[segment * SEGMENT + len(digests)] = block
                digests.append(digest)
        assert len(digests) == min(SEGMENT, block_count - segment * SEGMENT)
        assert blake3(b"".join(digests), key=derived("segment digest")).digest() == segment_digest
        segment_digests[segment] = segment_digest
    assert len(blocks) == data_blocks
    root_digest = blake3(struct.pack("<Q", size_bytes) + b"".join(segment_digests), key=derived("image id"))
    assert root_digest.hexdigest() == image_id
    return size_bytes, blocks


def old_images() -> list[PiecesSource]:
    """The images of the old store, in the order in which they were put."""
    text = b"".join(f"line {number}\n".encode() for number in range(15_000))
    return [
        PiecesSource(300 * 4096 + 17, [(4096, text), (299 * 4096, b"end" * 1371)]),
        PiecesSource((1 << 29) + 1, [(3 * 4096, text[4096:50_000]), (1 << 28, bytes(9) + text)]),
    ]


def check(root: Path, image_id: str, source: PiecesSource) -> None:
    size_bytes, blocks = read_image(root, image_id)
    assert size_bytes == source.size_bytes
    for number, block in blocks.items():
        length = min(4096, size_bytes - number * 4096)
        assert block == source.read(number * 4096, length).ljust(4096, b"\0")
    assert sum(block.count(0) < 4096 for block in blocks.values()) == len(blocks)
    for offset, content in source.pieces:
        for place in range(offset, offset + len(content)):
            if place // 4096 not in blocks:
                assert content[place - offset] == 0


@pytest.fixture
def old_store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD_STORE, tmp_path / "old"))


def open_store(root: Path, tmp_path: Path) -> ImageStore:
    return ImageStore(root, prefix="", key=KEY, index_dir=tmp_path / "index", name="old")


def image_ids(root: Path) -> list[str]:
    return json.loads((root / "images.json").read_text())


def test_a_reader_written_from_the_page_reads_the_old_store() -> None:
    for image_id, source in zip(image_ids(OLD_STORE), old_images(), strict=True):
        check(OLD_STORE, image_id, source)
    found = json.loads((OLD_STORE / "format.json").read_text())
    key_check = blake3(b"opengallery", key=derived("key check")).hexdigest()
    assert found == {"format": 1, "block_size": 4096, "key_check": key_check}


def test_a_reader_written_from_the_page_reads_what_is_written_today(
    tmp_path: Path, small_packs: None
) -> None:
    store = open_store(tmp_path / "new", tmp_path)
    ids = [store.put(source).image_id for source in old_images()]
    assert ids == image_ids(OLD_STORE)
    for image_id, source in zip(ids, old_images(), strict=True):
        check(tmp_path / "new", image_id, source)


def test_the_old_store_is_read_and_goes_on(old_store: Path, tmp_path: Path) -> None:
    store = open_store(old_store, tmp_path)
    for image_id, source in zip(image_ids(old_store), old_images(), strict=True):
        assert verify(store, image_id).is_good
        reader = store.open(image_id)
        for offset, content in source.pieces:
            assert reader.read(offset, len(content)) == content
        again = store.put(source)
        assert (again.image_id, again.new_bytes) == (image_id, 0)
