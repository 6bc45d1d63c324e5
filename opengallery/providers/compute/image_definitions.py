"""Image definitions: `Microsoft.Compute/galleries/images`.

A definition says what its versions are: system, state, generation, and an identifier of publisher,
offer and SKU that no other definition of the gallery has.
Source: Compute Gallery REST API, api-version 2024-03-03.
"""

from typing import Annotated, Literal

from msgspec import Meta, field

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.compute import COMPUTE_NAME, GALLERY_VERSIONS
from opengallery.providers.compute.dates import normalize_date

Text = Annotated[str, Meta(min_length=1, max_length=64)]
Amount = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Identifier(Properties):
    """The triple that names an image on a marketplace's shelf."""

    publisher: Annotated[str, Meta(min_length=1, max_length=128)]
    offer: Text
    sku: Text


class Range(Properties):
    """How much of something a machine should have."""

    min: Amount | None = None
    max: Amount | None = None


class Recommended(Properties):
    """What machines the image is for."""

    v_cpus: Range | None = field(name="vCPUs", default=None)
    memory: Range | None = None


class Disallowed(Properties):
    """What the image is not for."""

    disk_types: list[str] | None = None


class PurchasePlan(Properties):
    """The marketplace's plan."""

    name: str | None = None
    publisher: str | None = None
    product: str | None = None


class Feature(Properties):
    """One feature of the image."""

    name: str
    value: str
    starts_at_version: str | None = None


class DefinitionProperties(Properties):
    """What a definition is created with."""

    os_type: Literal["Linux", "Windows"]
    os_state: Literal["Generalized", "Specialized"]
    identifier: Identifier
    hyper_v_generation: Literal["V1", "V2"] = "V1"
    architecture: Literal["x64", "Arm64"] = "x64"
    description: str | None = None
    eula: str | None = None
    privacy_statement_uri: str | None = None
    release_note_uri: str | None = None
    end_of_life_date: str | None = None
    recommended: Recommended | None = None
    disallowed: Disallowed | None = None
    purchase_plan: PurchasePlan | None = None
    features: list[Feature] | None = None
    allow_update_image: bool | None = None


def _triple(definition: Resource) -> tuple[str, ...]:
    identifier = definition.properties["identifier"]
    return tuple(identifier[name].lower() for name in ("publisher", "offer", "sku"))


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    normalize_date(new.properties, "endOfLifeDate", "properties")
    for name, span in new.properties.get("recommended", {}).items():
        if isinstance(span, dict) and span.get("min", 1) > span.get("max", 2**31):
            raise invalid_parameter(
                f"properties.recommended.{name}",
                f"The minimum {span['min']} is more than the maximum {span['max']}. Exchange them.",
            )
    gallery = new.id.parent
    assert gallery is not None
    for other in resources.children(call.connection, gallery, RESOURCE_TYPE.type):
        if other.id != new.id and _triple(other) == _triple(new):
            raise ArmError(
                "Conflict",
                f"The image definition '{other.id.name}' of this gallery has the same publisher, offer and SKU "
                f"({', '.join(_triple(new))}). Choose a combination that no other definition has.",
                target="properties.identifier",
                status=409,
            )


RESOURCE_TYPE = ResourceType(
    "Microsoft.Compute/galleries/images",
    GALLERY_VERSIONS,
    DefinitionProperties,
    name=COMPUTE_NAME,
    immutable=frozenset({"identifier", "osType", "osState", "hyperVGeneration", "architecture"}),
    check=_check,
    refuse_delete_with_children=True,
)
