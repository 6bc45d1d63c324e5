"""Galleries: `Microsoft.Compute/galleries`. A gallery holds image definitions.

In the preview profile a subscription must have registered `GalleryPreview`, and only some regions
may be a source, as the announcement of 2018 says.
Source: Compute Gallery REST API, api-version 2024-03-03.
"""

from typing import Annotated, Any

import msgspec

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Pattern, Properties, ResourceType
from opengallery.arm.resources import Resource
from opengallery.providers.compute import GALLERY_VERSIONS
from opengallery.providers.compute.sharing import profile, updates
from opengallery.providers.compute.sharing.shares import unique_name
from opengallery.providers.features.registrations import is_registered
from opengallery.regions import PREVIEW_SOURCE_REGIONS, REGIONS


class SoftDeletePolicy(Properties, forbid_unknown_fields=True):
    """Whether deleted versions can be had back."""

    is_soft_delete_enabled: bool | None = None


class GalleryProperties(Properties, forbid_unknown_fields=True):
    """What a gallery is created with."""

    description: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    sharing_profile: profile.SharingProfile | None = None
    soft_delete_policy: SoftDeletePolicy | None = None


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    profile.check(call, new, old)
    if call.services.settings.profile != "preview" or old is not None:
        return
    subscription = new.id.subscription or ""
    if not is_registered(call.connection, subscription, "Microsoft.Compute/GalleryPreview"):
        raise ArmError(
            "SubscriptionNotRegisteredForFeature",
            "Subscription is not registered for feature 'Microsoft.Compute/GalleryPreview'. Register it first: "
            "az feature register --namespace Microsoft.Compute --name GalleryPreview; then "
            "az provider register -n Microsoft.Compute.",
            status=403,
        )
    require_source_region(call, new)


def require_source_region(call: Call, resource: Resource) -> None:
    """Raise 400 when the profile doesn't let this region be a source."""
    if call.services.settings.profile == "preview" and resource.location not in PREVIEW_SOURCE_REGIONS:
        names = ", ".join(REGIONS[name].display_name for name in PREVIEW_SOURCE_REGIONS)
        raise ArmError(
            "LocationNotAvailableForResourceType",
            f"The location '{resource.location}' is no source region of the preview. Create it in one of: {names}. "
            "Every region may be a target region.",
            target="location",
        )


def _view(call: Call, gallery: Resource) -> dict[str, Any]:
    return {"identifier": {"uniqueName": unique_name(gallery.id)}, **profile.view(call, gallery)}


RESOURCE_TYPE = ResourceType(
    "Microsoft.Compute/galleries",
    GALLERY_VERSIONS,
    GalleryProperties,
    name=Pattern(
        r"[A-Za-z0-9]([A-Za-z0-9._]{0,78}[A-Za-z0-9])?",
        "1-80 letters, digits, dots or underscores, from a letter or digit to one",
    ),
    read_only=frozenset({"identifier", "sharingStatus"}),
    check=_check,
    before_delete=profile.refuse_while_shared,
    refuse_delete_with_children=True,
    view=_view,
    actions={profile.SHARE: updates.ACTION},
)
