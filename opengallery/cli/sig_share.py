"""`gallery sig share`: with whom a gallery is shared beside roles; and how a gallery is made so that it may be."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.options import Gallery, Group, NoWait, resource_id

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

GALLERIES = "Microsoft.Compute/galleries"

Permissions = Annotated[
    Literal["Private", "Groups", "Community"] | None,
    typer.Option("--permissions", case_sensitive=False, help="How it may be shared beside roles."),
]
PublisherUri = Annotated[
    str | None, typer.Option("--publisher-uri", metavar="URL", help="The community gallery's publisher.")
]
PublisherEmail = Annotated[
    str | None,
    typer.Option("--publisher-email", "--publisher-contact", metavar="EMAIL", help="Whom users write to."),
]
Eula = Annotated[str | None, typer.Option("--eula", help="Agreement that users accept; its text or URL.")]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--public-name-prefix", metavar="PREFIX", help="Begins the public name: 5-16 letters, digits."
    ),
]
SubscriptionIds = Annotated[
    list[str] | None, typer.Option("--subscription-ids", metavar="ID...", help="Subscriptions.")
]
TenantIds = Annotated[list[str] | None, typer.Option("--tenant-ids", metavar="ID...", help="Tenants.")]

app = new_app("With whom a gallery is shared beside roles.")
NAMED = "-g myRG -r myGallery"


def sharing_profile(
    permissions: str | None, uri: str | None, email: str | None, eula: str | None, prefix: str | None
) -> dict[str, Any]:
    """The members of `sharingProfile` that the options ask for; empty when they ask for none."""
    members = {"publisherUri": uri, "publisherContact": email, "eula": eula, "publicNamePrefix": prefix}
    info = {name: value for name, value in members.items() if value is not None}
    if permissions == "Community" and len(info) < len(members):
        raise Misuse(
            "--permissions community needs --publisher-uri, --publisher-email, --eula and --public-name-prefix."
        )
    profile: dict[str, Any] = {"permissions": permissions} if permissions else {}
    return {**profile, "communityGalleryInfo": info} if info else profile


def _share(
    arm: "ArmClient",
    group: str,
    gallery: str,
    operation: str,
    no_wait: bool,
    subscription_ids: list[str] | None = None,
    tenant_ids: list[str] | None = None,
) -> Any:
    named = (("Subscriptions", subscription_ids), ("AADTenants", tenant_ids))
    body = {
        "operationType": operation,
        "groups": [{"type": kind, "ids": ids} for kind, ids in named if ids],
    }
    target = resource_id(arm.subscription, group, GALLERIES, gallery)
    return arm.act(target, "share", body, wait=not no_wait)


@verb(app, "add", [f"gallery sig share add {NAMED} --subscription-ids $ID --tenant-ids $TENANT_ID"])
def add(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    subscription_ids: SubscriptionIds = None,
    tenant_ids: TenantIds = None,
    no_wait: NoWait = False,
) -> Any:
    """Share a gallery with subscriptions or tenants. Its permissions have to be Groups."""
    return _share(arm, resource_group, gallery_name, "Add", no_wait, subscription_ids, tenant_ids)


@verb(app, "remove", [f"gallery sig share remove {NAMED} --subscription-ids $ID"])
def remove(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    subscription_ids: SubscriptionIds = None,
    tenant_ids: TenantIds = None,
    no_wait: NoWait = False,
) -> Any:
    """Share a gallery no more with subscriptions or tenants. Machines that they have go on."""
    return _share(arm, resource_group, gallery_name, "Remove", no_wait, subscription_ids, tenant_ids)


@verb(app, "reset", [f"gallery sig share reset {NAMED}"])
def reset(arm: "ArmClient", resource_group: Group, gallery_name: Gallery, no_wait: NoWait = False) -> Any:
    """Share a gallery with nobody but by roles: its permissions become Private."""
    return _share(arm, resource_group, gallery_name, "Reset", no_wait)


@verb(app, "enable-community", [f"gallery sig share enable-community {NAMED}"])
def enable_community(
    arm: "ArmClient", resource_group: Group, gallery_name: Gallery, no_wait: NoWait = False
) -> Any:
    """Show a gallery to everyone who is signed in. Its permissions have to be Community."""
    return _share(arm, resource_group, gallery_name, "EnableCommunity", no_wait)


@verb(app, "wait", [f"gallery sig share wait {NAMED} --updated"])
def wait(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    updated: Annotated[bool, typer.Option("--updated", help="Until sharing is Succeeded.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between looks.")] = 1,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 3600,
) -> None:
    """Wait until what was asked of a gallery's sharing holds."""
    if not updated:
        raise Misuse("Give --updated.")
    gallery = resource_id(arm.subscription, resource_group, GALLERIES, gallery_name)
    ends_at = time.monotonic() + timeout
    while True:
        found = arm.get(gallery, {"$expand": "SharingProfile/Groups"})
        state = (found["properties"].get("sharingStatus") or {}).get("aggregatedState")
        if state == "Succeeded":
            return
        if state == "Failed" or time.monotonic() > ends_at:
            raise CommandFailed(f"The sharing of {gallery.name} is {state or 'unknown'}.")
        time.sleep(interval)
