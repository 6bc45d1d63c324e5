"""Accounts: a user with what it takes to sign in.

An account's `password_stamp` is a digest of its password's hash. Codes and refresh tokens keep the stamp
of their time: when the password has changed since, they are worth nothing.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from opengallery.identity.directory import as_id, principal_of, principals
from opengallery.identity.principal import Principal
from opengallery.identity.users import name_key, users


@dataclass(frozen=True, slots=True)
class Account:
    """One user. `password_hash` is `None` for a user who has no password, and can't sign in."""

    principal: Principal
    is_enabled: bool
    user_principal_name: str
    password_hash: str | None

    def __repr__(self) -> str:
        """Without the hash, which must not get into a log."""
        return f"Account({self.principal.object_id!r})"

    @property
    def password_stamp(self) -> str:
        """Changes with the password, and tells nothing of it."""
        return hashlib.sha256((self.password_hash or "").encode()).hexdigest()[:32]


def find_user(connection: Connection, user_principal_name: str) -> Account | None:
    """The user with this name, in any case, enabled or not."""
    key = name_key(user_principal_name.strip())
    return _first(connection, _query().where(users.c.user_principal_name_key == key))


def read_account(connection: Connection, object_id: str) -> Account | None:
    """The user with this object id, enabled or not."""
    return _first(connection, _query().where(users.c.object_id == as_id(object_id)))


def _query() -> Select[Any]:
    return select(principals, users.c.user_principal_name, users.c.password_hash).join(
        users, users.c.object_id == principals.c.object_id
    )


def _first(connection: Connection, query: Select[Any]) -> Account | None:
    row: Row[Any] | None = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Account(principal_of(row), row.enabled, row.user_principal_name, row.password_hash)
