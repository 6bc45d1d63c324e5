"""Regions: names as people write them, and the table's own consistency."""

import re

import pytest

from opengallery.regions import PREVIEW_SOURCE_REGIONS, REGIONS, find_region


@pytest.mark.parametrize(
    "text", ["West Central US", "westcentralus", "WESTCENTRALUS", "west  central us", " West Central US "]
)
def test_a_region_is_found_by_any_way_to_write_it(text: str) -> None:
    region = find_region(text)
    assert region is not None
    assert (region.name, region.display_name) == ("westcentralus", "West Central US")
    assert region.regional_display_name == "(US) West Central US"


@pytest.mark.parametrize("text", ["", "west", "westcentralus2", "West-Central-US", "../westeurope", "global"])
def test_what_is_no_region_is_not_found(text: str) -> None:
    assert find_region(text) is None


def test_every_display_name_leads_to_its_own_short_name() -> None:
    assert len(REGIONS) >= 55
    for name, region in REGIONS.items():
        assert find_region(region.display_name) is region
        assert re.fullmatch(r"[a-z]+[0-9]?", name)
        assert name == region.display_name.replace(" ", "").lower()


def test_pairs_are_regions_of_the_table() -> None:
    for region in REGIONS.values():
        assert region.paired_region is None or region.paired_region in REGIONS
        assert region.paired_region != region.name


def test_coordinates_are_on_the_globe() -> None:
    for region in REGIONS.values():
        assert -60 < float(region.latitude) < 70
        assert -180 <= float(region.longitude) <= 180
        assert region.geography and region.physical_location and region.category in ("Recommended", "Other")


def test_the_preview_had_five_source_regions() -> None:
    assert [REGIONS[name].display_name for name in PREVIEW_SOURCE_REGIONS] == [
        "West Central US",
        "South Central US",
        "East US 2",
        "Southeast Asia",
        "West Europe",
    ]
