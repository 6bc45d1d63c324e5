"""The sharing profile of a gallery: how it may be shared beside roles, and what everyone may know of it.

The permissions say which way: `Private` (roles alone), `Groups` (subscriptions and tenants), `Community`. Who it is
shared with then is not written with the gallery, but by the action `share` (`updates.py`), which takes another right.
Source: Compute Gallery REST API, api-version 2024-03-03.
"""

import uuid
from typing import Annotated, Any, Literal

from msgspec import Meta

from opengallery.arm import operations
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.providers.compute.sharing import shares, visible
from opengallery.regions import REGIONS

PRIVATE, GROUPS, COMMUNITY = "Private", "Groups", "Community"
SHARE = "share"
_WHERE = "properties.sharingProfile"
_INFO = ("publisherUri", "publisherContact", "eula", "publicNamePrefix")

Url = Annotated[str, Meta(max_length=2048, pattern=r"^https?://[\x21-\x7e]+\Z")]
Email = Annotated[str, Meta(max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=2048, pattern=r"^[^\x00-\x1f\x7f]+\Z")]


class SharingGroup(Properties, forbid_unknown_fields=True):
    """Subscriptions or tenants that a gallery is shared with."""

    type: str | None = None
    ids: list[str] | None = None


class CommunityGalleryInfo(Properties, forbid_unknown_fields=True):
    """What a community gallery tells of itself. The public name is the prefix and a GUID."""

    publisher_uri: Url | None = None
    publisher_contact: Email | None = None
    eula: Text | None = None
    public_name_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{5,16}\Z")] | None = None
    community_gallery_enabled: bool | None = None
    public_names: list[str] | None = None


class SharingProfile(Properties, forbid_unknown_fields=True):
    """How a gallery may be shared. `groups`, and two members of the info, are what a client read before."""

    permissions: Literal["Private", "Groups", "Community"] | None = None
    groups: list[SharingGroup] | None = None
    community_gallery_info: CommunityGalleryInfo | None = None


def permissions(gallery: Resource) -> str:
    """`Private`, `Groups` or `Community`."""
    return str(gallery.properties.get("sharingProfile", {}).get("permissions", PRIVATE))


def check(call: Call, new: Resource, old: Resource | None) -> None:
    """Keep of a written profile what an owner may write. Raises 400, or 409 while the gallery is shared."""
    before = old.properties.get("sharingProfile") if old is not None else None
    sent = new.properties.get("sharingProfile")
    if sent is None:
        new.properties.pop("sharingProfile", None)
        if before is not None:
            new.properties["sharingProfile"] = before
        return
    before = before or {}
    profile = {"permissions": sent.get("permissions") or before.get("permissions", PRIVATE)}
    if profile["permissions"] == COMMUNITY:
        info = {**before.get("communityGalleryInfo", {}), **sent.get("communityGalleryInfo", {})}
        profile["communityGalleryInfo"] = {name: info[name] for name in _INFO if name in info}
        _check_info(profile["communityGalleryInfo"])
    if old is not None and _name(profile) != _name(before) and shares.is_published(call.connection, old.key):
        raise ArmError(
            "OperationNotAllowed",
            f"The gallery '{old.id.name}' is shared: its permissions and its public name stay as they are. Stop "
            "sharing it first: az sig share reset.",
            target=_WHERE,
            status=409,
        )
    new.properties["sharingProfile"] = profile
    if profile["permissions"] != COMMUNITY:
        new.private.pop("publicName", None)
    elif _name(profile) != _name(before) or "publicName" not in new.private:
        new.private["publicName"] = f"{profile['communityGalleryInfo']['publicNamePrefix']}-{uuid.uuid4()}"


def _name(profile: dict[str, Any]) -> tuple[str, str | None]:
    """What the name under which a gallery is shared follows from."""
    prefix = profile.get("communityGalleryInfo", {}).get("publicNamePrefix")
    return profile.get("permissions", PRIVATE), prefix


def _check_info(info: dict[str, Any]) -> None:
    for name in _INFO:
        if name not in info:
            raise invalid_parameter(
                f"{_WHERE}.communityGalleryInfo.{name}",
                f"A community gallery needs '{name}'. Give all of: --publisher-uri, --publisher-email, --eula, "
                "--public-name-prefix.",
            )


def view(call: Call, gallery: Resource) -> dict[str, Any]:
    """The profile, and with `$select=Permissions` or `$expand=SharingProfile/Groups` who it is shared with."""
    expands = "sharingprofile/groups" in (call.option("$expand") or "").lower()
    selects = "permissions" in (call.option("$select") or "").lower()
    profile = {"permissions": PRIVATE, **gallery.properties.get("sharingProfile", {})}
    if profile["permissions"] == COMMUNITY:
        profile["communityGalleryInfo"] = {
            **profile["communityGalleryInfo"],
            "communityGalleryEnabled": shares.is_published(call.connection, gallery.key),
            "publicNames": [shares.public_name(gallery)],
        }
    if (expands or selects) and profile["permissions"] == GROUPS:
        found = shares.groups(call.connection, gallery.key)
        profile["groups"] = [{"type": kind, "ids": ids} for kind, ids in found.items() if ids]
    shown: dict[str, Any] = {}
    if expands or selects or "sharingProfile" in gallery.properties:
        shown["sharingProfile"] = profile
    if expands:
        shown["sharingStatus"] = _status(call, gallery)
    return shown


def _status(call: Call, gallery: Resource) -> dict[str, Any]:
    """Whether what was last asked holds everywhere: it does at once, so it is under way or done."""
    running = operations.running(call.connection, gallery.key)
    state = "InProgress" if running is not None and running.verb == SHARE else "Succeeded"
    if not shares.is_published(call.connection, gallery.key):
        return {"aggregatedState": state, "summary": []}
    regions = visible.regions(call.connection, gallery)
    return {
        "aggregatedState": state,
        "summary": [
            {"region": REGIONS[region].display_name, "state": state, "details": ""} for region in regions
        ],
    }


def refuse_while_shared(call: Call, gallery: Resource) -> None:
    """Raise 409 when others may use the gallery: its owner stops sharing before deleting it."""
    if shares.is_published(call.connection, gallery.key):
        raise ArmError(
            "OperationNotAllowed",
            f"The gallery '{gallery.id.name}' is shared with others and can't be deleted. Stop sharing it first: "
            f"az sig share reset --resource-group {gallery.id.resource_group} --gallery-name {gallery.id.name}.",
            status=409,
        )
