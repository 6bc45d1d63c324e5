"""Principals of an external issuer: object ids made from claims, and the rows that remember them.

An id that is a UUID stays what it is; another is digested with the issuer and the kind, so that the same
claim always means the same principal and a user can't be taken for an application or a group. Who was
seen once has a row in `principals`, as roles are given to rows; there an administrator disables him.
"""

from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from opengallery.database import Database
from opengallery.identity.directory import UUID_FORM, principals
from opengallery.identity.principal import Principal, PrincipalKind
from opengallery.settings import IdentitySettings

NAME_LENGTH_MAX = 256
PREFIXES: dict[str, PrincipalKind] = {"user": "User", "app": "ServicePrincipal", "group": "Group"}

# Whom the settings name as administrators belong to this group for as long as they stand there.
ADMINISTRATORS = "Administrators of the settings"


class OtherKind(Exception):
    """An id in a token belongs to a principal of another kind: a group's id to a user, say."""


@dataclass(frozen=True, slots=True)
class Group:
    """A group that a token names."""

    object_id: str
    name: str


def object_id(settings: IdentitySettings, kind: PrincipalKind, value: str) -> str:
    """The object id of who or what the issuer calls `value`."""
    is_id = kind != "Group" or settings.groups_are_ids
    if is_id and UUID_FORM.fullmatch(value):
        return value.lower()
    return str(uuid5(uuid5(NAMESPACE_URL, settings.issuer or ""), f"{kind}:{value}"))


def administrators_group(settings: IdentitySettings) -> Group:
    """The group of all whom the settings name as administrators; the issuer can't name it."""
    namespace = uuid5(NAMESPACE_URL, settings.issuer or "")
    return Group(str(uuid5(namespace, "administrators")), ADMINISTRATORS)


def administrator_ids(settings: IdentitySettings) -> frozenset[str]:
    """Object ids of the users, applications and groups that the settings name as administrators."""
    found = set()
    for entry in settings.administrators:
        prefix, colon, value = entry.partition(":")
        kind, value = (PREFIXES[prefix], value) if colon else ("User", entry)
        found.add(object_id(settings, kind, value))
    return frozenset(found)


def register_administrators(connection: Connection, settings: IdentitySettings, tenant_id: str) -> None:
    """Keep a row of the administrators' group, for a role to be given to."""
    group = administrators_group(settings)
    _insert_missing(connection, group.object_id, tenant_id, "Group", group.name)


def add(database: Database, settings: IdentitySettings, tenant_id: str, prefix: str, value: str) -> str:
    """Keep a row of a `user`, `app` or `group` that no token named yet; its object id."""
    kind = PREFIXES[prefix]
    row_id = object_id(settings, kind, value)
    with database.write() as connection:
        _insert_missing(connection, row_id, tenant_id, kind, value[:NAME_LENGTH_MAX])
    return row_id


def register(database: Database, principal: Principal, groups: list[Group]) -> bool:
    """Keep rows of the principal and of its groups. Returns whether the principal is enabled.

    Raises `OtherKind`: who may choose the names of groups must not take a user's roles by them.
    """
    with database.read() as connection:
        is_enabled, is_known = _look_up(connection, principal, groups)
    if not is_known:
        with database.write() as connection:
            _insert(connection, principal, groups)
    return is_enabled


def _look_up(connection: Connection, principal: Principal, groups: list[Group]) -> tuple[bool, bool]:
    """Whether the principal is enabled, and whether all rows are as they should be."""
    kinds: dict[str, str] = {group.object_id: "Group" for group in groups}
    if kinds.setdefault(principal.object_id, principal.kind) != principal.kind:
        raise OtherKind
    wanted = kinds.keys()
    rows = {
        row.object_id: row
        for row in connection.execute(select(principals).where(principals.c.object_id.in_(wanted)))
    }
    if any(row.kind != kinds[row_id] for row_id, row in rows.items()):
        raise OtherKind
    own = rows.get(principal.object_id)
    is_known = wanted == rows.keys() and own is not None and own.display_name == principal.display_name
    return own is None or (own.enabled and own.tenant_id == principal.tenant_id), is_known


def _insert(connection: Connection, principal: Principal, groups: list[Group]) -> None:
    rows = {group.object_id: (group.name, "Group") for group in groups}
    rows[principal.object_id] = (principal.display_name, principal.kind)
    for row_id, (name, kind) in rows.items():
        _insert_missing(connection, row_id, principal.tenant_id, kind, name)
    connection.execute(
        update(principals)
        .where(principals.c.object_id == principal.object_id)
        .values(display_name=principal.display_name)
    )


def _insert_missing(connection: Connection, row_id: str, tenant_id: str, kind: str, name: str) -> None:
    row = {"object_id": row_id, "tenant_id": tenant_id, "kind": kind, "display_name": name, "enabled": True}
    # Another server may see the same principal for the first time in this moment.
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(principals).values(row).on_conflict_do_nothing())
