"""Manifests: which blocks an image has, and where its store keeps them.

A manifest lists segments of 65,536 blocks; each is a sealed section of runs: (count, hole), or
(count, pack, first entry in that pack's footer). The digests themselves stand in the footers. The
image id is the BLAKE3 root over the segments' canonical digests, so it is the same in every store
with the same data key, however the store lays the blocks out. Layout: docs/store-format.md.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import zstandard
from blake3 import blake3
from numpy.typing import NDArray

from opengallery.imagestore.blocks import (
    DIGEST_BYTES,
    HOLE_DIGEST,
    MAX_IMAGE_BYTES,
    Digests,
    segment_blocks,
    segments_in,
)
from opengallery.imagestore.errors import CorruptBlock, ImageNotFound
from opengallery.imagestore.keys import DataKey, NotAuthentic
from opengallery.imagestore.objects import Objects, ObjectWriter

HOLE: Final = -1
MAGIC = b"OGMANI\x00\x01"
TRAILER = struct.Struct("<Q32s8s")
TABLE = struct.Struct("<QQII")
SECTION_ROW = np.dtype([("segment", "<u8"), ("offset", "<u8"), ("length", "<u4"), ("digest", "u1", 32)])
RUN_HOLE = 0xFFFFFFFF
TABLE_READ_BYTES = 64 << 10
IMAGE_ID = re.compile(r"[0-9a-f]{64}")


def manifest_path(image_id: str) -> str:
    """Where the manifest lies in its store. Raises `ValueError` for what is no image id."""
    if not IMAGE_ID.fullmatch(image_id):
        raise ValueError(f"{image_id!r} is no image id: 64 hexadecimal digits")
    return f"manifests/{image_id[:2]}/{image_id}"


def segment_digest(key: DataKey, digests: Digests) -> bytes:
    """The canonical digest of one segment: over its blocks' digests, or zeros when all are holes."""
    if not digests.any():
        return HOLE_DIGEST
    return blake3(digests.tobytes(), key=key.segment_key).digest()


def compute_image_id(key: DataKey, size_bytes: int, segments: dict[int, bytes]) -> str:
    """The root: over the size and every segment's canonical digest; `segments` may leave out holes."""
    hasher = blake3(struct.pack("<Q", size_bytes), key=key.image_key)
    next_segment = 0
    for segment in sorted(segments):
        hasher.update(bytes(DIGEST_BYTES * (segment - next_segment)) + segments[segment])
        next_segment = segment + 1
    hasher.update(bytes(DIGEST_BYTES * (segments_in(size_bytes) - next_segment)))
    return hasher.hexdigest()


@dataclass(frozen=True)
class Section:
    """Where one segment's runs lie in the manifest, and the segment's canonical digest."""

    offset: int
    length: int
    digest: bytes


@dataclass(frozen=True)
class Manifest:
    """The table of a manifest; sections are read when they are needed.

    `checksum` tells this manifest from another of the same image: a repair replaces it.
    """

    image_id: str
    checksum: bytes
    size_bytes: int
    data_blocks: int
    packs: list[str]
    sections: dict[int, Section]
    stored_bytes: int


