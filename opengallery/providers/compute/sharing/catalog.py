"""Catalog: what those see of a shared gallery that it is shared with, and nothing of where it lies.

Neither tags nor sources of the publisher's resources are shown. A list is paged by the names in it.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import paging, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resources import Resource
from opengallery.providers.compute.sharing import visible
from opengallery.providers.compute.sharing.shares import COMMUNITY, PublishedGallery
from opengallery.regions import find_region

_TYPES = "Microsoft.Compute/Locations"
_DEFINITION = (
    "osType", "osState", "endOfLifeDate", "identifier", "recommended", "disallowed", "hyperVGeneration", "features",
    "purchasePlan", "architecture", "privacyStatementUri", "eula",
)  # fmt: skip
DISCLAIMER = (
    "Images in a community gallery are its publisher's. Who runs this server has not checked them: use those of "
    "publishers that you trust."
)


def region_named(text: str) -> str:
    """A region's short name. Raises 400 for one that there is not."""
    region = find_region(text)
    if region is None:
        raise ArmError(
            "LocationNotAvailableForResourceType",
            f"The location '{text[:64]}' is unknown. List the regions by 'az account list-locations' and give one of "
            "them.",
            target="location",
        )
    return region.name


def view_gallery(published: PublishedGallery, region: str) -> dict[str, Any]:
    """A gallery."""
    properties: dict[str, Any] = {}
    if published.kind == COMMUNITY:
        info = published.gallery.properties["sharingProfile"]["communityGalleryInfo"]
        metadata = {name: info[name] for name in ("publisherUri", "publisherContact", "eula")}
        properties["communityMetadata"] = {**metadata, "publicNames": [published.name]}
    return _view(published, published.name, region, published.unique_id, "", properties)


def view_definition(published: PublishedGallery, definition: Resource, region: str) -> dict[str, Any]:
    """An image definition."""
    given = definition.properties
    properties = {name: given[name] for name in _DEFINITION if name in given}
    unique_id = f"{published.unique_id}/Images/{definition.id.name}"
    return _view(published, definition.id.name, region, unique_id, "/Images", properties)


def view_version(
    published: PublishedGallery, definition: Resource, version: Resource, region: str
) -> dict[str, Any]:
    """A version: when it was published and when it ends, and the sizes of its disks."""
    profile, storage = version.properties["publishingProfile"], version.properties["storageProfile"]
    properties = {
        "publishedDate": profile.get("publishedDate"),
        "endOfLifeDate": profile.get("endOfLifeDate"),
        "excludeFromLatest": profile["excludeFromLatest"],
        "storageProfile": {
            "osDiskImage": _view_disk(storage.get("osDiskImage", {})),
            "dataDiskImages": [
                {"lun": disk["lun"], **_view_disk(disk)} for disk in storage.get("dataDiskImages", [])
            ],
        },
    }
    unique_id = f"{published.unique_id}/Images/{definition.id.name}/Versions/{version.id.name}"
    return _view(published, version.id.name, region, unique_id, "/Images/Versions", properties)


def _view_disk(disk: dict[str, Any]) -> dict[str, Any]:
    return {"diskSizeGB": disk.get("sizeInGB"), "hostCaching": disk.get("hostCaching", "None")}


def _view(
    published: PublishedGallery,
    name: str,
    region: str,
    unique_id: str,
    kind: str,
    properties: dict[str, Any],
) -> dict[str, Any]:
    body: dict[str, Any] = {"name": name, "location": region, "identifier": {"uniqueId": unique_id}}
    if published.kind == COMMUNITY:
        body["type"] = f"{_TYPES}/{COMMUNITY}{kind}"
        properties = {**properties, "disclaimer": DISCLAIMER}
    return {**body, "properties": properties}


def definition_named(
    connection: Connection, published: PublishedGallery, name: str, region: str
) -> Resource | None:
    """An image definition that is seen in the region, or None."""
    found = resources.get(connection, published.gallery.id.child("images", name))
    return found if found is not None and visible.is_seen(connection, found, region) else None


def version_named(connection: Connection, definition: Resource, name: str, region: str) -> Resource | None:
    """A version that can be used in the region, or None."""
    found = resources.get(connection, definition.id.child("versions", name))
    return found if found is not None and visible.is_visible(connection, found, region) else None


def galleries(
    connection: Connection, found: Iterable[PublishedGallery], region: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those that are seen in the region, by what they are paged by."""
    for published in found:
        if region in visible.regions(connection, published.gallery):
            yield published.name.lower(), view_gallery(published, region)


def page(call: Call, path: str, entries: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The first of the entries (name, view), which come in the order of their names from `after` on."""
    size = paging.page_size(call)
    found = list(islice(entries, size + 1))
    body: dict[str, Any] = {"value": [view for _, view in found[:size]]}
    if len(found) > size:
        body["nextLink"] = paging.next_link(call, path, f"/{found[size - 1][0]}")
    return body


def after(call: Call) -> str:
    """The name with which the page before ended; empty on the first."""
    return paging.after(call).removeprefix("/")


def pages_of(call: Call, path: str, found: Iterable[Resource], view: Any) -> dict[str, Any]:
    """A page of definitions or versions."""
    last = after(call)
    entries = sorted((one.id.name.lower(), one) for one in found if one.id.name.lower() > last)
    return page(call, path, ((name, view(one)) for name, one in entries))


def not_found(unique_id: str, region: str) -> ArmError:
    """404 for what isn't there, or isn't shared: nobody can tell which."""
    return ArmError(
        "NotFound",
        f"'{unique_id[:400]}' is not found in location '{region}': it isn't there, or it is not shared with you. Check "
        "its name and the location, and ask its publisher.",
        status=404,
    )
