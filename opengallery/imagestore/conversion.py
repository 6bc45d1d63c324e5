"""Conversion: a file of another format, read block by block through a confined `qemu-nbd`.

No raw copy is made: the tool answers reads over a socket that nobody else can reach, and the store
takes them as it takes a raw file's. The tool is told the format and looks for nothing itself, and ends
when the source is closed or this process dies. Limits: memory, processor time, no file of its own,
no network (`confined.py`).
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from opengallery.imagestore.errors import UnusableImage
from opengallery.imagestore.nbd import NbdError, NbdExport

TOOL = "qemu-nbd"
PACKAGE = "qemu-utils"
OPEN_TIMEOUT_S = 8
READ_TIMEOUT_S = 60
MEMORY_BYTES = 1 << 30
WALL_S = 24 * 3600
CPU_BASE_S = 30
CPU_BYTES_PER_S = 20 << 20
READ_MAX_BYTES = 4 << 20
# Where `confined.py` puts the file.
IMAGE = 4


class ConvertedSource:
    """The disk inside a file of another format, a `BlockSource`. Owns the file."""

    def __init__(self, file: int, driver: dict[str, Any], size_bytes: int, name: str) -> None:
        """Open the file descriptor `file` with QEMU's block driver `driver`, a disk of `size_bytes`.

        `name` is the format's, for messages. Raises `UnusableImage`.
        """
        self._file, self._size_bytes, self._name = file, size_bytes, name
        self._lock = threading.Lock()
        self._process, connection = _start(file, driver, size_bytes)
        self._export: NbdExport | None = None
        try:
            connection.settimeout(OPEN_TIMEOUT_S)
            self._export = NbdExport(connection)
            connection.settimeout(READ_TIMEOUT_S)
            # Drivers count in sectors of 512 bytes.
            if not size_bytes <= self._export.size_bytes < size_bytes + 512:
                raise UnusableImage(
                    f"The {name} file's header says a disk of {size_bytes} bytes, but it holds one of "
                    f"{self._export.size_bytes}. Make the file again."
                )
        except NbdError as error:
            connection.close()
            failure = self._refusal(error)
            self._end()
            raise failure from error
        except BaseException:
            connection.close()
            self._end()
            raise

    @property
    def size_bytes(self) -> int:
        """The size of the disk."""
        return self._size_bytes

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the tool and close the file; closing again does nothing."""
        with self._lock:
            if self._file < 0:
                return
            if self._export is not None:
                self._export.close()
            self._end()
            os.close(self._file)
            self._file = -1

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield what the file holds data for. Raises `UnusableImage` when it is damaged."""
        with self._lock:
            found: list[tuple[int, int]] = []
            try:
                for offset, length in self._opened().data():
                    end = min(offset + length, self._size_bytes)
                    if found and found[-1][0] + found[-1][1] == offset:
                        found[-1] = (found[-1][0], end - found[-1][0])
                    else:
                        found.append((offset, end - offset))
            except NbdError as error:
                raise self._refusal(error) from error
        yield from found

    def own(self) -> list[tuple[int, int, bool]]:
        """(offset, length, whether it reads as zeros) of what the file decides, whatever it may lie over.

        Raises `UnusableImage` when it is damaged.
        """
        with self._lock:
            try:
                return list(self._opened().own())
            except NbdError as error:
                raise self._refusal(error) from error

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes. Raises `UnusableImage` when the file is damaged there."""
        content = bytearray(length)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill `memory` from byte `offset`, as `read` does, without a copy."""
        with self._lock:
            for start in range(0, len(memory), READ_MAX_BYTES):
                try:
                    self._opened().read_into(offset + start, memory[start : start + READ_MAX_BYTES])
                except NbdError as error:
                    raise self._refusal(error, offset + start) from error

    def _opened(self) -> NbdExport:
        if self._export is None:
            raise UnusableImage(f"The {self._name} file is closed.")
        return self._export

    def _end(self) -> None:
        self._export = None
        self._process.kill()
        self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()

    def _refusal(self, error: NbdError, offset: int | None = None) -> UnusableImage:
        """What to say: the tool's own last line where it gave one."""
        reason = str(error)
        if self._export is None:
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                reason = "opening it took too long"
            if line := _last_line(self._process.stderr):
                reason = line
        where = "" if offset is None else f" at byte {offset} of the disk"
        return UnusableImage(
            f"The {self._name} file can't be read{where}: {reason.rstrip('.')}. "
            f"Check it by 'qemu-img check', or make it again."
        )


def find_tool() -> str:
    """The path of the tool that reads other formats. Raises `UnusableImage`, which says how to get it."""
    path = shutil.which(TOOL)
    if path is None:
        raise UnusableImage(
            f"Reading this format needs {TOOL}, which is not installed. Install it (Debian and Ubuntu: "
            f"apt-get install {PACKAGE}), or convert the file to raw elsewhere."
        )
    return path


def _start(
    file: int, driver: dict[str, Any], size_bytes: int
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the tool on a socket whose name is gone before it listens; return both."""
    tool = find_tool()
    node = {
        **driver,
        "read-only": True,
        "file": {"driver": "file", "filename": f"/dev/fd/{IMAGE}", "locking": "off"},
    }
    limits = {
        "memory_bytes": MEMORY_BYTES,
        "cpu_s": CPU_BASE_S + size_bytes // CPU_BYTES_PER_S,
        "wall_s": WALL_S,
    }
    listener, connection = _private_pair()
    with listener:
        process = subprocess.Popen(
            [
                sys.executable, "-I", "-S", str(Path(__file__).with_name("confined.py")),
                json.dumps({**limits, "listener": listener.fileno(), "file": file}),
                tool, "--read-only", "--shared=1", "--allocation-depth", f"json:{json.dumps(node)}",
            ],
            pass_fds=(listener.fileno(), file),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A pipe, since the tool may write into no file.
            stderr=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )  # fmt: skip
    return process, connection


def _private_pair() -> tuple[socket.socket, socket.socket]:
    """A listening socket with one connection waiting; its name is in no folder any more."""
    listener, connection = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    try:
        with tempfile.TemporaryDirectory(prefix="opengallery-") as folder:
            listener.bind(f"{folder}/nbd")
            listener.listen(1)
            connection.connect(f"{folder}/nbd")
    except BaseException:
        listener.close()
        connection.close()
        raise
    return listener, connection


def _last_line(says: IO[bytes] | None) -> str:
    """The last thing the tool said, without its own name and ours for the file."""
    if says is None:
        return ""
    os.set_blocking(says.fileno(), False)
    lines = (says.read(64 << 10) or b"").decode(errors="replace").splitlines()
    text = next((line for line in reversed(lines) if line.strip()), "")
    for name in (f"{TOOL}: ", "Failed to blk_new_open ", "Could not open ", "image: "):
        text = text.replace(name, "")
    if "json:" in text:
        text = text.rpartition("': ")[2]
    return text.strip()[:300]
