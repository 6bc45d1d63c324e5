"""Shared galleries as those see them whom they are shared with.

`Microsoft.Compute/locations/sharedGalleries`: what is shared with a subscription or its tenant, for whoever has a role
in that subscription. `Microsoft.Compute/locations/communityGalleries`: what is shared with everyone, asked for in a
subscription of one's own. What isn't shared answers as what isn't there.
Source: Compute Gallery REST API, Shared Galleries and Community Galleries, api-version 2024-03-03.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Route
from opengallery.arm.resources import Resource
from opengallery.providers.compute import GALLERY_VERSIONS
from opengallery.providers.compute.sharing import catalog, shares, visible
from opengallery.providers.compute.sharing.shares import (
    COMMUNITY,
    SHARED,
    SUBSCRIPTIONS,
    TENANTS,
    Consumer,
    PublishedGallery,
)

_ROOT = "/subscriptions/{subscription}/providers/Microsoft.Compute/locations/{location}"
_BOTH = (SUBSCRIPTIONS, TENANTS)


@dataclass(frozen=True)
class _Request:
    """One request, and what its path names."""

    call: Call
    kind: str
    named: dict[str, str]

    @property
    def region(self) -> str:
        """The region in the path. Raises 400."""
        return catalog.region_named(self.named["location"])

    @property
    def consumer(self) -> Consumer:
        """Who asks."""
        return Consumer(self.named["subscription"], self.call.principal.tenant_id)

    def shared_to(self, default: tuple[str, ...]) -> tuple[str, ...]:
        """With whom it shall be shared: `sharedTo=tenant`, or `subscription`. Raises 400."""
        text = self.call.option("sharedto")
        if not text:
            return default
        if text.lower() not in ("tenant", "subscription"):
            raise invalid_parameter(
                "sharedTo",
                f"sharedTo is '{text[:64]}'. Give tenant, or leave it out for what is shared with the subscription.",
            )
        return (TENANTS,) if text.lower() == "tenant" else (SUBSCRIPTIONS,)

    def gallery(self) -> PublishedGallery:
        """The gallery in the path. Raises 404."""
        connection, name = self.call.connection, self.named["gallery"]
        if self.kind == COMMUNITY:
            found = shares.find_community(connection, name)
        else:
            found = shares.find_shared(connection, name, self.consumer, self.shared_to(_BOTH))
        if found is None or self.region not in visible.regions(connection, found.gallery):
            raise self.not_found()
        return found

    def definition(self, published: PublishedGallery) -> Resource:
        """The image definition in the path. Raises 404."""
        found = catalog.definition_named(self.call.connection, published, self.named["image"], self.region)
        if found is None:
            raise self.not_found()
        return found

    def not_found(self) -> ArmError:
        """404 for what the path names."""
        parts = zip(("", "Images/", "Versions/"), ("gallery", "image", "version"), strict=True)
        names = "/".join(f"{word}{self.named[name]}" for word, name in parts if name in self.named)
        return catalog.not_found(f"/{self.kind}/{names}", self.region)


def _list_galleries(asked: _Request, path: str) -> dict[str, Any]:
    kinds = asked.shared_to((SUBSCRIPTIONS,))
    found = shares.shared_after(asked.call.connection, asked.consumer, kinds, catalog.after(asked.call))
    return catalog.page(asked.call, path, catalog.galleries(asked.call.connection, found, asked.region))


def _show_gallery(asked: _Request, _path: str) -> dict[str, Any]:
    return catalog.view_gallery(asked.gallery(), asked.region)


def _list_images(asked: _Request, path: str) -> dict[str, Any]:
    published = asked.gallery()
    found = visible.definitions(asked.call.connection, published.gallery, asked.region)
    return catalog.pages_of(
        asked.call, path, found, lambda one: catalog.view_definition(published, one, asked.region)
    )


def _show_image(asked: _Request, _path: str) -> dict[str, Any]:
    published = asked.gallery()
    return catalog.view_definition(published, asked.definition(published), asked.region)


def _list_versions(asked: _Request, path: str) -> dict[str, Any]:
    published = asked.gallery()
    definition = asked.definition(published)
    found = visible.versions(asked.call.connection, definition, asked.region)
    return catalog.pages_of(
        asked.call, path, found, lambda one: catalog.view_version(published, definition, one, asked.region)
    )


def _show_version(asked: _Request, _path: str) -> dict[str, Any]:
    published = asked.gallery()
    definition = asked.definition(published)
    found = catalog.version_named(asked.call.connection, definition, asked.named["version"], asked.region)
    if found is None:
        raise asked.not_found()
    return catalog.view_version(published, definition, found, asked.region)


_VERBS = (
    ("", "", _list_galleries),
    ("/{gallery}", "", _show_gallery),
    ("/{gallery}/images", "/images", _list_images),
    ("/{gallery}/images/{image}", "/images", _show_image),
    ("/{gallery}/images/{image}/versions", "/images/versions", _list_versions),
    ("/{gallery}/images/{image}/versions/{version}", "/images/versions", _show_version),
)


def _routes(kind: str, collection: str) -> Iterator[Route]:
    for rest, below, show in _VERBS:
        if kind == COMMUNITY and not rest:
            continue  # az asks the resource graph (providers/resource_graph) for these
        path = f"{_ROOT}/{collection}{rest}"

        def run(
            call: Call, named: dict[str, str], _body: dict[str, Any], path: str = path, show: Any = show
        ) -> dict[str, Any]:
            found: dict[str, Any] = show(_Request(call, kind, named), path.format(**named))
            return found

        permission = f"Microsoft.Compute/locations/{collection}{below}/read"
        yield Route("GET", path, GALLERY_VERSIONS, permission, run, is_for_any_below=True)


ROUTES = (*_routes(SHARED, "sharedGalleries"), *_routes(COMMUNITY, "communityGalleries"))
