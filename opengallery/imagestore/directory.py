"""Objects in a directory, written so that they survive a power cut.

A new object is a temporary file: write, fsync, link to its name (which fails when the name is taken:
put-if-absent), fsync of the directory. Only then is it acknowledged. A writer that is killed leaves
a file in `temporary/`, which nobody reads and `sweep` deletes.
"""

import ctypes
import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from opengallery.imagestore.errors import StoreChanged, StoreUnavailable
from opengallery.imagestore.objects import ObjectStat, ObjectWriter, write_object

TEMPORARY = "temporary"
AT_FDCWD = -100
RENAME_EXCHANGE = 2
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


class DirectoryObjects:
    """Objects under `root`, which is made when it is missing; files 0600, folders 0700."""

    def __init__(self, root: Path) -> None:
        """Open the directory `root`."""
        self.root = root
        make_durable_folder(root / TEMPORARY)

    def writer(self) -> ObjectWriter:
        """Begin a temporary file."""
        return _FileWriter(self)

    def put(self, path: str, content: bytes, *, replace: bool = False) -> bool:
        """Write through a temporary file."""
        return write_object(self, path, content, replace=replace)

    def get(self, path: str) -> bytes:
        """Return the whole file."""
        with _translated(self.root, "read"):
            return (self.root / path).read_bytes()

    def range(self, path: str, offset: int, length: int) -> bytes:
        """Read by `pread`, which leaves no position behind."""
        with _translated(self.root, "read"):
            file = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return pread_fully(file, offset, length)
            finally:
                os.close(file)

    def tail(self, path: str, length: int) -> tuple[bytes, int]:
        """Read the last `length` bytes."""
        with _translated(self.root, "read"):
            file = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(file).st_size
                return pread_fully(file, max(0, size - length), min(size, length)), size
            finally:
                os.close(file)

    def exists(self, path: str) -> bool:
        """Whether the file is there."""
        return (self.root / path).is_file()

    def version(self, path: str) -> str:
        """Inode, time and size: every object is a new file."""
        with _translated(self.root, "read"):
            stat = (self.root / path).stat()
            return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"

    def delete(self, path: str) -> None:
        """Unlink and make that durable."""
        with _translated(self.root, "write"):
            (self.root / path).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                sync_folder((self.root / path).parent)

    def list(self, folder: str) -> Iterator[ObjectStat]:
        """Walk the folder; files that vanish meanwhile are left out. Raises `StoreUnavailable`."""
        for parent, _, names in os.walk(self.root / folder, onerror=self._list_failed):
            for name in names:
                file = Path(parent, name)
                with suppress(FileNotFoundError):
                    stat = file.stat()
                    yield ObjectStat(file.relative_to(self.root).as_posix(), stat.st_size, stat.st_mtime)

    def _list_failed(self, error: OSError) -> None:
        # A list that is silently short would let collect delete what is needed.
        if not isinstance(error, FileNotFoundError):
            raise StoreUnavailable(f"Cannot list {error.filename}: {error.strerror}.") from error

    def sweep(self, older_than_s: float) -> int:
        """Delete temporary files that nobody has written to for `older_than_s` seconds."""
        freed_bytes = 0
        oldest_s = time.time() - older_than_s
        for leftover in list(self.list(TEMPORARY)):
            if leftover.modified_s <= oldest_s:
                self.delete(leftover.path)
                freed_bytes += leftover.size_bytes
        return freed_bytes


class _FileWriter:
    def __init__(self, objects: DirectoryObjects) -> None:
        self._objects = objects
        self._root = objects.root
        self._path: Path | None = self._root / TEMPORARY / secrets.token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with _translated(self._root, "write"):
            self._file = os.open(self._path, flags, 0o600)

    def write(self, content: bytes | memoryview) -> None:
        rest = memoryview(content)
        with _translated(self._root, "write"):
            while rest:
                rest = rest[os.write(self._file, rest) :]

    def commit(self, path: str, *, replace: bool = False, version: str | None = None) -> bool:
        assert self._path is not None
        target = self._root / path
        is_written = True
        with _translated(self._root, "write"):
            os.fsync(self._file)
            make_durable_folder(target.parent)
            try:
                if version is not None:
                    is_written = self._swap(target, path, version)
                    self.abort()
                elif replace:
                    self._path.replace(target)
                    self._close()
                else:
                    try:
                        os.link(self._path, target)
                    except FileExistsError:
                        is_written = False
                    self.abort()
            except FileNotFoundError:
                raise StoreChanged(
                    f"In {self._root} a sweep took a file that was not written to for long. Write it again."
                ) from None
            # Also when another writer was first: it may not have come to this line yet.
            sync_folder(target.parent)
        return is_written

    def _swap(self, target: Path, path: str, version: str) -> bool:
        """Exchange names, which the kernel refuses when there is nothing at `target` any more."""
        assert self._path is not None
        try:
            if self._objects.version(path) != version:
                return False
            exchange(self._path, target)
            # Durable before the other file, which has the temporary name now, goes.
            sync_folder(target.parent)
        except FileNotFoundError:
            if not self._path.exists():
                raise
            return False
        return True

    def abort(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        self._path = None
        os.close(self._file)


class _translated:
    """Turn what a disk says into `StoreUnavailable`, with what to do.

    When reading, two things are the caller's: a missing file, and an I/O error, which is damage.
    """

    def __init__(self, root: Path, verb: str) -> None:
        self._root = root
        self._verb = verb

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if self._verb == "read" and error.errno in (errno.ENOENT, errno.EIO):
            return
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free space there or run collect" if full else "Check that directory"
        raise StoreUnavailable(f"Cannot {self._verb} in {self._root}: {error.strerror}. {advice}.") from error


def pread_fully(file: int, offset: int, length: int) -> bytes:
    """Return `length` bytes of `file` from `offset`, fewer only at its end."""
    first = os.pread(file, length, offset)
    if len(first) == length or not first:
        return first
    pieces = [first]
    done = len(first)
    while done < length and (piece := os.pread(file, length - done, offset + done)):
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


def exchange(first: Path, second: Path) -> None:
    """Let two files swap their names at once. Raises `FileNotFoundError` when one is missing.

    Where the file system cannot (NFS), `first` is moved over `second`: a file that is deleted in
    just that moment is there again.
    """
    if _renameat2 is not None:
        if not _renameat2(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE):
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(code, os.strerror(code), str(second))
    second.stat()
    first.replace(second)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_durable_folder(folder: Path) -> None:
    """Make `folder` and its parents, each name durable before anything is put into it."""
    if folder.is_dir():
        return
    make_durable_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    sync_folder(folder.parent)
