"""Formats from end to end: a qcow2 comes in, a version goes out as raw, VHD and qcow2; keys are rotated."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from opengallery.imagestore import open_image

from .serving import COMMAND, Gallery

MIB = 1024**2
VERSION = ("-g", "formats", "-r", "gallery", "-i", "linux", "-e", "1.0.0")


def run(gallery: Gallery, *words: object, code: int = 0) -> Any:
    """Run the command; its JSON, or what it said when it has to fail."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(gallery.data.parent), **gallery.variables}
    command = [str(word) for word in (COMMAND, *words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 and done.stdout.strip() else done.stderr


def disk_in(path: Path) -> bytes:
    with open_image(path) as source:
        return source.read(0, source.size_bytes)


def check_export(gallery: Gallery, path: Path, raw: Path) -> None:
    """Export the version in the format of the path's suffix: it holds the disk `raw`, and is sparse."""
    report = run(
        gallery, "sig", "image-version", "export", *VERSION, "--file", path, "--format", path.suffix[1:]
    )
    assert report["diskBytes"] == raw.stat().st_size
    assert report["dataBytes"] < 7 * MIB
    assert path.stat().st_blocks * 512 < 8 * MIB
    assert disk_in(path) == raw.read_bytes()


@pytest.mark.slow
def test_a_qcow2_goes_in_and_every_format_comes_out(gallery: Gallery, tmp_path: Path) -> None:
    raw, qcow2 = tmp_path / "in.raw", tmp_path / "in.qcow2"
    with raw.open("wb") as file:
        file.truncate(64 * MIB)
        for start, length in ((0, 5 * MIB), (33 * MIB + 4096, 100), (64 * MIB - 512, 512)):
            os.pwrite(file.fileno(), os.urandom(length), start)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, qcow2], check=True)
    digest = hashlib.sha256(qcow2.read_bytes()).hexdigest()
    run(gallery, "group", "create", "-n", "formats", "-l", "westcentralus")
    take = (
        "image",
        "import",
        qcow2,
        "-g",
        "formats",
        "-n",
        "linux",
        "--os-type",
        "Linux",
        "--hyper-v-generation",
        "V2",
        "--sha256",
    )
    assert "not " + "0" * 64 in run(gallery, *take, "0" * 64, code=1)
    assert run(gallery, "disk", "list", "-g", "formats") == []
    run(gallery, *take, digest)
    run(gallery, "sig", "create", "-g", "formats", "-r", "gallery")
    definition = ("-p", "us", "-f", "linux", "-s", "1", "--os-type", "Linux")
    run(
        gallery,
        "sig",
        "image-definition",
        "create",
        "-g",
        "formats",
        "-r",
        "gallery",
        "-i",
        "linux",
        *definition,
    )
    run(gallery, "sig", "image-version", "create", *VERSION, "--managed-image", "linux")
    check_export(gallery, tmp_path / "out.raw", raw)
    again = ("sig", "image-version", "export", *VERSION, "--file", tmp_path / "out.raw")
    assert "There is a file" in run(gallery, *again, code=1)

    assert run(gallery, "key", "rotate", "--data", gallery.data)["tenants"] == 1
    check_export(gallery, tmp_path / "out.vhd", raw)
    gallery.kill()
    run(gallery, "key", "rotate", "--data", gallery.data)
    gallery.serve()
    check_export(gallery, tmp_path / "out.qcow2", raw)
    subprocess.run(["qemu-img", "check", tmp_path / "out.qcow2"], check=True, capture_output=True)
    assert list(tmp_path.glob("*.part")) == []
    assert run(gallery, "disk", "list", "-g", "formats") == []


@pytest.mark.slow
def test_a_data_disk_of_a_version_comes_out(gallery: Gallery, tmp_path: Path) -> None:
    raw, group = tmp_path / "in.raw", ("-g", "formats")
    with raw.open("wb") as file:
        file.truncate(32 * MIB)
        os.pwrite(file.fileno(), os.urandom(MIB), 9 * MIB)
    run(gallery, "group", "create", "-n", "formats", "-l", "westcentralus")
    take = ("--os-type", "Linux", "--hyper-v-generation", "V2")
    run(gallery, "image", "import", raw, *group, "-n", "linux", *take)
    run(gallery, "sig", "create", *group, "-r", "gallery")
    definition = ("-p", "us", "-f", "linux", "-s", "1", "--os-type", "Linux")
    run(gallery, "sig", "image-definition", "create", *group, "-r", "gallery", "-i", "linux", *definition)
    plain = run(gallery, "sig", "image-version", "create", *VERSION, "--managed-image", "linux")
    run(gallery, "disk", "create", *group, "-n", "disk", "--gallery-image-reference", plain["id"])
    run(gallery, "snapshot", "create", *group, "-n", "data", "--source", "disk")
    second = (*VERSION[:-1], "1.0.1")
    named = ("--os-snapshot", "data", "--data-snapshots", "data", "--data-snapshot-luns", "5")
    made = run(gallery, "sig", "image-version", "create", *second, *named)
    assert [disk["lun"] for disk in made["storageProfile"]["dataDiskImages"]] == [5]
    out = tmp_path / "out.raw"
    run(gallery, "sig", "image-version", "export", *second, "--lun", "5", "--file", out)
    assert out.read_bytes() == raw.read_bytes()
    refused = ("sig", "image-version", "export", *second, "--lun", "6", "--file", tmp_path / "none.raw")
    assert "has no data disk of lun 6" in run(gallery, *refused, code=1)
    assert [disk["name"] for disk in run(gallery, "disk", "list", *group)] == ["disk"]
