"""Roles: what a role assignment allows. Built-in ones, the same for every tenant, and each tenant's custom ones.

A role allows the actions that match one of its `actions` and none of its `notActions`; `*` matches anything.
Its data actions are kept and shown: this server has no data plane that asks for them.
Source: Azure role-based access control, built-in roles (`built_in_roles.json`) and custom roles.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    Column,
    Connection,
    Row,
    String,
    Table,
    UniqueConstraint,
    delete,
    insert,
    select,
    update,
)

from opengallery.database import Json, UtcDateTime, metadata

ROOT = "/"

role_definitions = Table(
    "role_definitions",
    metadata,
    Column("tenant_id", String(36), primary_key=True),
    Column("id", String(36), primary_key=True),
    Column("name", String(512), nullable=False),
    Column("name_key", String(512), nullable=False),
    Column("description", String(2048), nullable=False),
    Column("permissions", Json, nullable=False),
    Column("assignable_scopes", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(36), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", String(36), nullable=False),
    UniqueConstraint("tenant_id", "name_key"),
)


class Permissions(msgspec.Struct, frozen=True, rename="camel"):
    """The actions that a role allows, and those that it takes out of them."""

    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()
    not_data_actions: tuple[str, ...] = ()

    def allows(self, action: str) -> bool:
        """Whether `action` (`Microsoft.Compute/galleries/read`) is allowed."""
        return _matches_any(self.actions, action) and not _matches_any(self.not_actions, action)


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A role definition. One that `created_at` says nothing of is built in."""

    id: str
    name: str
    permissions: Permissions
    description: str = ""
    assignable_scopes: tuple[str, ...] = (ROOT,)
    created_at: datetime | None = None
    created_by: str | None = None
    updated_at: datetime | None = None
    updated_by: str | None = None

    @property
    def is_custom(self) -> bool:
        """Whether a tenant made it."""
        return self.created_at is not None

    def allows(self, action: str) -> bool:
        """Whether the role allows `action`."""
        return self.permissions.allows(action)


def _read_built_in() -> dict[str, Role]:
    entries = msgspec.json.decode((Path(__file__).parent / "built_in_roles.json").read_bytes())
    return {
        entry["id"]: Role(
            id=entry["id"],
            name=entry["name"],
            description=entry["description"],
            permissions=msgspec.convert(entry, Permissions),
        )
        for entry in entries
    }


BUILT_IN = _read_built_in()
_BY_NAME = {role.name: role for role in BUILT_IN.values()}
OWNER, CONTRIBUTOR, READER = (_BY_NAME[name] for name in ("Owner", "Contributor", "Reader"))


def built_in(name: str) -> Role:
    """The built-in role of this name. Raises `KeyError`."""
    return _BY_NAME[name]


def find(connection: Connection, tenant_id: str, role_id: str) -> Role | None:
    """The built-in role with this id, or the tenant's custom role."""
    if role := BUILT_IN.get(role_id.lower()):
        return role
    query = select(role_definitions).where(
        role_definitions.c.tenant_id == tenant_id, role_definitions.c.id == role_id.lower()
    )
    row = connection.execute(query).one_or_none()
    return _role(row) if row else None


def custom(connection: Connection, tenant_id: str) -> list[Role]:
    """All custom roles of a tenant, by name."""
    query = (
        select(role_definitions)
        .where(role_definitions.c.tenant_id == tenant_id)
        .order_by(role_definitions.c.name_key)
    )
    return [_role(row) for row in connection.execute(query)]


def has_name(connection: Connection, tenant_id: str, name: str, besides: str) -> bool:
    """Whether a role but the one with the id `besides` has this name, in any case."""
    if any(role.name.lower() == name.lower() for role in BUILT_IN.values()):
        return True
    query = select(role_definitions.c.id).where(
        role_definitions.c.tenant_id == tenant_id,
        role_definitions.c.name_key == name.lower(),
        role_definitions.c.id != besides,
    )
    return connection.execute(query).first() is not None


def save(connection: Connection, tenant_id: str, role: Role) -> None:
    """Insert a custom role, or replace it as a whole."""
    values = {
        "name": role.name,
        "name_key": role.name.lower(),
        "description": role.description,
        "permissions": msgspec.to_builtins(role.permissions),
        "assignable_scopes": list(role.assignable_scopes),
        "created_at": role.created_at,
        "created_by": role.created_by,
        "updated_at": role.updated_at,
        "updated_by": role.updated_by,
    }
    changed = connection.execute(
        update(role_definitions)
        .where(role_definitions.c.tenant_id == tenant_id, role_definitions.c.id == role.id)
        .values(values)
    )
    if changed.rowcount == 0:
        connection.execute(insert(role_definitions).values(tenant_id=tenant_id, id=role.id, **values))


def forget(connection: Connection, tenant_id: str, role_id: str) -> None:
    """Delete a custom role."""
    connection.execute(
        delete(role_definitions).where(
            role_definitions.c.tenant_id == tenant_id, role_definitions.c.id == role_id
        )
    )


def _role(row: Row[Any]) -> Role:
    values = row._asdict()
    return Role(
        id=row.id,
        name=row.name,
        description=row.description,
        permissions=msgspec.convert(row.permissions, Permissions),
        assignable_scopes=tuple(row.assignable_scopes),
        **{name: values[name] for name in ("created_at", "created_by", "updated_at", "updated_by")},
    )


def _matches_any(patterns: Sequence[str], action: str) -> bool:
    return any(pattern == "*" or _pattern(pattern).fullmatch(action) is not None for pattern in patterns)


@lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*"), re.IGNORECASE | re.ASCII)
