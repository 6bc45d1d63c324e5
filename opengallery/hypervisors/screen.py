"""Screens: what a machine shows, for boot diagnostics."""

import os
from collections.abc import Callable
from typing import Any

# Sets of QEMU's arguments have the numbers of descriptors, which are small.
SET = 1_000_000
DEADLINE_S = 10


def take_screenshot(execute: Callable[..., list[Any]]) -> bytes:
    """Return the screen as PNG. `execute(commands, timeout_s, fd)` holds one conversation with QEMU."""
    picture = os.memfd_create("screen", os.MFD_CLOEXEC)
    try:
        # QEMU looks for a descriptor that can just be written.
        writable = os.open(f"/proc/self/fd/{picture}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            execute(
                [
                    ("add-fd", {"fdset-id": SET}),
                    ("screendump", {"filename": f"/dev/fdset/{SET}", "format": "png"}),
                    ("remove-fd", {"fdset-id": SET}),
                ],
                DEADLINE_S,
                writable,
            )
        finally:
            os.close(writable)
        return os.pread(picture, os.fstat(picture).st_size, 0)
    finally:
        os.close(picture)