class ManifestWriter:
    """A manifest in the making: segments in order, then `commit`.

    Packs are numbered by the caller's own `pack` numbers, which get their ids at the end only,
    so that a section can be written while its packs are still open.
    """

    def __init__(self, objects: Objects, key: DataKey, size_bytes: int) -> None:
        """Begin the manifest of an image of `size_bytes`."""
        self._objects = objects
        self._key = key
        self._size_bytes = size_bytes
        self._object: ObjectWriter = objects.writer()
        self._offset = 0
        self._data_blocks = 0
        self._numbers: dict[int, int] = {}
        self._sections: dict[int, Section] = {}
        self._compressor = zstandard.ZstdCompressor(level=3)
        self.image_id = ""

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop what was not committed."""
        self.abort()

    @property
    def packs(self) -> list[int]:
        """The caller's numbers of the packs that are used, in the order of first use."""
        return list(self._numbers)

    def add(
        self, segment: int, pack: NDArray[np.int64], entry: NDArray[np.int64], digests: Digests | bytes
    ) -> None:
        """Write a segment: the place of each block (`HOLE` as its pack for a hole) and its digest.

        `digests`: those of the blocks, or the canonical digest of the segment.
        """
        data_blocks = int(np.count_nonzero(pack != HOLE))
        if not data_blocks:
            return
        self._data_blocks += data_blocks
        used, positions = np.unique(pack, return_inverse=True)
        numbers = [
            RUN_HOLE if number == HOLE else self._numbers.setdefault(number, len(self._numbers))
            for number in used.tolist()
        ]
        plain = encode_runs(np.array(numbers, np.int64)[positions], entry)
        sealed = self._key.manifest.seal(self._compressor.compress(plain), struct.pack("<Q", segment))
        self._object.write(sealed)
        digest = digests if isinstance(digests, bytes) else segment_digest(self._key, digests)
        self._sections[segment] = Section(self._offset, len(sealed), digest)
        self._offset += len(sealed)

    def finish(self, pack_ids: dict[int, str]) -> str:
        """Write the table; `pack_ids` names the packs by the caller's numbers. Returns the image id."""
        rows = np.zeros(len(self._sections), SECTION_ROW)
        for row, (segment, section) in enumerate(self._sections.items()):
            rows[row] = (
                segment,
                section.offset,
                section.length,
                np.frombuffer(section.digest, np.uint8),
            )
        plain = b"".join(
            (
                TABLE.pack(self._size_bytes, self._data_blocks, len(self._numbers), len(rows)),
                *(bytes.fromhex(pack_ids[number]) for number in self._numbers),
                rows.tobytes(),
            )
        )
        sealed = self._key.manifest.seal(self._compressor.compress(plain), b"table")
        self._object.write(sealed)
        self._object.write(TRAILER.pack(len(sealed), blake3(sealed).digest(), MAGIC))
        self._offset += len(sealed) + TRAILER.size
        digests = {segment: section.digest for segment, section in self._sections.items()}
        self.image_id = compute_image_id(self._key, self._size_bytes, digests)
        return self.image_id

    def commit(self, version: str | None = None) -> int:
        """Make the manifest durable. Returns the bytes written; 0 when one is there and stays.

        With `version` it takes the place of that version of the image's manifest, and of no other.
        """
        is_written = self._object.commit(manifest_path(self.image_id), version=version)
        return self._offset if is_written else 0

    def abort(self) -> None:
        """Leave nothing behind; nothing happens after a commit."""
        self._object.abort()


def encode_runs(pack: NDArray[np.int64], entry: NDArray[np.int64]) -> bytes:
    """Lay out runs: their counts, then their packs, then their first entries, each `<u4`."""
    is_hole = pack == RUN_HOLE
    starts = np.ones(len(pack), bool)
    starts[1:] = (np.diff(pack) != 0) | (~is_hole[1:] & (np.diff(entry) != 1))
    first = np.flatnonzero(starts)
    counts = np.diff(np.append(first, len(pack)))
    entries = np.where(is_hole[first], 0, entry[first])
    return b"".join(array.astype("<u4").tobytes() for array in (counts, pack[first], entries))


