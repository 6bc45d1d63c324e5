"""`gallery account`: the subscriptions of the caller, and the regions of the server."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.arm.resource_id import SUBSCRIPTIONS, ResourceId
from opengallery.cli.command import new_app, verb

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

app = new_app("Subscriptions and regions.")

COLUMNS = {
    "Name": "name",
    "SubscriptionId": "id",
    "TenantId": "tenantId",
    "State": "state",
    "IsDefault": "isDefault",
}

NameOrId = Annotated[
    str | None, typer.Option("--name", "-n", metavar="NAME|ID", help="Subscription; by default the current.")
]


@verb(app, "show", ["gallery account show -o table"], columns=COLUMNS)
def show(arm: "ArmClient", name: NameOrId = None) -> Any:
    """Show a subscription."""
    if name:
        arm = type(arm)(arm.credentials, name, quiet=arm.quiet)
    return _account(arm, arm.get(ResourceId(arm.subscription)))


@verb(app, "list", ["gallery account list -o table"], columns=COLUMNS)
def list_subscriptions(arm: "ArmClient") -> Any:
    """List the subscriptions that you can read."""
    return [_account(arm, subscription) for subscription in arm.list(None, SUBSCRIPTIONS)]


@verb(
    app,
    "list-locations",
    ["gallery account list-locations -o table"],
    columns={"DisplayName": "displayName", "Name": "name", "RegionalDisplayName": "regionalDisplayName"},
    flat=False,
)
def list_locations(arm: "ArmClient") -> Any:
    """List the regions."""
    path = f"/subscriptions/{arm.subscription}/locations"
    return [*arm.pages(arm.url(path, "2022-12-01"))]


def _account(arm: "ArmClient", subscription: dict[str, Any]) -> dict[str, Any]:
    """A subscription as `az account show` writes it."""
    tenant = subscription.get("tenantId") or arm.credentials.tenant
    identity = subscription["subscriptionId"]
    return {
        "environmentName": "opengallery",
        "homeTenantId": tenant,
        "id": identity,
        "isDefault": identity.lower() == arm.subscription.lower(),
        "managedByTenants": subscription.get("managedByTenants") or [],
        "name": subscription.get("displayName"),
        "state": subscription.get("state"),
        "tenantId": tenant,
        "user": {"name": arm.credentials.client, "type": "servicePrincipal"},
    }
