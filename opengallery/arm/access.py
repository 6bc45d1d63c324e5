"""Access: may a principal take an action at a scope? Role assignments decide, deny is the default.

A role assignment gives a principal a role at a scope and everything below it. A role allows the
actions that match one of its `actions` and none of its `notActions`; `*` matches anything.
Source: Azure role-based access control, built-in roles.
"""

import re
import uuid
from functools import lru_cache

import msgspec
from sqlalchemy import Column, Connection, Index, String, Table, insert, select

from opengallery.arm.resource_id import ResourceId
from opengallery.database import UtcDateTime, metadata, now
from opengallery.identity.principal import Principal

role_assignments = Table(
    "role_assignments",
    metadata,
    Column("name", String(36), primary_key=True),
    Column("scope", String, nullable=False),
    Column("principal_id", String(36), nullable=False),
    Column("role_definition_id", String(36), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("ix_role_assignments_principal_scope", "principal_id", "scope"),
)


class Role(msgspec.Struct, frozen=True):
    """A role definition: its id, its name, the actions it allows and those it takes out."""

    id: str
    name: str
    actions: tuple[str, ...]
    not_actions: tuple[str, ...] = ()

    def allows(self, action: str) -> bool:
        """Whether the role allows `action` (`Microsoft.Compute/galleries/read`)."""
        return any(_matches(pattern, action) for pattern in self.actions) and not any(
            _matches(pattern, action) for pattern in self.not_actions
        )


OWNER = Role("8e3af657-a8ff-443c-a75c-2fe8c4bcb635", "Owner", ("*",))
CONTRIBUTOR = Role(
    "b24988ac-6180-42a0-ab88-20f7382dd24c",
    "Contributor",
    ("*",),
    (
        "Microsoft.Authorization/*/Delete",
        "Microsoft.Authorization/*/Write",
        "Microsoft.Authorization/elevateAccess/Action",
        "Microsoft.Compute/galleries/share/action",
    ),
)
READER = Role("acdd72a7-3385-48ef-bd42-f606fba81ae7", "Reader", ("*/read",))
ROLES = {role.id: role for role in (OWNER, CONTRIBUTOR, READER)}


class Assigned:
    """What a principal's assignments, there or above, allow; read at once, since one request asks often."""

    def __init__(self, connection: Connection, principal: Principal) -> None:
        """Read the assignments."""
        self._roles: dict[str, list[Role]] = {}
        rows = connection.execute(
            select(role_assignments.c.scope, role_assignments.c.role_definition_id).where(
                role_assignments.c.principal_id.in_((principal.object_id, *principal.groups))
            )
        )
        for scope, role_id in rows:
            if role_id in ROLES:
                self._roles.setdefault(scope, []).append(ROLES[role_id])

    def may(self, action: str, scope: ResourceId) -> bool:
        """Whether `action` is allowed at `scope`, by the assignments there or above."""
        return any(role.allows(action) for key in scope.scopes() for role in self._roles.get(key, ()))

    def below(self, scope: ResourceId) -> list[str]:
        """Keys of the scopes below `scope` with an assignment of their own."""
        start = scope.key.rstrip("/") + "/"
        return sorted(key for key in self._roles if key.startswith(start) and key != start)


def assign(connection: Connection, principal_id: str, role: Role, scope: str) -> None:
    """Give `role` at `scope` (an id's key, or `/`) to a principal; nothing changes if it has it."""
    found = connection.execute(
        select(role_assignments.c.name).where(
            role_assignments.c.principal_id == principal_id,
            role_assignments.c.scope == scope,
            role_assignments.c.role_definition_id == role.id,
        )
    ).first()
    if found is None:
        connection.execute(
            insert(role_assignments).values(
                name=str(uuid.uuid4()),
                scope=scope,
                principal_id=principal_id,
                role_definition_id=role.id,
                created_at=now(),
            )
        )


@lru_cache(maxsize=4096)
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\*", ".*"), re.IGNORECASE)


def _matches(pattern: str, action: str) -> bool:
    return _pattern(pattern).fullmatch(action) is not None
