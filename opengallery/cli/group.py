"""`gallery group`: resource groups."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.arm.resource_id import RESOURCE_GROUPS, ResourceId
from opengallery.cli.arguments import parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.options import NoWait, Tags, Yes, confirm

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

app = new_app("Resource groups.")

COLUMNS = {"Name": "name", "Location": "location", "Status": "properties.provisioningState"}

GroupName = Annotated[
    str, typer.Option("--name", "-n", "--resource-group", "-g", metavar="NAME", help="Resource group.")
]
GroupLocation = Annotated[str, typer.Option("--location", "-l", metavar="REGION", help="Region.")]


@verb(app, "create", ["gallery group create -n myRG -l westcentralus"], columns=COLUMNS, flat=False)
def create(arm: "ArmClient", name: GroupName, location: GroupLocation, tags: Tags = None) -> Any:
    """Create a resource group."""
    body: dict[str, Any] = {"location": location}
    if tags is not None:
        body["tags"] = parse_tags(tags)
    return arm.put(ResourceId(arm.subscription, name), body)


@verb(app, "show", ["gallery group show -n myRG"], columns=COLUMNS, flat=False)
def show(arm: "ArmClient", name: GroupName) -> Any:
    """Show a resource group."""
    return arm.get(ResourceId(arm.subscription, name))


@verb(app, "list", ["gallery group list -o table"], columns=COLUMNS, flat=False)
def list_groups(arm: "ArmClient") -> Any:
    """List the resource groups of the subscription."""
    return arm.list(ResourceId(arm.subscription), RESOURCE_GROUPS)


@verb(app, "exists", ["gallery group exists -n myRG"])
def exists(arm: "ArmClient", name: GroupName) -> Any:
    """Print whether there is a resource group of this name."""
    return arm.exists(ResourceId(arm.subscription, name))


@verb(app, "delete", ["gallery group delete -n myRG --yes --no-wait"])
def delete(arm: "ArmClient", name: GroupName, yes: Yes = False, no_wait: NoWait = False) -> None:
    """Delete a resource group and everything in it."""
    confirm(f"Delete resource group '{name}' and everything in it?", yes)
    arm.delete(ResourceId(arm.subscription, name), wait=not no_wait)
