"""Containers: files that keep a disk behind tables (qcow2, VMDK, VHDX, dynamic VHD), judged before use.

The file is looked at by oslo.utils' inspectors, then by our own rules; only what passes both is opened,
as just that format (`conversion.py`). What names another file, is encrypted, is two formats at once, or
whose header does not fit the file, is refused here, where nothing follows what it says.
"""

import logging
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opengallery.imagestore.errors import UnusableImage
from opengallery.imagestore.reach import TableOutside, qcow2_tables, vhd_tables, vmdk_tables
from opengallery.imagestore.vhd import FOOTER_BYTES, read_vhd_footer

SMALL_CHUNK_BYTES = 4096
LARGE_CHUNK_BYTES = 4 << 20
# Every header lies in the first MiBs; what a table of a VHDX puts later is looked for, up to here.
SMALL_UNTIL_BYTES = 8 << 20
VHD_DYNAMIC = 3
VHD_KINDS = {2: "fixed", 3: "dynamic", 4: "differencing"}
NO_PARENT = "ffffffff"
MAKE_ANEW = "Make the file again, or download it again."


@dataclass(frozen=True)
class Container:
    """A file that passed: its format's name, QEMU's driver and its options, the size of the disk."""

    name: str
    driver: dict[str, Any]
    size_bytes: int


@dataclass(frozen=True)
class _Kind:
    """A format: its name here, oslo's name, the driver, and what else must hold (returns the size)."""

    name: str
    inspector: str
    driver: dict[str, Any]
    judge: Callable[[int, int, Any], int]


def container_name(head: bytes) -> str | None:
    """The name of the format whose files begin so; None when that is no container."""
    for magic, kind in _KINDS.items():
        if head.startswith(magic):
            return kind.name
    return None


def inspect(file: int, file_bytes: int) -> Container:
    """Judge a file that begins like a container. Raises `UnusableImage`, which says what to do."""
    head = os.pread(file, 16, 0)
    kind = next(kind for magic, kind in _KINDS.items() if head.startswith(magic))
    inspector = _inspected(file, file_bytes, kind)
    try:
        size_bytes = kind.judge(file, file_bytes, inspector)
    except (struct.error, TableOutside) as error:
        reason = str(error) if isinstance(error, TableOutside) else "its header is cut short"
        raise UnusableImage(
            f"The {kind.name} file is damaged or incomplete: {reason}. {MAKE_ANEW}"
        ) from error
    if size_bytes <= 0 or size_bytes % 512:
        raise UnusableImage(f"The {kind.name} file's header says a disk of {size_bytes} bytes. {MAKE_ANEW}")
    return Container(kind.name, kind.driver, size_bytes)


def _inspected(file: int, file_bytes: int, kind: _Kind) -> Any:
    """Run oslo's inspectors; return that of `kind`, complete and without complaint."""
    # It brings a lot along: only who has such a file waits for it.
    from oslo_utils.imageutils import format_inspector

    logging.getLogger(format_inspector.__name__).setLevel(logging.CRITICAL)
    try:
        wrapper = format_inspector.InspectWrapper(_Window(file, file_bytes))  # type: ignore[arg-type]
        mine = next(found for found in wrapper._inspectors if kind.inspector == found.NAME)
        position = 0
        while position < file_bytes and not (mine.complete and position >= SMALL_CHUNK_BYTES * 16):
            size = SMALL_CHUNK_BYTES if position < SMALL_UNTIL_BYTES else LARGE_CHUNK_BYTES
            wrapper.read(size)
            position += size
        wrapper.close()
        others = {str(found) for found in wrapper.formats or ()} - {kind.inspector, "raw"}
        if others:
            raise UnusableImage(
                f"The file is {kind.name} and {' and '.join(sorted(others))} at once. {MAKE_ANEW}"
            )
        mine.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        raise _refused(kind, error.failures) from error
    except UnusableImage:
        raise
    except Exception as error:
        # Inspectors stumble over what is malformed in ways of their own.
        raise UnusableImage(f"The {kind.name} file is damaged or incomplete. {MAKE_ANEW}") from error
    return mine


class _Window:
    """A file's bytes from its start, as the inspectors read them."""

    def __init__(self, file: int, file_bytes: int) -> None:
        self._file, self._left, self._position = file, file_bytes, 0

    def read(self, size: int) -> bytes:
        content = os.pread(self._file, min(size, self._left), self._position)
        self._position += len(content)
        self._left -= len(content)
        return content


