"""`gallery subscription`: the subscriptions of a data folder's tenants. For its operator; the server may run."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.data_folder import Config, opened_database
from opengallery.cli.failure import CommandFailed
from opengallery.cli.serve import Data

if TYPE_CHECKING:
    from sqlalchemy import Connection

COLUMNS = {"Name": "name", "SubscriptionId": "subscriptionId", "TenantId": "tenantId"}

Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="NAME|ID", help="The tenant; the first one unless given."),
]

app = new_app("The subscriptions of a data folder: create, list.")


@verb(app, "create", ["gallery subscription create --name Builds --tenant Contoso --data ~/gallery"])
def create(
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="The subscription's name.")],
    data: Data,
    tenant: Tenant = None,
    config: Config = None,
) -> Any:
    """Add a subscription to a tenant. Its administrator owns it at once; others need a role in it."""
    from opengallery.identity.directory_errors import DirectoryError
    from opengallery.identity.first_start import read_first_start
    from opengallery.identity.tenants import create_subscription

    first = read_first_start(data)
    wanted = tenant or (first.tenant_id if first else "")
    try:
        with opened_database(data, config) as database, database.write() as connection:
            made = create_subscription(connection, _tenant_id(connection, wanted), name)
    except DirectoryError as error:
        raise CommandFailed(error.message) from error
    return {"name": made.display_name, "subscriptionId": made.subscription_id, "tenantId": made.tenant_id}


@verb(app, "list", ["gallery subscription list --data ~/gallery -o table"], columns=COLUMNS)
def list_all(data: Data, tenant: Tenant = None, config: Config = None) -> Any:
    """List the subscriptions of all tenants, or of one."""
    from opengallery.identity.directory import list_subscriptions, list_tenants

    with opened_database(data, config) as database, database.read() as connection:
        tenant_ids = [tenant_id for tenant_id, _ in list_tenants(connection)]
        if tenant is not None:
            tenant_ids = [_tenant_id(connection, tenant)]
        return [
            {"name": entry.display_name, "subscriptionId": entry.subscription_id, "tenantId": entry.tenant_id}
            for tenant_id in tenant_ids
            for entry in list_subscriptions(connection, tenant_id)
        ]


def _tenant_id(connection: "Connection", id_or_name: str) -> str:
    from opengallery.identity.tenants import find_tenant

    found = find_tenant(connection, id_or_name)
    if found is None:
        raise CommandFailed(
            f"There is no tenant '{id_or_name}'. `gallery tenant list` shows which there are."
        )
    return found
