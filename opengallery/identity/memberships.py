"""Memberships: who is in which group, directly or through groups in groups; and who owns what.

A group can't come to contain itself. The walks below would end all the same, as each takes a group once.
"""

from typing import Any

from sqlalchemy import Connection, Select, Table, delete, exists, func, insert, select

from opengallery.identity.directory import as_id
from opengallery.identity.directory_errors import NotAllowed, TooMany
from opengallery.identity.groups import group_members, owners

MEMBERS_MAX = 10_000
MEMBERSHIPS_MAX = 1_000
OWNERS_MAX = 100


class AlreadyThere(Exception):
    """The group has this member already, or the object this owner."""


def add_member(connection: Connection, group_id: str, member_id: str) -> None:
    """Put a principal into a group of its tenant.

    Raises `AlreadyThere`, `TooMany`, and `NotAllowed` when the group would come to contain itself.
    """
    if group_id == member_id or connection.scalar(select(_is_above(member_id, group_id))):
        raise NotAllowed("A group can't be a member of itself, neither directly nor through other groups.")
    held = group_members.c.group_id == group_id
    if connection.scalar(select(exists().where(held, group_members.c.member_id == member_id))):
        raise AlreadyThere
    _require_room(connection, group_members, held, MEMBERS_MAX, f"A group has at most {MEMBERS_MAX} members.")
    _require_room(
        connection,
        group_members,
        group_members.c.member_id == member_id,
        MEMBERSHIPS_MAX,
        f"A principal is in at most {MEMBERSHIPS_MAX} groups directly.",
    )
    connection.execute(insert(group_members).values(group_id=group_id, member_id=member_id))


def remove_member(connection: Connection, group_id: str, member_id: str) -> bool:
    """Take a principal out of a group. Returns whether it was in it."""
    done = connection.execute(
        delete(group_members).where(
            group_members.c.group_id == group_id, group_members.c.member_id == as_id(member_id)
        )
    )
    return done.rowcount > 0


def members_of(group_id: str) -> Select[Any]:
    """Ids of the direct members of a group."""
    return select(group_members.c.member_id).where(group_members.c.group_id == group_id)


def groups_of(principal_id: str) -> Select[Any]:
    """Ids of the groups that a principal is in directly."""
    return select(group_members.c.group_id).where(group_members.c.member_id == principal_id)


def all_members_of(group_id: str) -> Select[Any]:
    """Ids of the members of a group and of all groups in it."""
    below = members_of(group_id).cte("below", recursive=True)
    below = below.union(
        select(group_members.c.member_id).join(below, group_members.c.group_id == below.c.member_id)
    )
    return select(below.c.member_id)


def all_groups_of(principal_id: str) -> Select[Any]:
    """Ids of the groups that a principal is in, directly or through other groups."""
    above = groups_of(principal_id).cte("above", recursive=True)
    above = above.union(
        select(group_members.c.group_id).join(above, group_members.c.member_id == above.c.group_id)
    )
    return select(above.c.group_id)


def add_owner(connection: Connection, object_id: str, owner_id: str) -> None:
    """Make a principal an owner of a group or application. Raises `AlreadyThere`, `TooMany`."""
    if is_owner(connection, object_id, owner_id):
        raise AlreadyThere
    _require_room(
        connection, owners, owners.c.object_id == object_id, OWNERS_MAX, f"At most {OWNERS_MAX} owners."
    )
    connection.execute(insert(owners).values(object_id=object_id, owner_id=owner_id))


def remove_owner(connection: Connection, object_id: str, owner_id: str) -> bool:
    """Take an owner from a group or application. Returns whether it was one."""
    done = connection.execute(
        delete(owners).where(owners.c.object_id == object_id, owners.c.owner_id == as_id(owner_id))
    )
    return done.rowcount > 0


def is_owner(connection: Connection, object_id: str, owner_id: str) -> bool:
    """Whether a principal owns a group or application."""
    owned = exists().where(owners.c.object_id == object_id, owners.c.owner_id == owner_id)
    return bool(connection.scalar(select(owned)))


def owners_of(object_id: str) -> Select[Any]:
    """Ids of the owners of a group or application."""
    return select(owners.c.owner_id).where(owners.c.object_id == object_id)


def owned_by(principal_id: str) -> Select[Any]:
    """Ids of what a principal owns."""
    return select(owners.c.object_id).where(owners.c.owner_id == principal_id)


def _is_above(upper_id: str, lower_id: str) -> Any:
    above = all_groups_of(lower_id).subquery()
    return exists().where(above.c.group_id == upper_id)


def _require_room(connection: Connection, table: Table, where: Any, limit: int, message: str) -> None:
    count = connection.scalar(select(func.count()).select_from(table).where(where)) or 0
    if count >= limit:
        raise TooMany(f"{message} Remove some first.")
