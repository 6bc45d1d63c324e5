"""Key rotation: a new master key for the same data keys, so that no image is written again.

1. The new key is written beside the old one (`master.key.next`) and brought to the disk.
2. One transaction wraps every tenant's data key with it.
3. It takes the old one's place (rename), and the old one is gone.

A process killed in between leaves the keys wrapped with one of the two, and both files there: whoever
opens a data key tries both (`keys.py`), and the next rotation first ends the one that was broken off. All
of it happens under a lock on `master.key.lock`, which whoever makes a tenant's first data key shares, so a
server may run meanwhile.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from sqlalchemy import select, update

from opengallery.database import Database
from opengallery.replication.keys import (
    ENVIRONMENT,
    KEY_BYTES,
    MASTER_FILE,
    NEXT_FILE,
    MasterKeyError,
    locked_keys,
    parse_key,
    tenant_keys,
)

NEW_ENVIRONMENT = "GALLERY_NEW_MASTER_KEY"


@dataclass(frozen=True)
class Rotation:
    """What was done: how many data keys are wrapped with the new master key, and where that is."""

    tenants: int
    place: str


def rotate(data: Path, database: Database) -> Rotation:
    """Wrap all data keys with a new master key. Raises `MasterKeyError`; nothing has changed then."""
    if ENVIRONMENT in os.environ:
        return _rotate_environment(database)
    with locked_keys(data, is_exclusive=True):
        if not (data / MASTER_FILE).exists():
            raise MasterKeyError(
                f"There is no {MASTER_FILE} in {data}. Set {ENVIRONMENT} if the key is kept elsewhere."
            )
        settle(data, database)
        old = parse_key((data / MASTER_FILE).read_text(), str(data / MASTER_FILE))
        new = secrets.token_bytes(KEY_BYTES)
        _write_next(data, new)
        tenants = _wrap_anew(database, old, new)
        _take_place(data)
        return Rotation(tenants, str(data / MASTER_FILE))


def settle(data: Path, database: Database) -> None:
    """End a rotation that was broken off: keep the key that opens the data keys. Call it under the lock."""
    next_file = data / NEXT_FILE
    if not next_file.exists():
        return
    with database.read() as connection:
        wrapped = connection.scalars(select(tenant_keys.c.wrapped).limit(1)).first()
    if wrapped is None or not _opens(parse_key(next_file.read_text(), str(next_file)), wrapped):
        next_file.unlink()
        _sync_folder(data)
    else:
        _take_place(data)


def _rotate_environment(database: Database) -> Rotation:
    """The keys come from the environment, the new one too; servers are stopped, or fail until it is set."""
    if NEW_ENVIRONMENT not in os.environ:
        raise MasterKeyError(
            f"The master key is in {ENVIRONMENT}. Put the new one, 32 bytes in hexadecimal (openssl rand -hex 32), "
            f"into {NEW_ENVIRONMENT}; stop the servers before."
        )
    old = parse_key(os.environ[ENVIRONMENT], f"the environment variable {ENVIRONMENT}")
    new = parse_key(os.environ[NEW_ENVIRONMENT], f"the environment variable {NEW_ENVIRONMENT}")
    return Rotation(_wrap_anew(database, old, new), f"the environment: set {ENVIRONMENT} to the new key")


def _wrap_anew(database: Database, old: bytes, new: bytes) -> int:
    """Wrap all data keys with `new`, in one transaction. Those that have it already stay."""
    with database.write() as connection:
        rows = connection.execute(select(tenant_keys.c.tenant_id, tenant_keys.c.wrapped)).all()
        for tenant_id, wrapped in rows:
            if _opens(new, wrapped):
                continue
            try:
                data_key = aes_key_unwrap(old, wrapped)
            except InvalidUnwrap as error:
                raise MasterKeyError(
                    f"The master key does not open the data key of tenant '{tenant_id}': nothing was changed."
                ) from error
            connection.execute(
                update(tenant_keys)
                .where(tenant_keys.c.tenant_id == tenant_id)
                .values(wrapped=aes_key_wrap(new, data_key))
            )
    return len(rows)


def _opens(master: bytes, wrapped: bytes) -> bool:
    try:
        aes_key_unwrap(master, wrapped)
    except InvalidUnwrap:
        return False
    return True


def _write_next(data: Path, key: bytes) -> None:
    draft = data / f"{NEXT_FILE}.draft"
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.rename(data / NEXT_FILE)
    _sync_folder(data)


def _take_place(data: Path) -> None:
    (data / NEXT_FILE).rename(data / MASTER_FILE)
    _sync_folder(data)


def _sync_folder(data: Path) -> None:
    folder = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
