"""Containers: every format gives the same disk; what points elsewhere, lies or is cut short is refused."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.imagestore import ImageStore, UnusableImage, open_image
from opengallery.imagestore import conversion as conversion_module

from .container_files import FORMATS, MIB, SIZE_BYTES, make, qemu_img


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with data at both ends and in the middle."""
    path = tmp_path_factory.mktemp("raw") / "disk.raw"
    with path.open("wb") as file:
        file.truncate(SIZE_BYTES)
        for start, content in (
            (0, os.urandom(MIB)),
            (9 * MIB + 4096, b"text " * 100_000),
            (SIZE_BYTES - 8192, os.urandom(8192)),
        ):
            os.pwrite(file.fileno(), content, start)
    return path


@pytest.fixture(scope="module")
def files(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """That disk in every format."""
    folder = tmp_path_factory.mktemp("formats")
    return {name: make(raw, name, folder) for name in FORMATS}


def refused(path: Path, match: str) -> None:
    with pytest.raises(UnusableImage, match=match):
        open_image(path)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_image(
    files: dict[str, Path], raw: Path, name: str, directory_store: ImageStore
) -> None:
    with open_image(raw) as source:
        wanted = directory_store.put(source)
    with open_image(files[name]) as source:
        assert source.size_bytes == SIZE_BYTES
        # VHDX keeps blocks of 8 MiB, and there is data in each.
        assert sum(length for _, length in source.extents()) < SIZE_BYTES or name.startswith("vhdx")
        assert directory_store.put(source).image_id == wanted.image_id


def test_a_file_that_only_its_owner_may_read_is_read(
    files: dict[str, Path], raw: Path, tmp_path: Path
) -> None:
    path = tmp_path / "private.qcow2"
    path.write_bytes(files["qcow2"].read_bytes())
    path.chmod(0o600)
    with open_image(path) as source:
        assert source.read(0, MIB) == raw.read_bytes()[:MIB]


def test_an_odd_range_is_read_as_asked(files: dict[str, Path], raw: Path) -> None:
    content = raw.read_bytes()
    with open_image(files["vmdk-stream"]) as source:
        for offset, length in ((1, 3), (MIB - 7, 4096), (9 * MIB, 9 * MIB), (SIZE_BYTES - 1, 1)):
            assert source.read(offset, length) == content[offset : offset + length]


def test_the_tool_ends_with_its_source(files: dict[str, Path]) -> None:
    source = open_image(files["qcow2"])
    process = source._process
    assert process.poll() is None
    source.close()
    source.close()
    assert process.poll() is not None


def test_the_tool_has_no_rights(files: dict[str, Path]) -> None:
    with open_image(files["qcow2"]) as source:
        folder = Path(f"/proc/{source._process.pid}")
        status = dict(
            line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == 0
        if os.geteuid() == 0:
            assert status["Uid"].split() == ["65534"] * 4
            assert (folder / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        limits = (folder / "limits").read_text()
        assert [line.split()[3] for line in limits.splitlines() if line.startswith("Max file size")] == ["0"]


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "vhd-fixed"])
@pytest.mark.parametrize("kept", [0.3, 0.75])
def test_a_file_that_was_cut_short_is_refused(
    files: dict[str, Path], name: str, kept: float, tmp_path: Path
) -> None:
    whole = files[name].read_bytes()
    path = tmp_path / files[name].name
    path.write_bytes(whole[: int(len(whole) * kept) // 512 * 512])
    refused(path, "damaged|incomplete|cut short|can't be read|footer")


@pytest.mark.parametrize(
    ("name", "claims"), [("qcow2", ".raw"), ("qcow2", ".vhd"), ("vhdx", ".vmdk"), ("vhd-dynamic", ".qcow2")]
)
def test_a_file_that_is_not_what_its_name_claims_is_refused(
    files: dict[str, Path], name: str, claims: str, tmp_path: Path
) -> None:
    path = tmp_path / f"disk{claims}"
    path.write_bytes(files[name].read_bytes())
    refused(path, f"named {claims} but its content is")
    neutral = path.rename(tmp_path / "disk.img")
    open_image(neutral).close()


def test_raw_content_named_qcow2_is_refused(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(raw.read_bytes())
    refused(path, "named .qcow2 but its content is raw")


def test_a_backing_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "child.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", files["qcow2"], "-F", "qcow2", path)
    refused(path, "needs a backing file")


def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", path, "1M")
    refused(path, "keeps its data in another file")


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    secret = (
        "--object",
        "secret,id=s,data=secret",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1",
    )
    qemu_img("create", "-f", "qcow2", *secret, path, "1M")
    refused(path, "encrypted")


@pytest.mark.parametrize("subformat", ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
def test_a_vmdk_with_extents_elsewhere_is_refused(tmp_path: Path, subformat: str) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-f", "vmdk", "-o", f"subformat={subformat}", path, "1M")
    refused(path, "names other files")


def test_a_vmdk_with_a_parent_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "child.vmdk"
    qemu_img("create", "-f", "vmdk", "-b", files["vmdk-sparse"], "-F", "vmdk", path)
    refused(path, "needs a parent|descriptor is refused")


def test_a_vmdk_whose_descriptor_names_another_file_is_refused(
    files: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "disk.vmdk"
    content = files["vmdk-sparse"].read_bytes()
    old = content[content.index(b"RW ") : content.index(b'"', content.index(b'SPARSE "') + 8) + 1]
    for new in (b'RW 1 FLAT "/etc/passwd" 0', b'RW 49152 FLAT "etc-passwd" 0'):
        path.write_bytes(content.replace(old, new.ljust(len(old))[: len(old)]))
        refused(path, "descriptor")


def test_a_differencing_vhd_and_vhdx_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    content = bytearray(files["vhd-dynamic"].read_bytes())
    for start in (0, len(content) - 512):
        footer = content[start : start + 512]
        footer[60:64], footer[64:68] = struct.pack(">I", 4), bytes(4)
        footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
        content[start : start + 512] = footer
    path = tmp_path / "disk.vhd"
    path.write_bytes(content)
    refused(path, "differencing type")


def _qcow2_size(content: bytearray) -> None:
    content[24:32] = struct.pack(">Q", SIZE_BYTES * 1000)


def _qcow2_small(content: bytearray) -> None:
    content[24:32] = struct.pack(">Q", 0)


def _vmdk_size(content: bytearray) -> None:
    content[12:20] = struct.pack("<Q", SIZE_BYTES // 512 + 128)


def _vhd_size(content: bytearray) -> None:
    footer = content[:512]
    footer[48:56], footer[64:68] = struct.pack(">Q", SIZE_BYTES * 2), bytes(4)
    footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
    content[:512] = footer


@pytest.mark.parametrize(
    ("name", "lie"),
    [
        ("qcow2", _qcow2_size),
        ("qcow2", _qcow2_small),
        ("vmdk-sparse", _vmdk_size),
        ("vhd-dynamic", _vhd_size),
    ],
)
def test_a_header_that_lies_is_refused(
    files: dict[str, Path], name: str, lie: Callable[[bytearray], None], tmp_path: Path
) -> None:
    content = bytearray(files[name].read_bytes())
    lie(content)
    path = tmp_path / files[name].name
    path.write_bytes(content)
    refused(path, "says|describe|incomplete")


def test_two_formats_at_once_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    fixed = bytearray(files["vhd-fixed"].read_bytes())
    fixed[: 64 << 10] = files["qcow2"].read_bytes()[: 64 << 10]
    path = tmp_path / "disk.img"
    path.write_bytes(fixed)
    refused(path, "one of them at most")
    iso = bytearray(files["qcow2"].read_bytes())
    iso[0x8001:0x8006] = b"CD001"
    path.write_bytes(iso)
    refused(path, "qcow2 and iso at once")


@pytest.mark.parametrize("name", ["qcow2", "vmdk-stream", "vhdx", "vhd-dynamic"])
def test_the_limit_is_on_the_disk_not_on_the_file(files: dict[str, Path], name: str) -> None:
    with pytest.raises(UnusableImage, match=f"{SIZE_BYTES} bytes, more than the {20 * MIB} allowed"):
        open_image(files[name], 20 * MIB)


def test_a_huge_disk_in_a_small_file_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", path, "100T")
    refused(path, "more than the")


def test_without_the_tool_the_refusal_says_how_to_get_it(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversion_module, "TOOL", "no-such-tool")
    refused(files["qcow2"], "apt-get install qemu-utils")
    open_image(files["vhd-fixed"]).close()


def test_damage_inside_is_told_when_it_is_read(raw: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.raw"
    text.write_bytes(b"text" * (MIB // 4))
    path = make(text, "qcow2-compressed", tmp_path)
    content = bytearray(path.read_bytes())
    (level1,) = struct.unpack(">Q", content[40:48])
    (level2,) = struct.unpack(">Q", content[level1 : level1 + 8])
    level2 &= (1 << 56) - 1
    (third,) = struct.unpack(">Q", content[level2 + 16 : level2 + 24])
    start = third & ((1 << 54) - 1)
    content[start : start + 32] = bytes(32)
    path.write_bytes(content)
    with open_image(path) as source:
        assert source.read(0, 64 << 10) == b"text" * (16 << 10)
        with pytest.raises(UnusableImage, match="at byte 131072 of the disk"):
            source.read(128 << 10, 4096)
