"""Access: may a principal take an action at a scope? Role assignments decide, deny is the default.

A role assignment holds at its scope and everything below it, for a principal and, when that is a group, for who
is in it or in a group in it. In another tenant's subscription nobody has a right. Nothing is kept from one
request to the next, so that what is taken away is gone at once; what is asked for is read by index, and what
others have costs nothing.
Source: Azure role-based access control.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import CTE, Connection, Row, and_, bindparam, select

from opengallery.arm.assignments import assign, below, role_assignments
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.roles import BUILT_IN, CONTRIBUTOR, OWNER, READER, Permissions, Role, role_definitions
from opengallery.identity.directory import find_subscription, principals
from opengallery.identity.groups import group_members
from opengallery.identity.principal import Principal

__all__ = ["CONTRIBUTOR", "OWNER", "READER", "Assigned", "Role", "assign", "identities", "role_assignments"]

GROUPS_MAX = 2048
"""Of so many groups that somebody is in, nearest first, the assignments count."""


def _identities() -> CTE:
    """A principal, the groups that its token names, and all groups that these are in.

    Each comes once: a circle of groups ends by itself. What is of another tenant begins nothing.
    """
    first = select(principals.c.object_id.label("id")).where(
        principals.c.object_id.in_(bindparam("ids", expanding=True)),
        principals.c.tenant_id == bindparam("tenant_id"),
    )
    mine = first.cte("mine", recursive=True)
    return mine.union(select(group_members.c.group_id).join(mine, group_members.c.member_id == mine.c.id))


_IDENTITIES = select(_identities().c.id).limit(GROUPS_MAX + 1)
_MINE = _IDENTITIES.subquery("identities")
_ASSIGNED = and_(
    role_assignments.c.principal_id == _MINE.c.id, role_assignments.c.tenant_id == bindparam("tenant_id")
)
_DEFINED = and_(
    role_definitions.c.id == role_assignments.c.role_definition_id,
    role_definitions.c.tenant_id == role_assignments.c.tenant_id,
)
_COLUMNS = (
    role_assignments.c.scope,
    role_assignments.c.role_definition_id,
    role_definitions.c.permissions,
)
# Outer joins: SQLite takes their tables in the order given, groups first, and never all assignments of a scope.
# Made once: SQLAlchemy takes longer to make a statement than SQLite to run it.
_AT = select(*_COLUMNS).select_from(
    _MINE.outerjoin(
        role_assignments, _ASSIGNED & role_assignments.c.scope.in_(bindparam("scopes", expanding=True))
    ).outerjoin(role_definitions, _DEFINED)
)


class Assigned:
    """What a principal's assignments allow; read once for each scope, since one request asks often."""

    def __init__(self, connection: Connection, principal: Principal) -> None:
        """Nothing is read yet."""
        self._connection = connection
        self._principal = principal
        self._allowed: dict[str, list[Permissions]] = {}
        self._wholes: list[str] = []
        self._subscriptions: dict[str, bool] = {}

    def may(self, action: str, scope: ResourceId) -> bool:
        """Whether `action` is allowed at `scope`, by the assignments there or above."""
        return any(permissions.allows(action) for permissions in self.permissions(scope))

    def permissions(self, scope: ResourceId) -> list[Permissions]:
        """What the assignments at `scope` or above allow, one entry for each."""
        if not self._is_of_tenant(scope):
            return []
        keys = scope.scopes()
        self._read_at(keys)
        return [permissions for key in keys for permissions in self._allowed.get(key, ())]

    def below(self, scope: ResourceId) -> list[str]:
        """Keys of the scopes below `scope` with an assignment of their own. Afterwards, all there is known."""
        if not self._is_of_tenant(scope):
            return []
        self._read_below(scope.key)
        start = scope.key.rstrip("/") + "/"
        return sorted(
            key for key, found in self._allowed.items() if found and key.startswith(start) and key != start
        )

    def _is_of_tenant(self, scope: ResourceId) -> bool:
        """Whether the scope is the principal's tenant itself, or lies in a subscription of it."""
        if scope.subscription is None:
            return True
        name = scope.subscription.lower()
        if name not in self._subscriptions:
            found = find_subscription(self._connection, name)
            self._subscriptions[name] = found is not None and found.tenant_id == self._principal.tenant_id
        return self._subscriptions[name]

    def _read_at(self, keys: list[str]) -> None:
        unread = [key for key in keys if key not in self._allowed and not self._is_known(key)]
        if unread:
            self._allowed |= {key: [] for key in unread}
            self._keep(self._connection.execute(_AT, self._parameters() | {"scopes": unread}))

    def _read_below(self, key: str) -> None:
        if self._is_known(key):
            return
        query = select(*_COLUMNS).select_from(
            _MINE.outerjoin(role_assignments, _ASSIGNED & below(role_assignments.c.scope, key)).outerjoin(
                role_definitions, _DEFINED
            )
        )
        start = key.rstrip("/") + "/"
        for known in [known for known in self._allowed if known.startswith(start) and known != start]:
            del self._allowed[known]
        self._keep(self._connection.execute(query, self._parameters()))
        self._wholes.append(start)

    def _is_known(self, key: str) -> bool:
        """Whether all below a scope was read that holds this one."""
        return any(key.startswith(start) and key != start for start in self._wholes)

    def _keep(self, rows: Iterable[Row[Any]]) -> None:
        """Take over what was read; an assignment of a role that is gone allows nothing."""
        for row in rows:
            if row.role_definition_id in BUILT_IN:
                permissions = BUILT_IN[row.role_definition_id].permissions
            elif row.permissions is not None:
                permissions = msgspec.convert(row.permissions, Permissions)
            else:
                continue
            self._allowed.setdefault(row.scope, []).append(permissions)

    def _parameters(self) -> dict[str, object]:
        ids = [self._principal.object_id, *self._principal.groups]
        return {"ids": ids, "tenant_id": self._principal.tenant_id}


def identities(connection: Connection, tenant_id: str, principal_id: str) -> list[str]:
    """The ids whose assignments hold for a tenant's principal: its own, and those of all groups that it is in."""
    return list(connection.scalars(_IDENTITIES, {"ids": [principal_id], "tenant_id": tenant_id}))
