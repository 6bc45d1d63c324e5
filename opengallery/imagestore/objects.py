"""Objects: the little that an image store needs of the place it is kept in.

Two kinds: `directory.DirectoryObjects`, and `ObstoreObjects` over anything that obstore speaks to
(S3, Azure Blob, memory). Paths are relative, with slashes. A missing object is a
`FileNotFoundError` in both.
"""

import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

from opengallery.imagestore.errors import StoreUnavailable

SPOOL_BYTES = 80 << 20


@dataclass(frozen=True)
class ObjectStat:
    """One object of a listing; `modified_s` is seconds since the epoch."""

    path: str
    size_bytes: int
    modified_s: float


class ObjectWriter(Protocol):
    """An object in the making, which nobody sees until it is committed."""

    def write(self, content: bytes | memoryview) -> None:
        """Append bytes."""

    def commit(self, path: str, *, replace: bool = False, version: str | None = None) -> bool:
        """Make the object durable under `path`. False when one is there already and stays.

        With `version` it takes the place of that version only: False when the object at `path` is
        another by now, or gone.
        """

    def abort(self) -> None:
        """Forget what was written. Does nothing after a commit."""


class Objects(Protocol):
    """Immutable objects by path. Safe to use from many threads and processes."""

    def writer(self) -> ObjectWriter:
        """Begin an object whose path is known only at its end."""

    def put(self, path: str, content: bytes, *, replace: bool = False) -> bool:
        """Write a small object at once. False when one is there already and stays."""

    def get(self, path: str) -> bytes:
        """Return the whole object."""

    def range(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only where the object ends."""

    def tail(self, path: str, length: int) -> tuple[bytes, int]:
        """Return the last `length` bytes (or all), and the size of the object."""

    def exists(self, path: str) -> bool:
        """Whether the object is there."""

    def version(self, path: str) -> str:
        """Name what is at `path` now, so that `ObjectWriter.commit` can replace just that."""

    def delete(self, path: str) -> None:
        """Take the object away, if it is there."""

    def list(self, folder: str) -> Iterator[ObjectStat]:
        """List the objects under `folder` (given with its slash), in no order."""

    def sweep(self, older_than_s: float) -> int:
        """Delete what writers that died left behind longer ago than that; return the bytes."""


def write_object(objects: Objects, path: str, content: bytes, *, replace: bool) -> bool:
    """Put `content` by a writer: `Objects.put` for stores that have no shorter way."""
    writer = objects.writer()
    try:
        writer.write(content)
        return writer.commit(path, replace=replace)
    finally:
        writer.abort()


class ObstoreObjects:
    """Objects in an obstore store. Durable when that store's own acknowledged puts are."""

    def __init__(self, store: Any, prefix: str) -> None:
        """Keep everything of `store` under `prefix` ("" or a path without a slash at its ends)."""
        self._store = store
        self._prefix = f"{prefix}/" if prefix else ""
        self._has_suffix_ranges = True

    def writer(self) -> ObjectWriter:
        """Spool in memory, then on disk: put-if-absent needs the whole object in one request."""
        return _SpooledWriter(self)

    def put(self, path: str, content: bytes | memoryview, *, replace: bool = False) -> bool:
        """Put in one request, if absent unless `replace`."""
        try:
            self._store.put(
                self._prefix + path,
                content,
                mode="overwrite" if replace else "create",
                use_multipart=False,
            )
        except AlreadyExistsError:
            return False
        except (BaseError, FileNotFoundError) as error:
            raise _unavailable("write", path, error) from error
        return True

    def swap(self, path: str, content: bytes, version: str) -> bool:
        """Put `content` in the place of that version. False when the object is another now, or gone.

        Where the store has no conditional overwrite (obstore's LocalStore), this looks, then writes:
        an object that is deleted in that moment is there again.
        """
        # Azure wants an entity tag with its quotes, Ceph's RGW without.
        for tag in (version, version.strip('"')):
            try:
                if self.version(path) != version:
                    return False
                self._store.put(self._prefix + path, content, mode={"e_tag": tag}, use_multipart=False)
            except FileNotFoundError:
                return False
            except PreconditionError:
                continue
            except NotImplementedError:
                return self.put(path, content, replace=True)
            except BaseError as error:
                raise _unavailable("write", path, error) from error
            return True
        return False

    def get(self, path: str) -> bytes:
        """Return the whole object."""
        with _reading(path):
            return bytes(self._store.get(self._prefix + path).bytes())

    def range(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        with _reading(path):
            return bytes(self._store.get_range(self._prefix + path, start=offset, length=length))

    def tail(self, path: str, length: int) -> tuple[bytes, int]:
        """One request with a suffix range; two where there are none (Azure)."""
        with _reading(path):
            if self._has_suffix_ranges:
                try:
                    answer = self._store.get(self._prefix + path, options={"range": {"suffix": length}})
                    return bytes(answer.bytes()), int(answer.meta["size"])
                except NotSupportedError:
                    self._has_suffix_ranges = False
            size = int(self._store.head(self._prefix + path)["size"])
            start = max(0, size - length)
            content = self._store.get_range(self._prefix + path, start=start, end=size) if size else b""
            return bytes(content), size

    def exists(self, path: str) -> bool:
        """Ask for the object's head."""
        try:
            with _reading(path):
                self._store.head(self._prefix + path)
        except FileNotFoundError:
            return False
        return True

    def version(self, path: str) -> str:
        """The object's entity tag."""
        with _reading(path):
            return str(self._store.head(self._prefix + path)["e_tag"])

    def delete(self, path: str) -> None:
        """Delete; a store that complains about a missing object has it deleted too."""
        with suppress(FileNotFoundError), _reading(path):
            self._store.delete(self._prefix + path)

    def list(self, folder: str) -> Iterator[ObjectStat]:
        """List page by page."""
        with _reading(folder):
            for page in self._store.list((self._prefix + folder).rstrip("/")):
                for meta in page:
                    yield ObjectStat(
                        meta["path"][len(self._prefix) :], meta["size"], meta["last_modified"].timestamp()
                    )

    def sweep(self, older_than_s: float) -> int:
        """Nothing is left behind: a put is one request."""
        return 0


def _unavailable(verb: str, path: str, error: Exception) -> StoreUnavailable:
    # What follows the first line is a dump of obstore's own.
    return StoreUnavailable(f"Cannot {verb} {path}: {str(error).splitlines()[0]}")


class _reading:
    """Turn obstore's errors into ours; a missing object stays a `FileNotFoundError`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BaseError):
            raise _unavailable("reach", self._path, error) from error


class _SpooledWriter:
    def __init__(self, objects: ObstoreObjects) -> None:
        self._objects = objects
        self._spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115

    def write(self, content: bytes | memoryview) -> None:
        self._spool.write(content)

    def commit(self, path: str, *, replace: bool = False, version: str | None = None) -> bool:
        self._spool.seek(0)
        if version is not None:
            return self._objects.swap(path, self._spool.read(), version)
        return self._objects.put(path, self._spool.read(), replace=replace)

    def abort(self) -> None:
        self._spool.close()
