"""The folder DIR/identity: keys, certificates and the first administrator's secret.

Only its owner may enter it (0700), and its files are his (0600), but for certificates. A file is
replaced as a whole and is on disk when `write` returns: after a crash it holds the old content or the new.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


class IdentityFolder:
    """The folder `identity` in the data folder DIR; made when something is written first."""

    def __init__(self, data: Path) -> None:
        """Name the folder of DIR `data`; touches nothing."""
        self.path = data / "identity"

    def make(self) -> None:
        """Make the folder, or make an existing one private again."""
        if not self.path.is_dir():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(self.path.parent)
        self.path.chmod(0o700)

    def read(self, name: str) -> bytes | None:
        """Content of the file `name`, `None` when there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes, mode: int = PRIVATE) -> Path:
        """Put `content` in the file `name`, durably, in one stroke."""
        self.make()
        path = self.path / name
        draft = self.path / f".{name}.{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        _sync(self.path)
        return path

    def rename(self, old: str, new: str) -> None:
        """Give the file `old` the name `new`, durably."""
        (self.path / old).replace(self.path / new)
        _sync(self.path)

    def sweep(self, name: str) -> None:
        """Remove what writers of the file `name` left that were killed. Call it under the lock."""
        for draft in self.path.glob(f".{name}.*"):
            draft.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from changing the folder until the block ends."""
        self.make()
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
