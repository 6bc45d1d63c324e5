"""Regions: the public Azure regions, by which galleries, versions and machines name their place.

The facts stand in `regions.csv`, one physical region a row.
Source: `GET /subscriptions/{id}/locations`, api-version 2022-12-01.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Region:
    """One region. Latitude and longitude are decimal degrees as Azure writes them, in text."""

    name: str
    display_name: str
    geography: str
    geography_group: str
    latitude: str
    longitude: str
    physical_location: str
    category: str
    paired_region: str | None

    @property
    def regional_display_name(self) -> str:
        """The display name behind its group of geographies: `(US) West Central US`."""
        return f"({self.geography_group}) {self.display_name}"


def _read_regions() -> Mapping[str, Region]:
    table = resources.files("opengallery").joinpath("regions.csv").read_text(encoding="utf-8")
    regions = []
    for row in csv.DictReader(table.splitlines()):
        pair = row.pop("paired_region") or None
        regions.append(Region(**row, paired_region=pair))
    return MappingProxyType({region.name: region for region in regions})


REGIONS: Mapping[str, Region] = _read_regions()

PREVIEW_SOURCE_REGIONS = ("westcentralus", "southcentralus", "eastus2", "southeastasia", "westeurope")
"""Short names of the regions in which the preview let a gallery be created."""


def find_region(text: str) -> Region | None:
    """Return the region that a display name or short name means, in any case, with or without blanks."""
    return REGIONS.get("".join(text.split()).lower())