def decode_runs(
    plain: bytes, block_count: int, pack_count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each block's pack (`HOLE` for a hole) and entry. Raises `ValueError`."""
    if len(plain) % 12:
        raise ValueError("a section has the wrong length")
    counts, packs, entries = np.frombuffer(plain, "<u4").astype(np.int64).reshape(3, -1)
    if (counts < 1).any() or counts.sum() != block_count:
        raise ValueError("a section has the wrong number of blocks")
    packs = np.where(packs == RUN_HOLE, HOLE, packs)
    if (packs >= pack_count).any():
        raise ValueError("a section names a pack that is not listed")
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(packs, counts), np.repeat(entries, counts) + np.arange(block_count) - first


def read_manifest(objects: Objects, store: str, key: DataKey, image_id: str) -> Manifest:
    """Read the table and check it against the image id. Raises `ImageNotFound`, `CorruptBlock`."""
    path = manifest_path(image_id)
    try:
        tail, stored_bytes = objects.tail(path, TABLE_READ_BYTES)
        length, checksum, magic = TRAILER.unpack_from(tail, len(tail) - TRAILER.size)
        if magic != MAGIC or length > stored_bytes - TRAILER.size:
            raise ValueError("its trailer is damaged")
        if length + TRAILER.size > len(tail):
            tail, _ = objects.tail(path, length + TRAILER.size)
        sealed = tail[-TRAILER.size - length : -TRAILER.size]
        if blake3(sealed).digest() != checksum:
            raise ValueError("its table does not match its checksum")
        manifest = _decode_table(image_id, checksum, stored_bytes, key.manifest.open(sealed, b"table"))
        digests = {segment: section.digest for segment, section in manifest.sections.items()}
        if compute_image_id(key, manifest.size_bytes, digests) != image_id:
            raise ValueError("it is the manifest of another image")
    except FileNotFoundError:
        raise ImageNotFound(store, image_id) from None
    except OSError as error:
        raise CorruptBlock(store, "", image_id, f"the disk cannot read it: {error}") from error
    except (NotAuthentic, zstandard.ZstdError):
        raise CorruptBlock(store, "", image_id, "its table is not authentic") from None
    except (ValueError, struct.error) as error:
        raise CorruptBlock(store, "", image_id, str(error)) from None
    return manifest


def _decode_table(image_id: str, checksum: bytes, stored_bytes: int, compressed: bytes) -> Manifest:
    plain = zstandard.ZstdDecompressor().decompress(compressed)
    size_bytes, data_blocks, pack_count, section_count = TABLE.unpack_from(plain)
    rows_offset = TABLE.size + DIGEST_BYTES * pack_count
    if size_bytes > MAX_IMAGE_BYTES or len(plain) != rows_offset + SECTION_ROW.itemsize * section_count:
        raise ValueError("its table has the wrong length")
    rows = np.frombuffer(plain, SECTION_ROW, section_count, rows_offset)
    segments = rows["segment"].astype(np.int64)
    if section_count and (segments[-1] >= segments_in(size_bytes) or (np.diff(segments) < 1).any()):
        raise ValueError("its segments are out of order")
    packs = [
        plain[start : start + DIGEST_BYTES].hex() for start in range(TABLE.size, rows_offset, DIGEST_BYTES)
    ]
    sections = {
        segment: Section(offset, length, digest.tobytes())
        for segment, offset, length, digest in zip(
            segments.tolist(), rows["offset"].tolist(), rows["length"].tolist(), rows["digest"], strict=True
        )
    }
    return Manifest(image_id, checksum, size_bytes, data_blocks, packs, sections, stored_bytes)


def read_runs(
    objects: Objects, store: str, key: DataKey, manifest: Manifest, segment: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pack (an index into `manifest.packs`, or `HOLE`) and entry of each block of a segment."""
    count = segment_blocks(manifest.size_bytes, segment)
    section = manifest.sections.get(segment)
    if section is None:
        return np.full(count, HOLE, np.int64), np.zeros(count, np.int64)
    try:
        sealed = objects.range(manifest_path(manifest.image_id), section.offset, section.length)
        compressed = key.manifest.open(sealed, struct.pack("<Q", segment))
        plain = zstandard.ZstdDecompressor().decompress(compressed)
        return decode_runs(plain, count, len(manifest.packs))
    except FileNotFoundError:
        raise ImageNotFound(store, manifest.image_id) from None
    except OSError as error:
        raise CorruptBlock(store, "", manifest.image_id, f"the disk cannot read it: {error}") from error
    except (NotAuthentic, zstandard.ZstdError):
        raise CorruptBlock(store, "", manifest.image_id, f"segment {segment} is not authentic") from None
    except ValueError as error:
        raise CorruptBlock(store, "", manifest.image_id, str(error)) from None
