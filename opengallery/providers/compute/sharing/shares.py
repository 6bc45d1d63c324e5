"""Shares: the galleries that others may use without a role, under which name, and who they are.

A gallery is published under one name while it is shared: with subscriptions and tenants (`SharedGalleries`), or
with everyone (`CommunityGalleries`). Names, and who they are shared with, are found by an index.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    String,
    Table,
    and_,
    delete,
    insert,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from opengallery.arm import resources
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resources import Resource
from opengallery.database import metadata

SHARED, COMMUNITY = "SharedGalleries", "CommunityGalleries"
SUBSCRIPTIONS, TENANTS = "Subscriptions", "AADTenants"
LIMITS = {SUBSCRIPTIONS: 30, TENANTS: 5}
_BATCH = 100

published_galleries = Table(
    "published_galleries",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("gallery", String, nullable=False, unique=True),
    Column("kind", String(32), nullable=False),
    Index("ix_published_galleries_kind_name", "kind", "name"),
)

gallery_shares = Table(
    "gallery_shares",
    metadata,
    Column("name", String(128), ForeignKey("published_galleries.name", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("target_id", String(36), primary_key=True),
    Index("ix_gallery_shares_target", "kind", "target_id", "name"),
)
_NAMES, _SHARES = published_galleries.c, gallery_shares.c


@dataclass(frozen=True)
class Consumer:
    """Who wants to use a gallery: a subscription, and the tenant that it is of."""

    subscription: str
    tenant_id: str

    def is_named(self, kinds: Collection[str]) -> ColumnElement[bool]:
        """The condition on a share that it is with the subscription, or the tenant, by `kinds`."""
        ids = {SUBSCRIPTIONS: self.subscription.lower(), TENANTS: self.tenant_id.lower()}
        return or_(*(and_(_SHARES.kind == kind, _SHARES.target_id == ids[kind]) for kind in kinds))


@dataclass(frozen=True)
class PublishedGallery:
    """A gallery as those see it that it is shared with: by a name that isn't its id."""

    kind: str
    gallery: Resource

    @property
    def name(self) -> str:
        """The name in `/SharedGalleries/{name}` or `/CommunityGalleries/{name}`."""
        return unique_name(self.gallery.id) if self.kind == SHARED else public_name(self.gallery)

    @property
    def unique_id(self) -> str:
        """What an image reference begins with."""
        return f"/{self.kind}/{self.name}"


def unique_name(gallery: ResourceId) -> str:
    """The name under which a gallery is shared with subscriptions and tenants."""
    return f"{gallery.subscription}-{gallery.name.upper()}"


def public_name(gallery: Resource) -> str:
    """The name under which a community gallery is shared with everyone."""
    return str(gallery.private["publicName"])


def is_published(connection: Connection, gallery: str) -> bool:
    """Whether the gallery with this key is shared with anyone in these ways."""
    query = select(_NAMES.name).where(_NAMES.gallery == gallery)
    return connection.execute(query).first() is not None


def groups(connection: Connection, gallery: str) -> dict[str, list[str]]:
    """The subscriptions and tenants that a gallery is shared with, those of each kind in order."""
    query = select(_SHARES.kind, _SHARES.target_id).join(published_galleries, _NAMES.name == _SHARES.name)
    found: dict[str, list[str]] = {SUBSCRIPTIONS: [], TENANTS: []}
    for kind, target_id in connection.execute(
        query.where(_NAMES.gallery == gallery).order_by(_SHARES.target_id)
    ):
        found[kind].append(target_id)
    return found


def check_free(connection: Connection, gallery: Resource, kind: str) -> None:
    """Raise 409 when another gallery is shared under the name that this one would have."""
    name = PublishedGallery(kind, gallery).name
    holder = connection.scalar(select(_NAMES.gallery).where(_NAMES.name == name.lower()))
    if holder not in (None, gallery.key):
        raise _name_taken(name)


