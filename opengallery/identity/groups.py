"""Groups: principals that other principals, groups among them, are members of.

`details` are the members of a Graph group that only describe it (`description`, `mailNickname`, ...).
Who is in a group, and whose a group is, is kept by memberships and ownership.
Source: Microsoft Graph REST API v1.0, group.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Row,
    Select,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from opengallery.database import Json, UtcDateTime, metadata, now
from opengallery.identity.directory import as_id, delete_principal, insert_principal, principals
from opengallery.identity.properties import Kind, Text
from opengallery.identity.users import NICKNAME

groups = Table(
    "groups",
    metadata,
    Column("object_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
    Column("details", Json, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", String(36), ForeignKey("groups.object_id", ondelete="CASCADE"), primary_key=True),
    Column(
        "member_id",
        String(36),
        ForeignKey("principals.object_id", ondelete="CASCADE"),
        primary_key=True,
        index=True,
    ),
)

owners = Table(
    "owners",
    metadata,
    Column("object_id", String(36), primary_key=True),
    Column("owner_id", String(36), ForeignKey("principals.object_id", ondelete="CASCADE"), primary_key=True),
)

DETAILS: Mapping[str, Kind] = {
    "classification": Text(64),
    "description": Text(1024),
    "mailNickname": NICKNAME,
    "visibility": Text(
        16, "Private|Public|HiddenMembership", "Give 'Private', 'Public' or 'HiddenMembership'."
    ),
}


@dataclass(frozen=True, slots=True)
class Group:
    """A group, without its members."""

    object_id: str
    tenant_id: str
    display_name: str
    details: Mapping[str, Any]
    created_at: datetime


def selected_groups(tenant_id: str) -> Select[Any]:
    """The groups of a tenant: rows for `group_of`, to be narrowed and ordered."""
    return (
        select(
            principals.c.object_id,
            principals.c.tenant_id,
            principals.c.display_name,
            groups.c.details,
            groups.c.created_at,
        )
        .join(groups, groups.c.object_id == principals.c.object_id)
        .where(principals.c.tenant_id == as_id(tenant_id))
    )


def group_of(row: Row[Any]) -> Group:
    """The group of a row of `selected_groups`."""
    return Group(row.object_id, row.tenant_id, row.display_name, row.details, row.created_at)


def find_group(connection: Connection, tenant_id: str, object_id: str) -> Group | None:
    """The group of a tenant with this object id, if there is one."""
    query = selected_groups(tenant_id).where(groups.c.object_id == as_id(object_id))
    row = connection.execute(query).one_or_none()
    return group_of(row) if row else None


def create_group(
    connection: Connection, tenant_id: str, display_name: str, details: Mapping[str, Any]
) -> str:
    """Add a group without members and return its object id. Raises `TooMany`."""
    object_id = str(uuid4())
    insert_principal(connection, object_id, tenant_id, "Group", display_name)
    row = {"object_id": object_id, "details": dict(details), "created_at": now()}
    connection.execute(insert(groups).values(row))
    return object_id


def update_group(connection: Connection, object_id: str, details: Mapping[str, Any]) -> None:
    """Put `details` in the place of those that the group has."""
    connection.execute(update(groups).where(groups.c.object_id == object_id).values(details=dict(details)))


def delete_group(connection: Connection, object_id: str) -> None:
    """Delete a group; its members are in it no more."""
    connection.execute(delete(owners).where(owners.c.object_id == object_id))
    delete_principal(connection, object_id)
