"""Users: people of a tenant, who sign in by a user principal name (`bob@local`) and a password.

Of the password only the Argon2 hash is kept. `details` are the members of a Graph user that only
describe it (`givenName`, `jobTitle`, ...). A user principal name is unique among all tenants, in any
case. Source: Microsoft Graph REST API v1.0, user.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Column, Connection, ForeignKey, Row, Select, String, Table, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from opengallery.database import Json, UtcDateTime, metadata, now
from opengallery.identity.directory import as_id, insert_principal, principals
from opengallery.identity.directory_errors import AlreadyTaken, InvalidValue
from opengallery.identity.properties import Kind, Text, Texts

users = Table(
    "users",
    metadata,
    Column("object_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
    Column("user_principal_name", String(256), nullable=False),
    Column("user_principal_name_key", String(256), nullable=False, unique=True),
    Column("password_hash", String(256)),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

PASSWORD_LENGTH_MIN = 8
PASSWORD_LENGTH_MAX = 256

_NAME = re.compile(
    r"[A-Za-z0-9!#^~_'-]+(\.[A-Za-z0-9!#^~_'-]+)*@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", re.ASCII
)
_NAME_LENGTH_MAX = 113
_LOCAL_LENGTH_MAX = 64
_NAME_RULE = (
    f"Write NAME@DOMAIN, {_NAME_LENGTH_MAX} characters at most and {_LOCAL_LENGTH_MAX} before the @: letters, "
    "digits and . _ - ' ! # ^ ~ before it, letters, digits, - and . after it."
)

NICKNAME = Text(
    64,
    r'[^@()\\\[\]";:<>, \x80-\U0010ffff]+',
    'Give 1 to 64 ASCII characters without spaces and without any of @ ( ) \\ [ ] " ; : < > ,',
)

DETAILS: Mapping[str, Kind] = {
    "businessPhones": Texts(1, 64),
    "city": Text(128),
    "companyName": Text(64),
    "country": Text(128),
    "department": Text(64),
    "employeeId": Text(16),
    "givenName": Text(64),
    "jobTitle": Text(128),
    "mail": Text(256),
    "mailNickname": NICKNAME,
    "mobilePhone": Text(64),
    "officeLocation": Text(128),
    "onPremisesImmutableId": Text(256),
    "postalCode": Text(40),
    "preferredLanguage": Text(64),
    "state": Text(128),
    "streetAddress": Text(1024),
    "surname": Text(64),
    "usageLocation": Text(2, "[A-Za-z]{2}", "Give a country by its two letters (ISO 3166)."),
}


@dataclass(frozen=True, slots=True)
class User:
    """A user as the directory shows it: nothing of the password."""

    object_id: str
    tenant_id: str
    user_principal_name: str
    display_name: str
    is_enabled: bool
    details: Mapping[str, Any]
    created_at: datetime


def selected_users(tenant_id: str) -> Select[Any]:
    """The users of a tenant: rows for `user_of`, to be narrowed and ordered."""
    return (
        select(
            principals.c.object_id,
            principals.c.tenant_id,
            principals.c.display_name,
            principals.c.enabled,
            users.c.user_principal_name,
            users.c.details,
            users.c.created_at,
        )
        .join(users, users.c.object_id == principals.c.object_id)
        .where(principals.c.tenant_id == as_id(tenant_id))
    )


def user_of(row: Row[Any]) -> User:
    """The user of a row of `selected_users`."""
    return User(
        row.object_id,
        row.tenant_id,
        row.user_principal_name,
        row.display_name,
        row.enabled,
        row.details,
        row.created_at,
    )


def find_user(connection: Connection, tenant_id: str, name: str) -> User | None:
    """The user of a tenant with this object id or user principal name, if there is one."""
    known_by = or_(users.c.object_id == as_id(name), users.c.user_principal_name_key == name_key(name))
    row = connection.execute(selected_users(tenant_id).where(known_by)).one_or_none()
    return user_of(row) if row else None


def create_user(
    connection: Connection,
    tenant_id: str,
    user_principal_name: str,
    display_name: str,
    password_hash: str | None,
    details: Mapping[str, Any],
    is_enabled: bool = True,
) -> str:
    """Add a user and return its object id. Raises `InvalidValue`, `AlreadyTaken`, `TooMany`."""
    name = check_user_principal_name(user_principal_name)
    _require_free(connection, name, None)
    object_id = str(uuid4())
    insert_principal(connection, object_id, tenant_id, "User", display_name, is_enabled=is_enabled)
    row = {
        "object_id": object_id,
        "user_principal_name": name,
        "user_principal_name_key": name_key(name),
        "password_hash": password_hash,
        "details": dict(details),
        "created_at": now(),
    }
    try:
        connection.execute(insert(users).values(row))
    except IntegrityError as error:  # another tenant took it in this moment
        raise AlreadyTaken("userPrincipalName") from error
    return object_id


def update_user(
    connection: Connection,
    object_id: str,
    user_principal_name: str | None = None,
    password_hash: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Change what is given; `details` take the place of all. Raises `InvalidValue`, `AlreadyTaken`."""
    changes: dict[str, Any] = {}
    if user_principal_name is not None:
        name = check_user_principal_name(user_principal_name)
        _require_free(connection, name, object_id)
        changes |= {"user_principal_name": name, "user_principal_name_key": name_key(name)}
    if password_hash is not None:
        changes["password_hash"] = password_hash
    if details is not None:
        changes["details"] = dict(details)
    if changes:
        try:
            connection.execute(update(users).where(users.c.object_id == object_id).values(changes))
        except IntegrityError as error:
            raise AlreadyTaken("userPrincipalName") from error


def find_password_hash(connection: Connection, object_id: str) -> str | None:
    """The Argon2 hash of a user's password, `None` when there is none."""
    query = select(users.c.password_hash).where(users.c.object_id == as_id(object_id))
    found: str | None = connection.scalar(query)
    return found


def name_key(user_principal_name: str) -> str:
    """What tells user principal names apart. What is none becomes "", which no row has."""
    is_name = len(user_principal_name) <= _NAME_LENGTH_MAX and _NAME.fullmatch(user_principal_name)
    return user_principal_name.lower() if is_name else ""


def check_user_principal_name(value: Any) -> str:
    """A user principal name. Raises `InvalidValue`."""
    if not isinstance(value, str) or not name_key(value) or len(value.split("@")[0]) > _LOCAL_LENGTH_MAX:
        raise InvalidValue("userPrincipalName", _NAME_RULE)
    return value


def check_password(value: Any) -> str:
    """A password that a user may have. Raises `InvalidValue`, which doesn't repeat it."""
    if not isinstance(value, str) or not PASSWORD_LENGTH_MIN <= len(value) <= PASSWORD_LENGTH_MAX:
        raise InvalidValue(
            "password",
            f"A password has at least {PASSWORD_LENGTH_MIN} and at most {PASSWORD_LENGTH_MAX} characters.",
        )
    return value


def _require_free(connection: Connection, name: str, object_id: str | None) -> None:
    query = select(users.c.object_id).where(users.c.user_principal_name_key == name_key(name))
    found = connection.scalar(query)
    if found is not None and found != object_id:
        raise AlreadyTaken("userPrincipalName")
