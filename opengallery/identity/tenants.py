"""Tenants and subscriptions, as the operator makes them on the data folder.

A tenant begins with an administrator, a service principal, and its first subscription.
"""

from dataclasses import dataclass, field
from uuid import uuid4

from sqlalchemy import Connection, insert

from opengallery.database import now
from opengallery.identity.applications import applications
from opengallery.identity.credentials import add_secret
from opengallery.identity.directory import (
    Subscription,
    as_id,
    list_subscriptions,
    list_tenants,
    principals,
    subscriptions,
    tenants,
)
from opengallery.identity.directory_errors import AlreadyTaken, InvalidValue, TooMany
from opengallery.identity.properties import Text

ADMINISTRATOR = "Administrator"
TENANTS_MAX = 1_000
SUBSCRIPTIONS_MAX = 1_000
NAME_LENGTH_MAX = 64


@dataclass(frozen=True, slots=True)
class NewTenant:
    """What a new tenant begins with; `app_id` and a secret sign the administrator in."""

    tenant_id: str = field(default_factory=lambda: str(uuid4()))
    subscription_id: str = field(default_factory=lambda: str(uuid4()))
    object_id: str = field(default_factory=lambda: str(uuid4()))
    app_id: str = field(default_factory=lambda: str(uuid4()))


def create_tenant(connection: Connection, name: str, secret_hash: str, hint: str) -> NewTenant:
    """Make a tenant whose administrator signs in by the secret with this hash.

    Its right to administrate is given by who keeps role assignments. Raises `InvalidValue`,
    `AlreadyTaken`, `TooMany`.
    """
    name = _check_name(name)
    known = list_tenants(connection)
    if len(known) >= TENANTS_MAX:
        raise TooMany(f"There are {TENANTS_MAX} tenants, and may not be more.")
    if name.casefold() in {other.casefold() for _, other in known}:
        raise AlreadyTaken("name")
    new = NewTenant()
    insert_tenant(connection, new.tenant_id, name, new.object_id, new.app_id)
    create_subscription(connection, new.tenant_id, name, new.subscription_id)
    add_secret(connection, new.app_id, secret_hash, hint)
    return new


def insert_tenant(
    connection: Connection, tenant_id: str, name: str, administrator_id: str, app_id: str
) -> None:
    """Add the rows of a tenant and of its administrator, who has no secret yet."""
    tenant = {"id": tenant_id, "display_name": name, "administrator_id": administrator_id}
    connection.execute(insert(tenants).values(tenant))
    administrator = {
        "object_id": administrator_id,
        "tenant_id": tenant_id,
        "kind": "ServicePrincipal",
        "app_id": app_id,
        "display_name": ADMINISTRATOR,
        "enabled": True,
    }
    connection.execute(insert(principals).values(administrator))
    application = {
        "object_id": str(uuid4()),
        "app_id": app_id,
        "tenant_id": tenant_id,
        "display_name": ADMINISTRATOR,
        "details": {},
        "created_at": now(),
    }
    connection.execute(insert(applications).values(application))


def create_subscription(
    connection: Connection, tenant_id: str, name: str, subscription_id: str | None = None
) -> Subscription:
    """Add a subscription to a tenant. Raises `InvalidValue`, `AlreadyTaken`, `TooMany`."""
    name = _check_name(name)
    known = list_subscriptions(connection, tenant_id)
    if len(known) >= SUBSCRIPTIONS_MAX:
        raise TooMany(f"The tenant has {SUBSCRIPTIONS_MAX} subscriptions, and may not have more.")
    if name.casefold() in {other.display_name.casefold() for other in known}:
        raise AlreadyTaken("name")
    made = Subscription(subscription_id or str(uuid4()), tenant_id, name)
    row = {"id": made.subscription_id, "tenant_id": tenant_id, "display_name": name}
    connection.execute(insert(subscriptions).values(row))
    return made


def find_tenant(connection: Connection, id_or_name: str) -> str | None:
    """Id of the tenant with this id or, in any case, this name."""
    for tenant_id, name in list_tenants(connection):
        if tenant_id == as_id(id_or_name) or name.casefold() == id_or_name.casefold():
            return tenant_id
    return None


def _check_name(name: str) -> str:
    if not name.strip():
        raise InvalidValue("name", f"Give 1 to {NAME_LENGTH_MAX} characters.")
    return Text(NAME_LENGTH_MAX).check("name", name.strip())
