"""`gallery tenant`: the tenants of a data folder. For its operator, who needs no token; the server may run."""

from typing import Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.data_folder import Config, opened_database
from opengallery.cli.failure import CommandFailed
from opengallery.cli.serve import Data

COLUMNS = {"Name": "name", "TenantId": "tenantId", "Subscriptions": "subscriptions"}

app = new_app("The tenants of a data folder: create, list.")


@verb(app, "create", ["gallery tenant create --name Contoso --data ~/gallery"])
def create(
    name: Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="The name of the tenant.")],
    data: Data,
    config: Config = None,
) -> Any:
    """Make a tenant with an administrator and a first subscription.

    The secret with which the administrator signs in is printed now, and never again.
    """
    from opengallery.arm import access
    from opengallery.identity.client_secrets import generate_secret, hash_secret
    from opengallery.identity.directory_errors import DirectoryError
    from opengallery.identity.tenants import create_tenant

    secret = generate_secret()
    secret_hash = hash_secret(secret)
    try:
        with opened_database(data, config) as database, database.write() as connection:
            new = create_tenant(connection, name, secret_hash, secret[:3])
            access.assign(connection, new.object_id, access.OWNER, "/")
    except DirectoryError as error:
        raise CommandFailed(error.message) from error
    return {
        "name": name.strip(),
        "tenantId": new.tenant_id,
        "clientId": new.app_id,
        "clientSecret": secret,
        "objectId": new.object_id,
        "subscriptionId": new.subscription_id,
    }


@verb(app, "list", ["gallery tenant list --data ~/gallery -o table"], columns=COLUMNS)
def list_all(data: Data, config: Config = None) -> Any:
    """List the tenants, and how many subscriptions each has."""
    from opengallery.identity.directory import list_subscriptions, list_tenants

    with opened_database(data, config) as database, database.read() as connection:
        return [
            {
                "name": name,
                "tenantId": tenant_id,
                "subscriptions": len(list_subscriptions(connection, tenant_id)),
            }
            for tenant_id, name in list_tenants(connection)
        ]
