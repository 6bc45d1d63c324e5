"""The footer of a VHD: what turns the bytes of a disk into a fixed VHD, which is what Azure moves.

Source: Virtual Hard Disk Image Format Specification, version 1.0 (Microsoft, 2006). All numbers are
big-endian.
"""

import struct
import time
import uuid
from dataclasses import dataclass

FOOTER_BYTES = 512
COOKIE = b"conectix"
FIXED = 2
EPOCH_2000_S = 946_684_800
NO_OFFSET = 0xFFFFFFFFFFFFFFFF

# cookie, features, format version, data offset, time, creator, its version, its host, original size,
# current size, cylinders, heads, sectors, disk type, checksum, unique id, saved state
FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427x")
CHECKSUM_AT = slice(64, 68)


@dataclass(frozen=True)
class VhdFooter:
    """The fields of a VHD footer that matter here."""

    kind: int
    size_bytes: int


def read_vhd_footer(content: bytes) -> VhdFooter | None:
    """Read a VHD footer of 512 bytes; None when it is none, or does not match its checksum."""
    if len(content) != FOOTER_BYTES or not content.startswith(COOKIE):
        return None
    if content[CHECKSUM_AT] != checksum(content):
        return None
    fields = FOOTER.unpack(content)
    return VhdFooter(kind=fields[13], size_bytes=fields[9])


def fixed_footer(size_bytes: int, unique_id: bytes | None = None, made_s: float | None = None) -> bytes:
    """The footer of a fixed VHD of `size_bytes`, made now with an id of its own unless both are given.

    `unique_id` has 16 bytes, `made_s` counts from 1970.
    """
    cylinders, heads, sectors = geometry(size_bytes)
    footer = FOOTER.pack(
        COOKIE,
        2,  # reserved, always set
        0x00010000,
        NO_OFFSET,
        max(int(time.time() if made_s is None else made_s) - EPOCH_2000_S, 0),
        b"ogal",
        0x00010000,
        b"Wi2k",
        size_bytes,
        size_bytes,
        cylinders,
        heads,
        sectors,
        FIXED,
        0,
        unique_id or uuid.uuid4().bytes,
        0,
    )
    return footer[:64] + checksum(footer) + footer[68:]


def checksum(footer: bytes) -> bytes:
    """One's complement of the sum of all bytes, the checksum's own left out."""
    total = sum(footer) - sum(footer[CHECKSUM_AT])
    return struct.pack(">I", ~total & 0xFFFFFFFF)


def geometry(size_bytes: int) -> tuple[int, int, int]:
    """Cylinders, heads and sectors a track, as the specification's appendix counts them."""
    sectors_all = min(size_bytes // 512, 65535 * 16 * 255)
    if sectors_all >= 65535 * 16 * 63:
        heads, sectors = 16, 255
        return sectors_all // sectors // heads, heads, sectors
    sectors = 17
    cylinder_heads = sectors_all // sectors
    heads = max((cylinder_heads + 1023) // 1024, 4)
    if cylinder_heads >= heads * 1024 or heads > 16:
        sectors, heads = 31, 16
        cylinder_heads = sectors_all // sectors
    if cylinder_heads >= heads * 1024:
        sectors, heads = 63, 16
        cylinder_heads = sectors_all // sectors
    return cylinder_heads // heads, heads, sectors
