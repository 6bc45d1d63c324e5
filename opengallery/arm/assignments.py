"""Role assignments: who has which role at which scope. The root `/` is each tenant's own.

An assignment belongs to a tenant, and says nothing of another tenant's subscriptions. Those of a resource go
with it: one that is made anew under the same name is nobody's by an old assignment.
Source: Role Assignments REST API, api-version 2022-04-01.
"""

import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Index,
    Row,
    String,
    Table,
    UniqueConstraint,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
    update,
)

from opengallery.arm.roles import OWNER, ROOT, Role
from opengallery.database import UtcDateTime, metadata, now
from opengallery.identity.directory import find_principal, principals
from opengallery.identity.groups import group_members

# Compared byte by byte, so that a range of keys is what lies below a scope.
_SCOPE = String().with_variant(String(collation="C"), "postgresql")

role_assignments = Table(
    "role_assignments",
    metadata,
    Column("tenant_id", String(36), primary_key=True),
    Column("name", String(36), primary_key=True),
    Column("scope", _SCOPE, nullable=False),
    Column("scope_id", String, nullable=False),
    Column("principal_id", String(36), nullable=False),
    Column("principal_type", String(32), nullable=False),
    Column("role_definition_id", String(36), nullable=False),
    Column("description", String(2048), nullable=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(36), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("updated_by", String(36), nullable=False),
    UniqueConstraint(
        "tenant_id", "principal_id", "scope", "role_definition_id", name="uq_role_assignments_who_where_what"
    ),
    Index("ix_role_assignments_scope", "scope"),
    Index("ix_role_assignments_role_definition_id", "role_definition_id"),
)


@dataclass(frozen=True)
class Assignment:
    """One role assignment. `scope` is a key (lower case), `scope_id` the same as it was spelled."""

    tenant_id: str
    scope: str
    scope_id: str
    principal_id: str
    principal_type: str
    role_definition_id: str
    created_by: str
    updated_by: str
    description: str | None = None
    name: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)


def at_or_below(column: ColumnElement[str], scope: str) -> ColumnElement[bool]:
    """Whether a column of scopes is `scope` (a key) or lies below it."""
    return column >= ROOT if scope == ROOT else (column == scope) | below(column, scope)


def below(column: ColumnElement[str], scope: str) -> ColumnElement[bool]:
    """Whether a column of scopes lies below `scope`: a range, for the index ("0" comes after "/")."""
    start = scope.rstrip("/")
    return and_(column > f"{start}/", column < f"{start}0")


def assign(connection: Connection, principal_id: str, role: Role, scope: str) -> None:
    """Give `role` at `scope` (an id's key, or `/`) to a principal of its tenant; nothing changes if it has it."""
    principal = find_principal(connection, principal_id)
    if principal is None:
        raise ValueError(f"There is no principal {principal_id}.")
    if find_same(connection, principal.tenant_id, principal_id, scope, role.id) is None:
        made = Assignment(
            principal.tenant_id,
            scope,
            scope,
            principal_id,
            principal.kind,
            role.id,
            created_by=principal_id,
            updated_by=principal_id,
        )
        add(connection, made)


def add(connection: Connection, assignment: Assignment) -> None:
    """Insert an assignment that isn't there."""
    connection.execute(insert(role_assignments).values(asdict(assignment)))


def describe(
    connection: Connection, assignment: Assignment, description: str | None, updated_by: str
) -> None:
    """Change the description, which is all that may change."""
    connection.execute(
        update(role_assignments)
        .where(_is(assignment.tenant_id, assignment.name))
        .values(description=description, updated_by=updated_by, updated_at=now())
    )


def remove(connection: Connection, assignment: Assignment) -> None:
    """Delete an assignment."""
    connection.execute(delete(role_assignments).where(_is(assignment.tenant_id, assignment.name)))


def forget_scope(connection: Connection, scope: str) -> None:
    """Delete what is assigned at a resource (by its key) that is gone, and at what was below it."""
    connection.execute(delete(role_assignments).where(role_assignments.c.scope == scope))
    connection.execute(delete(role_assignments).where(below(role_assignments.c.scope, scope)))


def find(connection: Connection, tenant_id: str, name: str) -> Assignment | None:
    """The assignment of this name in a tenant."""
    return _first(connection, _is(tenant_id, name.lower()))


def find_same(
    connection: Connection, tenant_id: str, principal_id: str, scope: str, role_id: str
) -> Assignment | None:
    """The assignment of a role to a principal at a scope."""
    columns = role_assignments.c
    return _first(
        connection,
        and_(
            columns.tenant_id == tenant_id,
            columns.principal_id == principal_id,
            columns.scope == scope,
            columns.role_definition_id == role_id,
        ),
    )


def of_role(connection: Connection, tenant_id: str, role_id: str) -> list[str]:
    """The scopes at which a role is assigned."""
    query = select(role_assignments.c.scope).where(
        role_assignments.c.role_definition_id == role_id, role_assignments.c.tenant_id == tenant_id
    )
    return list(connection.scalars(query))


def page(
    connection: Connection, tenant_id: str, conditions: list[ColumnElement[bool]], after: str, size: int
) -> list[Assignment]:
    """Up to `size` assignments of a tenant, by scope and name, after the one with the place `after`."""
    columns = role_assignments.c
    query = select(role_assignments).where(columns.tenant_id == tenant_id, *conditions)
    if after:
        scope, _, name = after.rpartition(" ")
        query = query.where(tuple_(columns.scope, columns.name) > tuple_(scope, name))
    rows = connection.execute(query.order_by(columns.scope, columns.name).limit(size))
    return [_assignment(row) for row in rows]


def place(assignment: Assignment) -> str:
    """Where an assignment stands in a list, for `page`."""
    return f"{assignment.scope} {assignment.name}"


def lock(connection: Connection, tenant_id: str) -> None:
    """Let no other transaction change the assignments of a tenant until this one ends.

    SQLite has one writer anyway.
    """
    if connection.dialect.name == "postgresql":
        name = f"role assignments of {tenant_id}"
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def has_owner(connection: Connection, tenant_id: str) -> bool:
    """Whether somebody who can sign in is Owner of a tenant's root, directly or by a group."""
    columns = role_assignments.c
    holders = (
        select(columns.principal_id.label("id"))
        .where(columns.tenant_id == tenant_id, columns.scope == ROOT, columns.role_definition_id == OWNER.id)
        .cte("holders", recursive=True)
    )
    holders = holders.union(
        select(group_members.c.member_id).join(holders, group_members.c.group_id == holders.c.id)
    )
    query = (
        select(principals.c.object_id)
        .join(holders, holders.c.id == principals.c.object_id)
        .where(principals.c.tenant_id == tenant_id, principals.c.kind != "Group", principals.c.enabled)
    )
    return connection.execute(query.limit(1)).first() is not None


def ensure_owner(connection: Connection, tenant_id: str, administrator_id: str) -> None:
    """Make the first administrator Owner of a tenant's root, if nobody is."""
    if not has_owner(connection, tenant_id):
        assign(connection, administrator_id, OWNER, ROOT)


def _is(tenant_id: str, name: str) -> ColumnElement[bool]:
    return and_(role_assignments.c.tenant_id == tenant_id, role_assignments.c.name == name)


def _first(connection: Connection, condition: ColumnElement[bool]) -> Assignment | None:
    row = connection.execute(select(role_assignments).where(condition)).first()
    return _assignment(row) if row else None


def _assignment(row: Row[Any]) -> Assignment:
    return Assignment(**row._asdict())
