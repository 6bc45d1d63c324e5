"""`gallery sig image-definition`: what the versions of an image have in common."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.cli.arguments import change, parse_features, parse_tags
from opengallery.cli.command import new_app, verb
from opengallery.cli.options import (
    Adds,
    Definition,
    DefinitionOrNone,
    Gallery,
    GalleryOrNone,
    Generation,
    Group,
    GroupOrNone,
    Ids,
    Location,
    NoWait,
    OsTypeOption,
    Removes,
    Sets,
    Tags,
    named,
    resource_id,
)
from opengallery.cli.single import each_at_once, one_or_all

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

DEFINITIONS = "Microsoft.Compute/galleries/images"

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "OsType": "osType",
    "OsState": "osState",
    "HyperVGeneration": "hyperVGeneration",
    "ProvisioningState": "provisioningState",
}

Description = Annotated[str | None, typer.Option("--description", help="What the image is.")]

app = new_app("Image definitions.")

EXAMPLE = "-g myRG -r myGallery -i myImageDefinition"


@verb(
    app,
    "create",
    [
        f"gallery sig image-definition create {EXAMPLE} \\",
        "  --publisher myPublisher --offer myOffer --sku mySKU --os-type Linux --hyper-v-generation V1",
    ],
    columns=COLUMNS,
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    gallery_image_definition: Definition,
    publisher: Annotated[str, typer.Option("--publisher", "-p", help="Publisher of the image.")],
    offer: Annotated[str, typer.Option("--offer", "-f", help="Offer of the image.")],
    sku: Annotated[str, typer.Option("--sku", "-s", help="SKU of the image.")],
    os_type: OsTypeOption,
    os_state: Annotated[
        Literal["Generalized", "Specialized"],
        typer.Option("--os-state", case_sensitive=False, help="Whether VMs get a user and a host name."),
    ] = "Generalized",
    hyper_v_generation: Generation = None,
    features: Annotated[
        list[str] | None, typer.Option("--features", metavar="NAME=VALUE...", help="Features of the image.")
    ] = None,
    architecture: Annotated[
        Literal["x64", "Arm64"] | None,
        typer.Option("--architecture", case_sensitive=False, help="Architecture of the image."),
    ] = None,
    end_of_life_date: Annotated[
        str | None, typer.Option("--end-of-life-date", metavar="DATE", help="Like 2030-12-31.")
    ] = None,
    description: Description = None,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create an image definition. Its generation is V2 unless --hyper-v-generation says V1."""
    generation = hyper_v_generation or "V2"
    named_features = parse_features(features) or []
    if generation == "V2" and not any(feature["name"] == "SecurityType" for feature in named_features):
        named_features.append({"name": "SecurityType", "value": "TrustedLaunchSupported"})
    # az's word for "no security type" is not sent.
    named_features = [
        each for each in named_features if each != {"name": "SecurityType", "value": "Standard"}
    ]
    optional = {
        "features": named_features or None,
        "architecture": architecture,
        "endOfLifeDate": end_of_life_date,
        "description": description,
    }
    body = {
        "location": location or arm.location(resource_group),
        "tags": parse_tags(tags) or {},
        "properties": {
            "identifier": {"publisher": publisher, "offer": offer, "sku": sku},
            "osType": os_type,
            "osState": os_state,
            "hyperVGeneration": generation,
            **{key: value for key, value in optional.items() if value is not None},
        },
    }
    definition = resource_id(
        arm.subscription, resource_group, DEFINITIONS, gallery_name, gallery_image_definition
    )
    return arm.put(definition, body, wait=not no_wait)


@verb(app, "show", [f"gallery sig image-definition show {EXAMPLE}"], columns=COLUMNS)
def show(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    ids: Ids = None,
) -> Any:
    """Show an image definition."""
    definitions = named(
        arm.subscription,
        DEFINITIONS,
        ids,
        resource_group,
        gallery_name=gallery_name,
        gallery_image_definition=gallery_image_definition,
    )
    return one_or_all([arm.get(definition) for definition in definitions])


@verb(app, "list", ["gallery sig image-definition list -g myRG -r myGallery -o table"], columns=COLUMNS)
def list_definitions(arm: "ArmClient", resource_group: Group, gallery_name: Gallery) -> Any:
    """List the image definitions of a gallery."""
    gallery = resource_id(arm.subscription, resource_group, "Microsoft.Compute/galleries", gallery_name)
    return arm.list(gallery, DEFINITIONS)


@verb(
    app,
    "update",
    [f"gallery sig image-definition update {EXAMPLE} --set description='Web servers'"],
    columns=COLUMNS,
)
def update(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    ids: Ids = None,
    description: Description = None,
    tags: Tags = None,
    sets: Sets = None,
    adds: Adds = None,
    removes: Removes = None,
    no_wait: NoWait = False,
) -> Any:
    """Change what may change of an image definition."""
    results = []
    for definition in named(
        arm.subscription,
        DEFINITIONS,
        ids,
        resource_group,
        gallery_name=gallery_name,
        gallery_image_definition=gallery_image_definition,
    ):
        body = arm.get(definition)
        if description is not None:
            body.setdefault("properties", {})["description"] = description
        if tags is not None:
            body["tags"] = parse_tags(tags)
        change(body, sets, adds, removes)
        results.append(arm.put(definition, body, wait=not no_wait))
    return one_or_all(results)


@verb(app, "delete", [f"gallery sig image-definition delete {EXAMPLE}"])
def delete(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    ids: Ids = None,
    no_wait: NoWait = False,
) -> None:
    """Delete an image definition. It must hold no versions."""
    definitions = named(
        arm.subscription,
        DEFINITIONS,
        ids,
        resource_group,
        gallery_name=gallery_name,
        gallery_image_definition=gallery_image_definition,
    )
    each_at_once(definitions, lambda definition: arm.delete(definition, wait=not no_wait))