def _refused(kind: _Kind, failures: dict[str, Any]) -> UnusableImage:
    """What to tell of the inspectors' complaints."""
    if "backing_file" in failures:
        return UnusableImage(
            f"The {kind.name} file needs a backing file, and an image must stand alone. "
            "Merge them first: qemu-img convert -O qcow2 SOURCE TARGET."
        )
    if "data_file" in failures:
        return UnusableImage(
            f"The {kind.name} file keeps its data in another file, and an image must stand alone. "
            "Merge them first: qemu-img convert -O qcow2 SOURCE TARGET."
        )
    if "unknown_features" in failures:
        return UnusableImage(
            f"The {kind.name} file uses features that are not read here. "
            "Convert it first: qemu-img convert -O qcow2 SOURCE TARGET."
        )
    if "descriptor" in failures:
        reason = str(failures["descriptor"])
        return UnusableImage(
            f"The {kind.name} file's descriptor is refused ({reason}): only monolithicSparse and "
            "streamOptimized files that name no other file are read. "
            "Convert it first: qemu-img convert -O vmdk -o subformat=streamOptimized SOURCE TARGET."
        )
    reasons = "; ".join(str(failure) for failure in failures.values())
    return UnusableImage(f"The {kind.name} file is refused: {reasons}. {MAKE_ANEW}")


def _judge_qcow2(file: int, file_bytes: int, inspector: Any) -> int:
    head = os.pread(file, 104, 0)
    cipher = struct.unpack(">I", head[32:36])[0]
    if cipher:
        raise UnusableImage(
            "The qcow2 file is encrypted. Decrypt it first: qemu-img convert with its secret, -O qcow2."
        )
    qcow2_tables(file, file_bytes, head)
    return int(inspector.virtual_size)


def _judge_vhdx(_file: int, _file_bytes: int, inspector: Any) -> int:
    # QEMU itself refuses parents, unknown regions, and tables that point outside of the file.
    return int(inspector.virtual_size)


def _judge_vmdk(file: int, file_bytes: int, inspector: Any) -> int:
    text = str(inspector.desc_text)
    if "parentfilenamehint" in text or (re.findall(r"^\s*parentcid\s*=\s*(\w+)", text, re.M) or [NO_PARENT])[
        0
    ] not in (NO_PARENT, "0"):
        raise UnusableImage(
            "The VMDK file needs a parent file, and an image must stand alone. "
            "Merge them first: qemu-img convert -O vmdk -o subformat=streamOptimized SOURCE TARGET."
        )
    size_bytes = int(inspector.virtual_size)
    extents = re.findall(r'^\s*(?:rw|rdonly|noaccess)\s+(\d+)\s+(\w+)\s+"', text, re.M)
    if len(extents) != 1 or extents[0][1] != "sparse" or int(extents[0][0]) * 512 != size_bytes:
        raise UnusableImage(
            "The VMDK file's descriptor does not describe this one file, as large as its header says. "
            "Convert it first: qemu-img convert -O vmdk -o subformat=streamOptimized SOURCE TARGET."
        )
    vmdk_tables(file, file_bytes)
    return size_bytes


def _judge_vhd(file: int, file_bytes: int, _inspector: Any) -> int:
    head = read_vhd_footer(os.pread(file, FOOTER_BYTES, 0))
    if head is None:
        raise UnusableImage(f"The file begins like a damaged VHD. {MAKE_ANEW}")
    kind = VHD_KINDS.get(head.kind, "unknown")
    if head.kind != VHD_DYNAMIC:
        raise UnusableImage(
            f"The file is a VHD of {kind} type; fixed and dynamic ones that stand alone are read. "
            "Convert it first: qemu-img convert -f vpc -O vpc -o subformat=dynamic SOURCE TARGET."
        )
    tail = read_vhd_footer(os.pread(file, FOOTER_BYTES, file_bytes - FOOTER_BYTES))
    if tail is None:
        raise UnusableImage(f"The file is a dynamic VHD that is cut short. {MAKE_ANEW}")
    if tail != head:
        raise UnusableImage(
            f"The VHD's footer says {tail.size_bytes} bytes, its copy at the start {head.size_bytes}. {MAKE_ANEW}"
        )
    vhd_tables(file, file_bytes, head.size_bytes)
    return head.size_bytes


_KINDS: dict[bytes, _Kind] = {
    b"QFI\xfb": _Kind("qcow2", "qcow2", {"driver": "qcow2", "backing": None}, _judge_qcow2),
    b"KDMV": _Kind("VMDK", "vmdk", {"driver": "vmdk", "backing": None}, _judge_vmdk),
    b"vhdxfile": _Kind("VHDX", "vhdx", {"driver": "vhdx"}, _judge_vhdx),
    b"conectix": _Kind(
        "dynamic VHD", "vhd", {"driver": "vpc", "force_size_calc": "current_size"}, _judge_vhd
    ),
}
