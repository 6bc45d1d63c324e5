"""File systems to break: small ones, and ones that a power cut can be shown on. Need root and loop mounts."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest


class CannotMount(Exception):
    """This machine has no tool for it, or lets nobody mount; the message says what is missing."""


def run(*command: object) -> None:
    """Run a tool. Raises `CannotMount` with its words."""
    try:
        subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise CannotMount(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise CannotMount(f"{' '.join(map(str, command))}: {error.stderr.strip()}") from None


@contextmanager
def mounted(place: Path, *arguments: object) -> Iterator[Path]:
    """Mount at `place`, which is made, until the end."""
    place.mkdir(parents=True, exist_ok=True)
    run("mount", *arguments, place)
    try:
        yield place
    finally:
        run("umount", place)


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of `size_bytes`; skips the test where that cannot be."""
    with ExitStack() as stack:
        try:
            if os.geteuid() != 0:
                raise CannotMount("mounting needs root")
            stack.enter_context(mounted(place, "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "tmpfs"))
        except CannotMount as error:
            pytest.skip(f"no small file system here: {error}")
        yield place


def resize(place: Path, size_bytes: int) -> None:
    """Give a `small_disk` another size."""
    run("mount", "-o", f"remount,size={size_bytes}", place)


class Disk:
    """An ext4 whose disk can be copied as a power cut would leave it.

    It lies in a loop file on a file system with reflinks. What ext4 has not written yet is lost in a
    copy, as it is when the power goes.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """Make and mount it; skips the test where that cannot be."""
        try:
            if os.geteuid() != 0:
                raise CannotMount("mounting needs root")
            outer = self._outer(folder, stack)
            self.image = outer / "disk.img"
            with self.image.open("wb") as file:
                file.truncate(256 << 20)
            run("mkfs.ext4", "-q", "-F", self.image)
            self.root = stack.enter_context(mounted(folder / "disk", "-o", "loop", self.image))
        except CannotMount as error:
            pytest.skip(f"no disk to cut the power of: {error}")

    @staticmethod
    def _outer(folder: Path, stack: ExitStack) -> Path:
        kinds = [kind for kind in ("btrfs", "xfs") if shutil.which(f"mkfs.{kind}")]
        if not kinds:
            raise CannotMount("neither btrfs-progs nor xfsprogs is installed")
        backing = folder / "outer.img"
        with backing.open("wb") as file:
            file.truncate(2 << 30)
        stack.callback(backing.unlink)
        run(f"mkfs.{kinds[0]}", "-q", "-f", backing)
        return stack.enter_context(mounted(folder / "outer", "-o", "loop", backing))

    def cut(self, name: str) -> Path:
        """Copy the disk as it is at this moment."""
        copy = self.image.with_name(name)
        run("cp", "--reflink=always", self.image, copy)
        return copy