def publish(connection: Connection, gallery: Resource, kind: str) -> None:
    """Let others find the gallery under its name. Raises 409 when another gallery has that."""
    check_free(connection, gallery, kind)
    if is_published(connection, gallery.key):
        return
    name = PublishedGallery(kind, gallery).name
    try:
        with connection.begin_nested():
            row = {"name": name.lower(), "gallery": gallery.key, "kind": kind}
            connection.execute(insert(published_galleries).values(row))
    except IntegrityError as error:
        raise _name_taken(name) from error


def _name_taken(name: str) -> ArmError:
    return ArmError(
        "Conflict",
        f"Another gallery of the subscription is shared as '{name}'. Stop sharing that one (az sig share reset), "
        "or share a gallery of another name.",
        status=409,
    )


def share(connection: Connection, gallery: Resource, wanted: dict[str, list[str]]) -> None:
    """Share the gallery with just these subscriptions and tenants; with none, it is not published any more."""
    withdraw(connection, gallery.key)
    rows = [
        {"name": unique_name(gallery.id).lower(), "kind": kind, "target_id": target_id}
        for kind, target_ids in wanted.items()
        for target_id in target_ids
    ]
    if rows:
        publish(connection, gallery, SHARED)
        connection.execute(insert(gallery_shares), rows)


def withdraw(connection: Connection, gallery: str) -> None:
    """Share the gallery with nobody."""
    names = select(_NAMES.name).where(_NAMES.gallery == gallery).scalar_subquery()
    connection.execute(delete(gallery_shares).where(_SHARES.name.in_(names)))
    connection.execute(delete(published_galleries).where(_NAMES.gallery == gallery))


def find_shared(
    connection: Connection,
    name: str,
    consumer: Consumer,
    kinds: Collection[str] = (SUBSCRIPTIONS, TENANTS),
) -> PublishedGallery | None:
    """The gallery that is shared with the consumer under this name, or None."""
    query = (
        select(_NAMES.gallery)
        .join(gallery_shares, _NAMES.name == _SHARES.name)
        .where(_NAMES.name == name.lower(), _NAMES.kind == SHARED, consumer.is_named(kinds))
    )
    return _published(connection, SHARED, connection.scalar(query.limit(1)))


def find_community(connection: Connection, name: str) -> PublishedGallery | None:
    """The community gallery of this name, or None."""
    query = select(_NAMES.gallery).where(_NAMES.name == name.lower(), _NAMES.kind == COMMUNITY)
    return _published(connection, COMMUNITY, connection.scalar(query))


def shared_after(
    connection: Connection, consumer: Consumer, kinds: Collection[str], after: str
) -> Iterator[PublishedGallery]:
    """The galleries shared with the consumer whose names come after `after`, by name."""
    query = (
        select(_NAMES.name, _NAMES.gallery)
        .join(gallery_shares, _NAMES.name == _SHARES.name)
        .where(consumer.is_named(kinds))
        .distinct()
    )
    while True:
        rows = connection.execute(query.where(_NAMES.name > after).order_by(_NAMES.name).limit(_BATCH)).all()
        for row in rows:
            if found := _published(connection, SHARED, row.gallery):
                yield found
        if len(rows) < _BATCH:
            return
        after = rows[-1].name


def community_from(connection: Connection, first: str) -> Iterator[PublishedGallery]:
    """The community galleries whose names come from `first` on, by name."""
    query = select(_NAMES.name, _NAMES.gallery).where(_NAMES.kind == COMMUNITY).order_by(_NAMES.name)
    condition = _NAMES.name >= first
    while True:
        rows = connection.execute(query.where(condition).limit(_BATCH)).all()
        for row in rows:
            if found := _published(connection, COMMUNITY, row.gallery):
                yield found
        if len(rows) < _BATCH:
            return
        condition = _NAMES.name > rows[-1].name


def _published(connection: Connection, kind: str, gallery: str | None) -> PublishedGallery | None:
    found = resources.get(connection, gallery) if gallery else None
    return PublishedGallery(kind, found) if found is not None else None
