"""Queries of the resource graph: `communitygalleryresources`, as `az sig list-community` asks for them.

Everyone who is signed in may ask, of whatever tenant: what is listed is public. There is no language of queries here:
the text has to be az's, with a location or without.
Source: Azure Resource Graph REST API, Resources, api-version 2021-03-01.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from msgspec import Meta, field

from opengallery.arm import paging
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties, Route
from opengallery.arm.validation import converted, without_nulls
from opengallery.providers.compute.sharing import catalog, shares, visible

_VERSIONS = ("2024-04-01", "2022-10-01", "2021-03-01", "2020-04-01-preview", "2019-04-01")
_TYPE = "microsoft.compute/locations/communitygalleries"
_QUERY = re.compile(
    rf"\s*communitygalleryresources\s*\|\s*where\s+type\s*==\s*'{_TYPE}'\s*"
    r"(\|\s*where\s+location\s*==\s*'(?P<location>[A-Za-z0-9]{1,64})'\s*)?",
    re.IGNORECASE,
)
_PAGE_MAX = 1000


class QueryOptions(Properties):
    """How long a page is, and where it begins."""

    top: Annotated[int, Meta(ge=1, le=_PAGE_MAX)] = field(name="$top", default=100)
    skip_token: Annotated[str, Meta(max_length=1024)] | None = field(name="$skipToken", default=None)


class Query(Properties):
    """A query's text and options."""

    query: Annotated[str, Meta(max_length=4096)]
    options: QueryOptions = field(default_factory=QueryOptions)


def _run(call: Call, _parameters: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    sent = converted(without_nulls(body), Query, "body")
    asked = _QUERY.fullmatch(sent.query)
    if asked is None:
        raise ArmError(
            "InvalidQuery",
            "This server answers one query only, that of 'az sig list-community': communitygalleryresources | where "
            f"type == '{_TYPE}' | where location == 'REGION'. Its last part may be left out.",
            target="query",
        )
    location = asked["location"].lower() if asked["location"] else None
    last = paging.read_token(sent.options.skip_token).removeprefix("/")
    found = list(islice(_entries(call, location, last), sent.options.top + 1))
    shown = found[: sent.options.top]
    answer: dict[str, Any] = {
        "totalRecords": len(shown),
        "count": len(shown),
        "data": [view for _, view in shown],
        "facets": [],
        "resultTruncated": "false",
    }
    if len(found) > len(shown):
        answer["$skipToken"] = paging.token(f"/{shown[-1][0]}")
    return answer


def _entries(call: Call, location: str | None, last: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A community gallery in each region where it is seen; those after the one with the key `last`."""
    for published in shares.community_from(call.connection, last.partition("/")[0]):
        for region in visible.regions(call.connection, published.gallery):
            key = f"{published.name.lower()}/{region}"
            if key > last and location in (None, region):
                place = f"/providers/Microsoft.Compute/locations/{region}/communityGalleries"
                view = catalog.view_gallery(published, region)
                properties = {**view["properties"], "identifier": view["identifier"]}
                yield (
                    key,
                    {
                        "id": f"{place}/{published.name}",
                        "name": published.name,
                        "type": _TYPE,
                        "location": region,
                        "properties": properties,
                    },
                )


ROUTES = (Route("POST", "/providers/Microsoft.ResourceGraph/resources", _VERSIONS, None, _run),)
