"""Files of every format with the same disk in them, made by `qemu-img`."""

import subprocess
from pathlib import Path

MIB = 1 << 20
SIZE_BYTES = 24 * MIB
FORMATS = {
    "qcow2": ("qcow2", "qcow2", ""),
    "qcow2-compressed": ("qcow2", "qcow2", "-c"),
    "qcow2-old": ("qcow2", "qcow2", "compat=0.10"),
    "qcow2-zstd": ("qcow2", "qcow2", "-c compression_type=zstd"),
    "vmdk-sparse": ("vmdk", "vmdk", "subformat=monolithicSparse"),
    "vmdk-stream": ("vmdk", "vmdk", "subformat=streamOptimized"),
    "vhdx": ("vhdx", "vhdx", "subformat=dynamic"),
    "vhdx-fixed": ("vhdx", "vhdx", "subformat=fixed"),
    "vhd-dynamic": ("vpc", "vhd", "subformat=dynamic,force_size=on"),
    "vhd-fixed": ("vpc", "vhd", "subformat=fixed,force_size=on"),
}


def make(raw: Path, name: str, folder: Path) -> Path:
    """The disk `raw` in a file of the format `name`."""
    driver, suffix, how = FORMATS[name]
    path = folder / f"{name}.{suffix}"
    options = [word for word in how.split() if word == "-c"]
    settings = "".join(word for word in how.split() if word != "-c")
    if settings:
        options += ["-o", settings]
    command = ["qemu-img", "convert", "-f", "raw", "-O", driver, *options, str(raw), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


def qemu_img(*arguments: object) -> None:
    """Run qemu-img, which has to succeed."""
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)
