"""Reach: whether the tables of a container point into the file.

A file that was cut short in transit keeps its header, and QEMU reads zeros where the rest is missing: an
image would lose data without a word. Sources: QEMU's docs/interop/qcow2.txt; Virtual Hard Disk Image
Format Specification 1.0; VMware Virtual Disk Format 5.0.
"""

import os
import struct

import numpy as np
from numpy.typing import NDArray

SECTOR_BYTES = 512
QCOW2_OFFSET = 0x00FFFFFFFFFFFE00
QCOW2_COMPRESSED = 1 << 62
QCOW2_TABLE_MAX_BYTES = 32 << 20
VMDK_HEADER = struct.Struct("<4sIIQQQQIQQ")
VMDK_AT_END = 0xFFFFFFFFFFFFFFFF
VMDK_FOOTER_FROM_END = 1024
VMDK_TABLE_MAX_ENTRIES = 512
TABLE_MAX_BYTES = 512 << 20
READ_BYTES = 4 << 20


class TableOutside(Exception):
    """A table, or what it points to, is not in the file; the message says which."""


def qcow2_tables(file: int, file_bytes: int, head: bytes) -> None:
    """Follow the L1 table and every L2 table. Raises `TableOutside`."""
    cluster_bits, size_bytes = struct.unpack(">IQ", head[20:32])
    l1_entries, l1_offset = struct.unpack(">IQ", head[36:48])
    if not 9 <= cluster_bits <= 21:
        raise TableOutside(f"clusters of 2^{cluster_bits} bytes")
    cluster_bytes = 1 << cluster_bits
    covers_bytes = cluster_bytes * (cluster_bytes // 8)
    needed = -(-size_bytes // covers_bytes)
    if l1_entries < needed or needed * 8 > QCOW2_TABLE_MAX_BYTES:
        raise TableOutside(f"the header says {size_bytes} bytes, its table has {l1_entries} entries")
    level1 = _table(file, file_bytes, l1_offset, needed, ">u8", "level 1 table") & QCOW2_OFFSET
    compressed_mask = (1 << (62 - (cluster_bits - 8))) - 1
    for offset in np.unique(level1[level1 != 0]).tolist():
        entries = _table(file, file_bytes, offset, cluster_bytes // 8, ">u8", "level 2 table")
        is_compressed = (entries & QCOW2_COMPRESSED) != 0
        places = np.where(is_compressed, entries & compressed_mask, entries & QCOW2_OFFSET)
        _check_places(places, file_bytes)


def vhd_tables(file: int, file_bytes: int, size_bytes: int) -> None:
    """Follow the block allocation table of a dynamic VHD. Raises `TableOutside`."""
    (header_offset,) = struct.unpack(">Q", os.pread(file, 8, 16))
    if header_offset > file_bytes:
        raise TableOutside("the dynamic header is missing")
    header = os.pread(file, 1024, header_offset)
    if header[:8] != b"cxsparse" or len(header) < 1024:
        raise TableOutside("the dynamic header is missing")
    (table_offset,) = struct.unpack(">Q", header[16:24])
    entries, block_bytes = struct.unpack(">II", header[28:36])
    if block_bytes < SECTOR_BYTES or block_bytes & (block_bytes - 1) or entries * block_bytes < size_bytes:
        raise TableOutside(f"{entries} blocks of {block_bytes} bytes for a disk of {size_bytes}")
    table = _table(file, file_bytes, table_offset, -(-size_bytes // block_bytes), ">u4", "block table")
    bitmap_bytes = -(-block_bytes // SECTOR_BYTES // 8 // SECTOR_BYTES) * SECTOR_BYTES
    held = table[table != 0xFFFFFFFF].astype(np.uint64)
    # A block ends before the footer; the first sectors are the header's.
    if len(held) and int(held.max()) * SECTOR_BYTES + bitmap_bytes + block_bytes > file_bytes - SECTOR_BYTES:
        raise TableOutside("a block lies after the end of the file")


def vmdk_tables(file: int, file_bytes: int) -> None:
    """Follow the grain directory and every grain table. Raises `TableOutside`."""
    fields = VMDK_HEADER.unpack(os.pread(file, VMDK_HEADER.size, 0))
    if fields[9] == VMDK_AT_END:
        fields = VMDK_HEADER.unpack(os.pread(file, VMDK_HEADER.size, file_bytes - VMDK_FOOTER_FROM_END))
    _, _, _, sectors, grain_sectors, _, _, table_entries, _, directory_sector = fields
    if not 1 <= grain_sectors <= 1 << 16 or not 1 <= table_entries <= VMDK_TABLE_MAX_ENTRIES:
        raise TableOutside(f"grains of {grain_sectors} sectors, tables of {table_entries}")
    count = -(-sectors // (grain_sectors * table_entries))
    directory = _table(file, file_bytes, directory_sector * SECTOR_BYTES, count, "<u4", "grain directory")
    for sector in np.unique(directory[directory != 0]).tolist():
        grains = _table(file, file_bytes, sector * SECTOR_BYTES, table_entries, "<u4", "grain table")
        # 1 stands for a grain of zeros.
        _check_places(np.where(grains > 1, grains.astype(np.uint64) * SECTOR_BYTES, 0), file_bytes)


def _table(file: int, file_bytes: int, offset: int, count: int, dtype: str, name: str) -> NDArray[np.uint64]:
    """Read a table of `count` numbers as 64-bit ones. Raises `TableOutside` when it is not in the file."""
    length = count * np.dtype(dtype).itemsize
    if offset <= 0 or offset + length > file_bytes or length > TABLE_MAX_BYTES:
        raise TableOutside(f"the {name} lies after the end of the file")
    content = bytearray()
    while len(content) < length:
        piece = os.pread(file, min(READ_BYTES, length - len(content)), offset + len(content))
        if not piece:
            raise TableOutside(f"the {name} lies after the end of the file")
        content += piece
    return np.frombuffer(content, dtype).astype(np.uint64)


def _check_places(places: NDArray[np.uint64], file_bytes: int) -> None:
    if len(places) and int(places.max()) >= file_bytes:
        raise TableOutside("data lies after the end of the file")
