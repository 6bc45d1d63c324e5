"""`gallery sig`: galleries. Image definitions and versions have modules of their own."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.cli import image_definition, image_version, published, sig_share
from opengallery.cli.arguments import change, parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.options import (
    Adds,
    Gallery,
    GalleryOrNone,
    Group,
    GroupOrNone,
    Ids,
    Location,
    NoWait,
    Removes,
    Sets,
    Tags,
    named,
    resource_id,
)
from opengallery.cli.sig_share import (
    Eula,
    Permissions,
    Prefix,
    PublisherEmail,
    PublisherUri,
    sharing_profile,
)
from opengallery.cli.single import each_at_once, one_or_all, scope

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

GALLERIES = "Microsoft.Compute/galleries"

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "ProvisioningState": "provisioningState",
    "UniqueName": "identifier.uniqueName",
}

Description = Annotated[str | None, typer.Option("--description", help="What the gallery is for.")]

app = new_app("Galleries, image definitions and image versions.")
app.add_typer(image_definition.app, name="image-definition")
app.add_typer(image_version.app, name="image-version")
app.add_typer(sig_share.app, name="share")
published.add_gallery_verbs(app)
published.add_definition_verbs(image_definition.app)
published.add_version_verbs(image_version.app)


@verb(
    app,
    "create",
    [
        "gallery sig create -g myRG --gallery-name myGallery",
        "gallery sig create -g myRG -r myGallery --permissions groups",
    ],
    columns=COLUMNS,
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    location: Location = None,
    description: Description = None,
    permissions: Permissions = None,
    publisher_uri: PublisherUri = None,
    publisher_email: PublisherEmail = None,
    eula: Eula = None,
    public_name_prefix: Prefix = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create a gallery."""
    body: dict[str, Any] = {"location": location or arm.location(resource_group)}
    if tags is not None:
        body["tags"] = parse_tags(tags)
    profile = sharing_profile(permissions, publisher_uri, publisher_email, eula, public_name_prefix)
    optional = {"description": description, "sharingProfile": profile or None}
    if properties := {name: value for name, value in optional.items() if value is not None}:
        body["properties"] = properties
    gallery = resource_id(arm.subscription, resource_group, GALLERIES, gallery_name)
    return arm.put(gallery, body, wait=not no_wait)


@verb(app, "show", ["gallery sig show -g myRG -r myGallery"], columns=COLUMNS)
def show(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    ids: Ids = None,
    sharing_groups: Annotated[
        bool, typer.Option("--sharing-groups", help="Show with whom it is shared, and whether that holds.")
    ] = False,
    select: Annotated[
        Literal["Permissions"] | None,
        typer.Option("--select", case_sensitive=False, help="Show with whom it is shared."),
    ] = None,
) -> Any:
    """Show a gallery."""
    galleries = named(arm.subscription, GALLERIES, ids, resource_group, gallery_name=gallery_name)
    query = {"$expand": "SharingProfile/Groups"} if sharing_groups else {}
    query |= {"$select": select} if select else {}
    return one_or_all([arm.get(gallery, query) for gallery in galleries])


@verb(app, "list", ["gallery sig list -o table", "gallery sig list -g myRG"], columns=COLUMNS)
def list_galleries(arm: "ArmClient", resource_group: GroupOrNone = None) -> Any:
    """List the galleries of a resource group, or of the subscription."""
    return arm.list(scope(arm, resource_group), GALLERIES)


@verb(
    app,
    "update",
    ["gallery sig update -g myRG -r myGallery --set tags.team=images"],
    columns=COLUMNS,
)
def update(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    ids: Ids = None,
    description: Description = None,
    permissions: Permissions = None,
    publisher_uri: PublisherUri = None,
    publisher_email: PublisherEmail = None,
    eula: Eula = None,
    public_name_prefix: Prefix = None,
    tags: Tags = None,
    sets: Sets = None,
    adds: Adds = None,
    removes: Removes = None,
    no_wait: NoWait = False,
) -> Any:
    """Change a gallery's description or tags, or how it may be shared."""
    results = []
    changed = sharing_profile(permissions, publisher_uri, publisher_email, eula, public_name_prefix)
    for gallery in named(arm.subscription, GALLERIES, ids, resource_group, gallery_name=gallery_name):
        body = arm.get(gallery)
        if description is not None:
            body.setdefault("properties", {})["description"] = description
        if changed:
            profile = body.setdefault("properties", {}).setdefault("sharingProfile", {})
            info = profile.get("communityGalleryInfo") or {}
            profile.update(changed)
            if "communityGalleryInfo" in changed:
                profile["communityGalleryInfo"] = {**info, **changed["communityGalleryInfo"]}
        if tags is not None:
            body["tags"] = parse_tags(tags)
        change(body, sets, adds, removes)
        results.append(arm.put(gallery, body, wait=not no_wait))
    return one_or_all(results)


@verb(app, "delete", ["gallery sig delete -g myRG -r myGallery"])
def delete(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    ids: Ids = None,
    no_wait: NoWait = False,
) -> None:
    """Delete a gallery. It must hold no image definitions."""
    galleries = named(arm.subscription, GALLERIES, ids, resource_group, gallery_name=gallery_name)
    each_at_once(galleries, lambda gallery: arm.delete(gallery, wait=not no_wait))
