"""Image definitions: `Microsoft.Compute/galleries/images`.

A definition says what its versions are: system, state, generation, and an identifier of publisher,
offer and SKU that no other definition of the gallery has.
Source: Compute Gallery REST API, api-version 2024-03-03.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.compute import COMPUTE_NAME, GALLERY_VERSIONS

Text = Annotated[str, Meta(min_length=1, max_length=64)]


class Identifier(Properties):
    """The triple that names an image on a marketplace's shelf."""

    publisher: Annotated[str, Meta(min_length=1, max_length=128)]
    offer: Text
    sku: Text


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
    recommended: dict[str, Any] | None = None
    disallowed: dict[str, Any] | None = None
    purchase_plan: dict[str, Any] | None = None
    features: list[dict[str, Any]] | None = None


def _triple(definition: Resource) -> tuple[str, ...]:
    identifier = definition.properties["identifier"]
    return tuple(identifier[name].lower() for name in ("publisher", "offer", "sku"))


def _check(call: Call, new: Resource, old: Resource | None) -> None:
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
