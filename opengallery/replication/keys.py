"""Data keys: every tenant has one, wrapped by the server's master key.

Digests of a tenant's blocks are keyed with its data key and frames are encrypted under it, so that
tenants share no block and a stolen store is noise. The master key is `DIR/master.key`, made at the
first start, or 32 bytes in hexadecimal in `GALLERY_MASTER_KEY`; without it nothing can be read.
`key_rotation.py` puts another one in its place.
Source: AES key wrap, RFC 3394.
"""

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from sqlalchemy import Column, Connection, LargeBinary, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from opengallery.database import Database, UtcDateTime, metadata, now
from opengallery.settings import Settings

ENVIRONMENT = "GALLERY_MASTER_KEY"
KEY_BYTES = 32
ATTEMPTS = 3
MASTER_FILE, NEXT_FILE, LOCK_FILE = "master.key", "master.key.next", "master.key.lock"

tenant_keys = Table(
    "tenant_keys",
    metadata,
    Column("tenant_id", String(64), primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)


class MasterKeyError(Exception):
    """The master key is malformed, or is not the one that the tenants' keys were wrapped with."""


class TenantKeys:
    """The tenants' data keys, 32 bytes each. Safe to use from many threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        """Read the master key, or make it at the first start. Raises `MasterKeyError`."""
        self._database = database
        self._data = settings.data
        master_key(settings.data)
        self._keys: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def data_key(self, tenant_id: str) -> bytes:
        """The data key of `tenant_id`, made at its first use. Raises `MasterKeyError`."""
        with self._lock:
            if tenant_id not in self._keys:
                self._keys[tenant_id] = self._read(tenant_id) or self._make(tenant_id)
            return self._keys[tenant_id]

    def tenants(self) -> list[str]:
        """The tenants that have a data key."""
        with self._database.read() as connection:
            return list(connection.scalars(select(tenant_keys.c.tenant_id).order_by(tenant_keys.c.tenant_id)))

    def _read(self, tenant_id: str) -> bytes | None:
        with self._database.read() as connection:
            wrapped = _wrapped(connection, tenant_id)
        return None if wrapped is None else self._unwrap(tenant_id, wrapped)

    def _make(self, tenant_id: str) -> bytes:
        # A rotation in this moment would leave a new key wrapped with the old master key.
        with locked_keys(self._data, is_exclusive=False):
            row = {
                "tenant_id": tenant_id,
                "wrapped": aes_key_wrap(self._current_master(), secrets.token_bytes(KEY_BYTES)),
                "created_at": now(),
            }
            with self._database.write() as connection:
                try:
                    with connection.begin_nested():
                        connection.execute(insert(tenant_keys).values(row))
                except IntegrityError:
                    pass  # another process made it in this moment: its key counts
                wrapped = _wrapped(connection, tenant_id)
        assert wrapped is not None
        return self._unwrap(tenant_id, wrapped)

    def _current_master(self) -> bytes:
        """The master key that opens the other tenants' data keys: a rotation may have been broken off."""
        keys = master_keys(self._data)
        with self._database.read() as connection:
            other = connection.scalars(select(tenant_keys.c.wrapped).limit(1)).first()
        return next((key for key in keys if other is not None and _opened(key, other)), keys[0])

    def _unwrap(self, tenant_id: str, wrapped: bytes) -> bytes:
        # The files are read anew: the master key may have been rotated since this process began, or in
        # the moment between the row and them.
        for _ in range(ATTEMPTS):
            for master in master_keys(self._data):
                if opened := _opened(master, wrapped):
                    return opened
            with self._database.read() as connection:
                wrapped = _wrapped(connection, tenant_id) or wrapped
        raise MasterKeyError(
            f"The master key does not open the data key of tenant '{tenant_id}'. "
            f"Put back the master.key that this data folder was made with, or set {ENVIRONMENT} to it."
        )


def _opened(master: bytes, wrapped: bytes) -> bytes | None:
    try:
        return aes_key_unwrap(master, wrapped)
    except InvalidUnwrap:
        return None


def master_keys(data: Path) -> list[bytes]:
    """The master key, and the one that a rotation is about to put in its place. Raises `MasterKeyError`."""
    if ENVIRONMENT in os.environ:
        return [master_key(data)]
    # The next one first: when its file is gone by the time the other is read, it is the other.
    keys = []
    with suppress(FileNotFoundError):
        keys.append(parse_key((data / NEXT_FILE).read_text(), str(data / NEXT_FILE)))
    return [master_key(data), *keys]


@contextmanager
def locked_keys(data: Path, *, is_exclusive: bool) -> Iterator[None]:
    """Keep the master key as it is meanwhile, or be the only one who changes it."""
    data.mkdir(parents=True, exist_ok=True)
    with (data / LOCK_FILE).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH)
        yield


def master_key(data: Path) -> bytes:
    """The master key, 32 bytes: from the environment, or from `master.key` in `data`.

    The file is made, mode 0600 and on disk, when neither is there. Raises `MasterKeyError`.
    """
    if ENVIRONMENT in os.environ:
        return parse_key(os.environ[ENVIRONMENT], f"the environment variable {ENVIRONMENT}")
    return secret_file(data / MASTER_FILE)


def secret_file(path: Path) -> bytes:
    """32 secret bytes kept in `path` as hexadecimal, made at the first call; whoever comes first wins."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return parse_key(path.read_text(), str(path))


def parse_key(text: str, place: str) -> bytes:
    """A key written in hexadecimal. Raises `MasterKeyError`, which names `place`."""
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise MasterKeyError(f"The key in {place} must be {KEY_BYTES} bytes in hexadecimal.")
    return key


def _wrapped(connection: Connection, tenant_id: str) -> bytes | None:
    query = select(tenant_keys.c.wrapped).where(tenant_keys.c.tenant_id == tenant_id)
    return connection.execute(query).scalar()
