"""The resources table: one row a resource, whatever its type.

`properties` holds what the type's model validated; what a server computes (instance views,
replication status) is never stored here. `extra` holds other top-level members, such as `sku`.
`private` holds what no answer shows: password hashes, upload keys, templates; as `heldBy` the operation of
another resource that works on this one (a scale set's, on an instance).
"""

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
    bindparam,
    delete,
    false,
    insert,
    or_,
    select,
    update,
)

from opengallery.arm import assignments
from opengallery.arm.resource_id import ResourceId
from opengallery.database import Json, UtcDateTime, metadata, now

CREATING, UPDATING, DELETING = "Creating", "Updating", "Deleting"
SUCCEEDED, FAILED = "Succeeded", "Failed"

resources = Table(
    "resources",
    metadata,
    Column("key", String, primary_key=True),
    Column("id", String, nullable=False),
    Column("type", String, nullable=False),
    Column("parent", String, nullable=True),
    Column("subscription", String(36), nullable=True),
    Column("location", String, nullable=True),
    Column("tags", Json, nullable=False),
    Column("properties", Json, nullable=False),
    Column("extra", Json, nullable=False),
    Column("private", Json, nullable=False),
    Column("state", String, nullable=False),
    Column("etag", String(36), nullable=False),
    Column("created_by", String, nullable=False),
    Column("created_by_type", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("modified_by", String, nullable=False),
    Column("modified_by_type", String, nullable=False),
    Column("modified_at", UtcDateTime, nullable=False),
    Index("ix_resources_type_parent", "type", "parent"),
    Index("ix_resources_subscription_type", "subscription", "type"),
    Index("ix_resources_parent", "parent"),
)


# Made once: SQLAlchemy takes longer to make a statement than SQLite to run it.
_BY_KEY = select(resources).where(resources.c.key == bindparam("key"))
_BY_KEY_LOCKED = _BY_KEY.with_for_update()
_INSERT = insert(resources)
_UPDATE = update(resources).where(resources.c.key == bindparam("of_key"))


@dataclass
class Resource:
    """One resource as stored. `state` is its `provisioningState`."""

    id: ResourceId
    location: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    properties: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    private: dict[str, Any] = field(default_factory=dict)
    state: str = SUCCEEDED
    etag: str = field(default_factory=lambda: str(uuid.uuid4()))
    created_by: str = ""
    created_by_type: str = "Application"
    created_at: datetime = field(default_factory=now)
    modified_by: str = ""
    modified_by_type: str = "Application"
    modified_at: datetime = field(default_factory=now)

    @property
    def key(self) -> str:
        """The id in lower case."""
        return self.id.key

    def view(self) -> dict[str, Any]:
        """The resource as ARM answers it, without what its type computes."""
        body: dict[str, Any] = {"id": str(self.id), "name": self.id.name, "type": self.id.type}
        if self.location is not None:
            body["location"] = self.location
        body["tags"] = self.tags
        body.update(self.extra)
        body["properties"] = {**self.properties, "provisioningState": self.state}
        body["etag"] = f'"{self.etag}"'
        body["systemData"] = {
            "createdBy": self.created_by,
            "createdByType": self.created_by_type,
            "createdAt": self.created_at.isoformat(),
            "lastModifiedBy": self.modified_by,
            "lastModifiedByType": self.modified_by_type,
            "lastModifiedAt": self.modified_at.isoformat(),
        }
        return body


def get(connection: Connection, resource_id: ResourceId | str, *, lock: bool = False) -> Resource | None:
    """The resource with this id (or key), or None.

    With `lock`, nobody else changes it until the transaction ends: for who writes what follows from it.
    (A writing transaction on SQLite keeps all others out anyway.)
    """
    key = resource_id.key if isinstance(resource_id, ResourceId) else resource_id.lower()
    row = connection.execute(_BY_KEY_LOCKED if lock else _BY_KEY, {"key": key}).first()
    return _resource(row) if row else None


def save(connection: Connection, resource: Resource) -> None:
    """Insert the resource, or replace it as a whole; a new etag marks the change."""
    resource.etag = str(uuid.uuid4())
    changed = connection.execute(_UPDATE, {"of_key": resource.key, **_values(resource)})
    if changed.rowcount == 0:
        add(connection, resource)


def add(connection: Connection, resource: Resource) -> None:
    """Insert a resource that isn't there."""
    connection.execute(_INSERT, {"key": resource.key, **_values(resource)})


def set_state(connection: Connection, key: str, state: str) -> None:
    """Change only the provisioning state."""
    connection.execute(_UPDATE, {"of_key": key, "state": state, "etag": str(uuid.uuid4())})


def change_properties(connection: Connection, key: str, **properties: Any) -> None:
    """Set some members of `properties`; None takes one out. Does nothing if the resource is gone."""
    resource = get(connection, key, lock=True)
    if resource is None:
        return
    changed = {**resource.properties, **properties}
    save(
        connection,
        replace(resource, properties={name: value for name, value in changed.items() if value is not None}),
    )


def change_private(connection: Connection, key: str, **members: Any) -> None:
    """Set some members of `private`; None takes one out. Does nothing if the resource is gone."""
    resource = get(connection, key, lock=True)
    if resource is None:
        return
    changed = {**resource.private, **members}
    save(
        connection,
        replace(resource, private={name: value for name, value in changed.items() if value is not None}),
    )


def forget(connection: Connection, key: str) -> None:
    """Delete the row and the rows of everything below it, with the roles that are assigned there."""
    assignments.forget_scope(connection, key)
    connection.execute(
        delete(resources).where(
            (resources.c.key == key) | resources.c.key.startswith(key + "/", autoescape=True)
        )
    )


def children(
    connection: Connection, parent: ResourceId, resource_type: str | None = None
) -> Iterator[Resource]:
    """Direct children of a resource (or the contents of a resource group), in the order of their keys."""
    query = select(resources).where(resources.c.parent == parent.key).order_by(resources.c.key)
    if resource_type is not None:
        query = query.where(resources.c.type == resource_type.lower())
    for row in connection.execute(query).all():
        yield _resource(row)


def page(
    connection: Connection,
    resource_types: Collection[str] | None,
    scope: ResourceId,
    after: str,
    size: int,
    below: Collection[str] | None = None,
) -> list[Resource]:
    """Up to `size` resources of some types (None: any) below `scope`, whose keys come after `after`.

    With `below`, only those that lie at or below one of these keys.
    """
    query = select(resources).where(resources.c.key > after).order_by(resources.c.key).limit(size)
    if scope.key != "/":
        query = query.where(resources.c.key.startswith(scope.key + "/", autoescape=True))
    if below is not None:
        query = query.where(
            or_(
                false(),
                *(
                    (resources.c.key == key) | resources.c.key.startswith(key + "/", autoescape=True)
                    for key in below
                ),
            )
        )
    if resource_types is not None:
        query = query.where(resources.c.type.in_([kind.lower() for kind in resource_types]))
    return [_resource(row) for row in connection.execute(query).all()]


def etags(connection: Connection, resource_types: Collection[str]) -> dict[str, str]:
    """The etag of each resource of some types, by key, in the order of the keys. Every change renews it."""
    query = select(resources.c.key, resources.c.etag).order_by(resources.c.key)
    rows = connection.execute(query.where(resources.c.type.in_([kind.lower() for kind in resource_types])))
    return {row.key: row.etag for row in rows}


def find(
    connection: Connection,
    *conditions: ColumnElement[bool],
    order_by: Sequence[ColumnElement[Any]] = (),
    limit: int | None = None,
) -> list[Resource]:
    """The resources that fulfil all conditions on the table's columns."""
    query = select(resources).where(*conditions).order_by(*order_by).limit(limit)
    return [_resource(row) for row in connection.execute(query).all()]


def _values(resource: Resource) -> dict[str, Any]:
    parent = resource.id.parent
    return {
        "id": str(resource.id),
        "type": resource.id.type.lower(),
        "parent": parent.key if parent else None,
        "subscription": (resource.id.subscription or "").lower() or None,
        "location": resource.location,
        "tags": resource.tags,
        "properties": resource.properties,
        "extra": resource.extra,
        "private": resource.private,
        "state": resource.state,
        "etag": resource.etag,
        "created_by": resource.created_by,
        "created_by_type": resource.created_by_type,
        "created_at": resource.created_at,
        "modified_by": resource.modified_by,
        "modified_by_type": resource.modified_by_type,
        "modified_at": resource.modified_at,
    }


def _resource(row: Row[Any]) -> Resource:
    columns = row._asdict()
    resource_id = ResourceId.parse(columns["id"])
    for derived in ("key", "id", "type", "parent", "subscription"):
        del columns[derived]
    return Resource(id=resource_id, **columns)
