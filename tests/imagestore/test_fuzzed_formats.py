"""Fuzzed headers of every format: refused or read, never a crash, a hang, or a byte of another file."""

import os
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opengallery.imagestore import UnusableImage, open_image
from opengallery.imagestore.conversion import ConvertedSource

from .container_files import FORMATS, MIB, make, qemu_img

CANARY = b"canary of another file: no image may hold this line\n"
DEADLINE_S = 10
LIMIT_BYTES = 64 * MIB
INTERESTING = (
    0,
    1,
    2,
    3,
    4,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 40,
    (1 << 63) - 1,
    (1 << 64) - 1,
)

# Where the formats keep what matters: magic, sizes, names, tables.
HOT = {
    "qcow2": [(0, 112), (112, 512), *((start, start + 64) for start in range(0x10000, 0x50000, 0x10000))],
    "vmdk": [(0, 80), (512, 1024), (1024, 4096)],
    "vhdx": [
        *((start, start + 128) for start in range(0, 0x50000, 0x10000)),
        (0x200000, 0x200100),
        (0x210000, 0x210060),
    ],
    "vhd": [(0, 512), (512, 1536), (1536, 2048)],
}


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that headers will name."""
    folder = tmp_path_factory.mktemp("c")
    folder.chmod(0o755)
    path = folder / "canary"
    path.write_bytes(CANARY * (MIB // len(CANARY)))
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small good file of each format."""
    folder = tmp_path_factory.mktemp("seeds")
    raw = folder / "raw"
    raw.write_bytes(os.urandom(64 << 10) + bytes(3 * MIB) + b"text" * (32 << 10))
    return {name: make(raw, name, folder).read_bytes() for name in FORMATS if name != "vhdx-fixed"}


@st.composite
def edits(draw: st.DrawFn, name: str, names: list[bytes]) -> list[tuple[int, bytes]]:
    """Changes to make: numbers, bytes and file names where the headers are, now and then elsewhere."""
    suffix = FORMATS[name][1]
    changes = []
    for _ in range(draw(st.integers(1, 4))):
        start, end = draw(
            st.sampled_from([*HOT[suffix], (0, 4 * MIB)] if draw(st.booleans()) else HOT[suffix])
        )
        place = draw(st.integers(start, end - 1))
        kind = draw(st.sampled_from(("number", "bytes", "name")))
        if kind == "number":
            layout = draw(st.sampled_from((">I", "<I", ">Q", "<Q")))
            place -= place % 4
            number = draw(st.sampled_from(INTERESTING) | st.integers(0, (1 << 64) - 1))
            changes.append((place, struct.pack(layout, number & ((1 << 8 * struct.calcsize(layout)) - 1))))
        elif kind == "bytes":
            changes.append((place, draw(st.binary(min_size=1, max_size=16))))
        else:
            changes.append((place, draw(st.sampled_from(names))))
    return changes


def backed(content: bytearray, path: bytes) -> None:
    """Make a qcow2 header name a backing file, as an attacker would."""
    place = 0x180
    content[8:20] = struct.pack(">QI", place, len(path))
    content[place : place + len(path)] = path


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "vhdx-fixed"])
def test_a_fuzzed_file_is_refused_or_read(
    name: str, seeds: dict[str, bytes], canary: Path, tmp_path: Path
) -> None:
    path = tmp_path / "upload.img"
    target = os.fsencode(canary)
    names = [
        target, b"json:{\"driver\":\"file\",\"filename\":\"" + target + b"\"}", b"file:" + target,
        b'RW 8192 FLAT "' + target + b'" 0\n', b'parentFileNameHint="' + target + b'"\n', b"parentCID=00000001\n",
    ]  # fmt: skip

    @settings(
        max_examples=int(os.environ.get("FUZZ_EXAMPLES", "30")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(changes=edits(name, names), names_backing=st.booleans(), kept=st.integers(1, 100))
    def run(changes: list[tuple[int, bytes]], names_backing: bool, kept: int) -> None:
        content = bytearray(seeds[name])
        if names_backing and name.startswith("qcow2"):
            backed(content, target)
        for place, new in changes:
            place = min(place, len(content) - 1)
            content[place : place + len(new)] = new
        if kept < 10:
            del content[len(content) * kept // 10 :]
        path.write_bytes(content)
        started = time.monotonic()
        try:
            with open_image(path, LIMIT_BYTES) as source:
                assert source.size_bytes <= LIMIT_BYTES
                for offset, length in source.extents():
                    while length:
                        piece = min(length, 4 * MIB)
                        assert CANARY[:16] not in source.read(offset, piece)
                        offset, length = offset + piece, length - piece
        except UnusableImage as refusal:
            assert str(canary) not in str(refusal) or CANARY.decode() not in str(refusal)
        assert time.monotonic() - started < DEADLINE_S

    run()


@pytest.mark.parametrize("name", ["qcow2", "qcow2-old", "qcow2-compressed"])
def test_a_backing_file_is_never_read(
    name: str, seeds: dict[str, bytes], canary: Path, tmp_path: Path
) -> None:
    content = bytearray(seeds[name])
    backed(content, os.fsencode(canary))
    path = tmp_path / "upload.img"
    path.write_bytes(content)
    with pytest.raises(UnusableImage, match="backing file"):
        open_image(path)


def test_the_tool_can_open_nothing_else_even_if_it_wanted_to(canary: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", canary, "-F", "raw", child)
    file = os.open(child, os.O_RDONLY)
    try:
        # No inspection, and a driver that may follow the backing file: the fence alone has to hold.
        with pytest.raises(UnusableImage, match="Permission denied"):
            ConvertedSource(file, {"driver": "qcow2"}, MIB, "qcow2")
    finally:
        os.close(file)
