"""Data keys: every tenant has one, wrapped by the server's master key.

Digests of a tenant's blocks are keyed with its data key and frames are encrypted under it, so that
tenants share no block and a stolen store is noise. The master key is `DIR/master.key`, made at the
first start, or 32 bytes in hexadecimal in `GALLERY_MASTER_KEY`; without it nothing can be read.
Source: AES key wrap, RFC 3394.
"""

import os
import secrets
import threading
from pathlib import Path

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from sqlalchemy import Column, Connection, LargeBinary, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from opengallery.database import Database, UtcDateTime, metadata, now
from opengallery.settings import Settings

ENVIRONMENT = "GALLERY_MASTER_KEY"
KEY_BYTES = 32

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
        self._master = master_key(settings.data)
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
        row = {
            "tenant_id": tenant_id,
            "wrapped": aes_key_wrap(self._master, secrets.token_bytes(KEY_BYTES)),
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

    def _unwrap(self, tenant_id: str, wrapped: bytes) -> bytes:
        try:
            return aes_key_unwrap(self._master, wrapped)
        except InvalidUnwrap as error:
            raise MasterKeyError(
                f"The master key does not open the data key of tenant '{tenant_id}'. "
                f"Put back the master.key that this data folder was made with, or set {ENVIRONMENT} to it."
            ) from error


def master_key(data: Path) -> bytes:
    """The master key, 32 bytes: from the environment, or from `master.key` in `data`.

    The file is made, mode 0600 and on disk, when neither is there. Raises `MasterKeyError`.
    """
    if ENVIRONMENT in os.environ:
        return _parse(os.environ[ENVIRONMENT], f"the environment variable {ENVIRONMENT}")
    return secret_file(data / "master.key")


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
    return _parse(path.read_text(), str(path))


def _parse(text: str, place: str) -> bytes:
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
