"""Managed identities: service principals that a resource brings with it, without any credential.

Nobody signs in as one. A machine that has it is given tokens over a channel of its own. It goes with its resource;
role assignments to it stay as orphans, as for every principal.
"""

from uuid import uuid4

from sqlalchemy import Connection

from opengallery.identity.directory import find_principal, insert_principal
from opengallery.identity.principal import Principal
from opengallery.identity.service_principals import (
    MANAGED_IDENTITY,
    delete_service_principal,
    describe_service_principal,
)


def create_managed_identity(
    connection: Connection, tenant_id: str, resource_id: str, *, is_explicit: bool
) -> Principal:
    """Add the identity of a resource to the tenant's directory, under the resource's name. Raises `TooMany`.

    One that `is_explicit` is a resource itself; others come and go with a machine.
    """
    object_id, app_id, name = str(uuid4()), str(uuid4()), resource_id.rsplit("/", 1)[-1]
    insert_principal(connection, object_id, tenant_id, "ServicePrincipal", name, app_id)
    details = {"alternativeNames": [f"isExplicit={is_explicit}", resource_id]}
    describe_service_principal(connection, object_id, MANAGED_IDENTITY, details, None)
    return Principal(object_id, tenant_id, "ServicePrincipal", app_id, name)


def delete_managed_identity(connection: Connection, object_id: str) -> None:
    """Take an identity out of the directory. Does nothing when it has gone."""
    if find_principal(connection, object_id) is not None:
        delete_service_principal(connection, object_id)
