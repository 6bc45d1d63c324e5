"""References to shared images: `/SharedGalleries/{name}/Images/{image}/Versions/{version}`, and of the community.

Whoever may write a machine or a disk in a subscription may make it from what is shared with that subscription or its
tenant, or with everyone: no role on the gallery is needed. What isn't shared answers as what isn't there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resources import Resource
from opengallery.providers.compute import latest_version
from opengallery.providers.compute.sharing import shares, visible
from opengallery.providers.compute.sharing.shares import COMMUNITY, SHARED, Consumer, PublishedGallery
from opengallery.regions import REGIONS

MEMBERS = {"sharedGalleryImageId": SHARED, "communityGalleryImageId": COMMUNITY}
LATEST = "latest"
_FORM = re.compile(
    r"/(?P<kind>SharedGalleries|CommunityGalleries)/(?P<gallery>[^/\x00-\x1f]{1,128})"
    r"/Images/(?P<image>[^/\x00-\x1f]{1,80})/Versions/(?P<version>[^/\x00-\x1f]{1,80})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SharedImage:
    """A version that a reference means, and its id as the one sees it who refers to it."""

    version: Resource
    exact_id: str


def is_shared(reference: Mapping[str, Any]) -> bool:
    """Whether a reference names what is shared beside roles."""
    return any(reference.get(member) for member in MEMBERS)


def follows_versions(reference: Mapping[str, Any]) -> bool:
    """Whether a reference to a shared image means its latest version."""
    return any(str(reference.get(member, "")).lower().endswith(f"/{LATEST}") for member in MEMBERS)


def member_of(exact_id: str) -> str:
    """The member of a reference in which an id stands: `id`, or that of a shared image."""
    return next((member for member, kind in MEMBERS.items() if exact_id.startswith(f"/{kind}/")), "id")


def find(call: Call, reference: Mapping[str, Any], subscription: str, region: str, where: str) -> SharedImage:
    """The version that is used in `region` by a resource of `subscription`.

    Raises 400 for a malformed reference, 404 `GalleryImageNotFound` for what isn't there, or isn't shared.
    """
    text, published, asked = _gallery(call, reference, subscription, where)
    definition = resources.get(call.connection, published.gallery.id.child("images", asked["image"]))
    found = definition and _version(call, definition, asked["version"], region)
    if definition is None or found is None:
        raise _not_found(text, subscription, where)
    if not visible.is_visible(call.connection, found, region):
        raise not_here(text, region, where)
    name = f"{published.unique_id}/Images/{definition.id.name}/Versions/{found.id.name}"
    return SharedImage(found, name)


def _gallery(
    call: Call, reference: Mapping[str, Any], subscription: str, where: str
) -> tuple[str, PublishedGallery, dict[str, str]]:
    given = [member for member in ("id", *MEMBERS) if reference.get(member)]
    if len(given) != 1:
        raise invalid_parameter(where, f"The reference names several images: {', '.join(given)}. Give one.")
    text = str(reference[given[0]])
    asked = _FORM.fullmatch(text)
    kind = MEMBERS[given[0]]
    if asked is None or asked["kind"].lower() != kind.lower():
        raise invalid_parameter(
            f"{where}.{given[0]}",
            f"'{text[:200]}' is no id of a shared image. Give /{kind}/{{name}}/Images/{{image}}/Versions/{{version}}, "
            "the version by its number or as 'latest'.",
        )
    if kind == COMMUNITY:
        published = shares.find_community(call.connection, asked["gallery"])
    else:
        consumer = Consumer(subscription, call.principal.tenant_id)
        published = shares.find_shared(call.connection, asked["gallery"], consumer)
    if published is None:
        raise _not_found(text, subscription, where)
    return text, published, asked.groupdict()


def _version(call: Call, definition: Resource, name: str, region: str) -> Resource | None:
    if name.lower() == LATEST:
        return latest_version.find(call.connection, definition, region)
    found = resources.get(call.connection, definition.id.child("versions", name))
    return found if found is not None and visible.is_published(found) else None


def not_here(shown: str, region: str, where: str) -> ArmError:
    """404 for an image that has no replica in the region."""
    name = REGIONS[region].display_name
    return ArmError(
        "GalleryImageNotFound",
        f"The gallery image {shown} is not available in {region} region. Please contact image owner to "
        f"replicate to this region ('{name}' as a target region), or change your requested region.",
        target=where,
        status=404,
    )


def _not_found(text: str, subscription: str, where: str) -> ArmError:
    return ArmError(
        "GalleryImageNotFound",
        f"The gallery image {text} is not available to the subscription '{subscription}': it isn't there, or it is "
        "not shared (any more) with this subscription or its tenant. Ask its publisher to share the gallery: "
        "az sig share add, or az sig share enable-community.",
        target=where,
        status=404,
    )
