"""Which accelerator machines get: KVM where it really boots something, else TCG.

`/dev/kvm` may open, make a virtual machine, and still hang or die in the BIOS (seen on hosts that
are virtual machines themselves). So a boot sector is run under it, once for each boot of the host.
"""

import os
import platform
import subprocess
from pathlib import Path
from typing import Literal

import msgspec

from opengallery.hypervisors.process import spawn

Accelerator = Literal["kvm", "tcg"]

DEADLINE_S = 5
# mov dx, 0xf4; mov al, 0x10; out dx, al; cli; hlt; jmp $-1: QEMU's debug port ends it with a code.
BOOT_SECTOR = bytes.fromhex("baf400 b010 ee fa f4 ebfd").ljust(510, b"\0") + b"\x55\xaa"
BOOTED = 0x10 << 1 | 1


class Probed(msgspec.Struct, frozen=True):
    """What a probe found, and on which host."""

    accelerator: Accelerator
    kernel: str
    boot_id: str


def choose_accelerator(cache: Path, wanted: Literal["auto", "tcg"], user: str) -> Accelerator:
    """Return the accelerator to use; probes at most once for each boot of the host."""
    if wanted == "tcg":
        return "tcg"
    kernel, boot_id = platform.release(), Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    try:
        probed = msgspec.json.decode(cache.read_bytes(), type=Probed)
    except (OSError, msgspec.DecodeError):
        probed = None
    if probed is None or (probed.kernel, probed.boot_id) != (kernel, boot_id):
        works = Path("/dev/kvm").exists() and boots_under("kvm", user)
        probed = Probed("kvm" if works else "tcg", kernel, boot_id)
        unfinished = cache.with_name(f"{cache.name}.{os.getpid()}")
        unfinished.write_bytes(msgspec.json.encode(probed))
        unfinished.replace(cache)
    return probed.accelerator


def boots_under(accelerator: Accelerator, user: str) -> bool:
    """Return whether a boot sector runs to its end, as `user`, within the deadline."""
    sector = os.memfd_create("boot-sector")
    try:
        os.write(sector, BOOT_SECTOR)
        process = spawn(
            [
                "qemu-system-x86_64",
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "32"),
                *("-accel", accelerator, "-cpu", "host" if accelerator == "kvm" else "max"),
                *("-add-fd", f"fd={sector},set=1"),
                *("-blockdev", "driver=raw,node-name=disk,file.driver=file,file.filename=/dev/fdset/1"),
                *("-device", "ide-hd,drive=disk"),
                *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
            ],
            fds=[sector],
            user=user,
            log=subprocess.DEVNULL,
        )
    finally:
        os.close(sector)
    try:
        return process.wait(DEADLINE_S) == BOOTED
    except subprocess.TimeoutExpired:
        return False
    finally:
        process.kill()
        process.wait()
