"""Time to READY of real machines: over a replica, over a local raw file, and over a file that is copied first.

One QEMU after another, all alike but for what their overlay reads. The replica is served behind a link of 30 MB/s,
and the copy is fetched over the same link. Needs root, for the link. Usage: boot.py [IMAGES-FOLDER] [BOOT-IMAGE]
[--turns N] [--large-turns N]
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import httpx
from links import links
from replica_processes import ReplicaProcess
from storm_region import STORES, TENANT, Region
from subject import ROOT

from opengallery.hypervisors import MachineSpec, ReplicaUrl, Seed, arguments, process
from opengallery.hypervisors.accelerator import choose_accelerator
from opengallery.hypervisors.folder import MachineFolder
from opengallery.replica_server.protocol import BACKLOG

LINK_BYTES_PER_S = 30_000_000
MEMORY_MIB = 512
READY_TIMEOUT_S = 900
READY = re.compile(r"\bREADY .*\n")
PIECE_BYTES = 1 << 20
RATIO = 1.3

Disk = Callable[[Path, arguments.Descriptors], list[str]]
"""(overlay, open files) -> what QEMU is told of the disk."""


def main(images: Path, boot_image: Path, turns: int, large_turns: int) -> None:
    """Print a line for each image."""
    print(
        f"seconds to READY (median), replica behind a link of {LINK_BYTES_PER_S // 1_000_000} MB/s\n"
        f"{'image':<10}{'turns':>6}{'local raw':>11}{'replica':>9}{'copy':>7}"
        f"{'copy + boot':>13}{'replica/raw':>13}"
    )
    with tempfile.TemporaryDirectory(prefix="boot-bench-", dir=ROOT / ".cache") as folder:
        for image, count in ((boot_image, turns), (images / "deb12-v1.raw", large_turns)):
            if count and not image.exists():
                raise SystemExit(f"There is no {image}. Run `make images` first.")
            if count:
                compare(Path(folder) / image.stem, image, count)


def compare(folder: Path, image: Path, turns: int) -> None:
    """Boot in each way in turns, and print the medians."""
    region = Region(folder, image, STORES[:1])
    raw_s, replica_s, copy_s, copied_s = [], [], [], []
    with (
        links(1, LINK_BYTES_PER_S) as (link,),
        closing(
            ReplicaProcess(link.listen(BACKLOG), region.stores, STORES[0], TENANT, region.image_id)
        ) as server,
    ):
        replica = ReplicaUrl(server.url, server.cookie("bench"))
        for turn in range(turns):
            raw_s.append(boot(region, f"raw{turn}", over_file(image)))
            replica_s.append(boot(region, f"replica{turn}", over_replica(replica)))
            copy = folder / "copy.raw"
            copy_s.append(fetch(replica, copy))
            copied_s.append(copy_s[-1] + boot(region, f"copied{turn}", over_file(copy)))
            copy.unlink()
    ratio = median(replica_s) / median(raw_s)
    print(
        f"{image.stem:<10}{turns:>6}{median(raw_s):>11.1f}{median(replica_s):>9.1f}{median(copy_s):>7.1f}"
        f"{median(copied_s):>13.1f}{ratio:>13.2f}   wanted: at most {RATIO}, and less than copy + boot",
        flush=True,
    )


def over_replica(replica: ReplicaUrl) -> Disk:
    """A disk that reads the replica, as the server makes it."""
    return lambda overlay, files: arguments.disk_arguments(overlay, {0: replica}, files)


def over_file(image: Path) -> Disk:
    """The same disk over a local raw file."""

    def disk(overlay: Path, files: arguments.Descriptors) -> list[str]:
        backing = {
            "driver": "raw",
            "read-only": True,
            "file": {"driver": "file", "filename": files.file(image, os.O_RDONLY), "read-only": True},
        }
        own = {"driver": "file", "filename": files.file(overlay, os.O_RDWR)}
        node = {"driver": "qcow2", "node-name": arguments.DISK, "file": own, "backing": backing}
        device = f"virtio-blk-pci,drive={arguments.DISK},bootindex=1"
        return ["-blockdev", json.dumps(node), "-device", device]

    return disk


def fetch(replica: ReplicaUrl, target: Path) -> float:
    """Copy the whole image from the replica's server; the seconds it took."""
    began_s = time.monotonic()
    with (
        httpx.stream("GET", replica.url, headers={"Cookie": replica.cookie}, timeout=60) as answer,
        target.open("wb") as file,
    ):
        answer.raise_for_status()
        for piece in answer.iter_bytes(PIECE_BYTES):
            if piece.count(0) == len(piece):
                file.seek(len(piece), os.SEEK_CUR)
            else:
                file.write(piece)
        file.truncate()
    return time.monotonic() - began_s


def boot(region: Region, name: str, disk: Disk) -> float:
    """Boot one machine; the seconds from its start to READY."""
    settings, folder = region.settings.machines, region.settings.data.resolve()
    machine = MachineFolder(folder, name)
    machine.create(
        MachineSpec(name, "V1", 1, MEMORY_MIB, region.size_bytes, Seed(name, "azureuser")), lambda: True
    )
    accelerator = choose_accelerator(folder / "accelerator.json", settings.accelerator, settings.user)
    files = arguments.Descriptors()
    with closing(files), machine.qemu_log.open("ab") as log:
        described = [
            *arguments.firmware_arguments(machine.variables, "V1", files),
            *arguments.processor_arguments(accelerator, 1, MEMORY_MIB),
            *disk(machine.overlay, files),
            *arguments.network_arguments(None),
            *arguments.device_arguments(machine.seed, machine.console, files.listener(machine.qmp), files),
        ]
        command = ["qemu-system-x86_64", *arguments.CONFINED, *files.arguments(), *described]
        began_s = time.monotonic()
        child = process.spawn(command, fds=files.fds, user=settings.user, log=log)
    try:
        while not READY.search(machine.console.read_text(errors="replace")):
            if child.poll() is not None or time.monotonic() - began_s > READY_TIMEOUT_S:
                raise SystemExit(f"{name} is not READY: {machine.last_words()}")
            time.sleep(0.02)
        return time.monotonic() - began_s
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time to READY of real machines.")
    parser.add_argument("images", type=Path, nargs="?", default=ROOT / ".cache/images")
    parser.add_argument("boot_image", type=Path, nargs="?", default=ROOT / ".cache/boot.raw")
    parser.add_argument("--turns", type=int, default=3, help="of the boot image; 0: none")
    parser.add_argument("--large-turns", type=int, default=1, help="of deb12-v1; 0: none")
    main(**vars(parser.parse_args()))
