"""az's form of a command line, and the small languages of its words."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opengallery.cli.arguments import (
    UNIT_SEPARATOR,
    change,
    parse_features,
    parse_tags,
    parse_target_regions,
    spread,
)
from opengallery.cli.failure import Misuse

WORDS = st.text(min_size=1).filter(lambda word: not word.startswith("-"))


def test_a_list_option_takes_all_words_up_to_the_next_option() -> None:
    line = ["--target-regions", "West Central US", "East US 2=1", "--replica-count", "5"]
    assert spread(line, {"--target-regions"}) == [
        "--target-regions",
        "West Central US",
        "--target-regions",
        "East US 2=1",
        "--replica-count",
        "5",
    ]


def test_negative_numbers_and_empty_words_are_values_not_options() -> None:
    assert spread(["--ids", "-1", "", "-g", "rg"], {"--ids"}) == ["--ids", "-1", "--ids", "", "-g", "rg"]


def test_words_of_add_stay_together() -> None:
    line = ["--add", "a.b", "x=1", "y=2", "--add", "c", "z"]
    assert spread(line, (), {"--add"}) == [
        "--add",
        UNIT_SEPARATOR.join(["a.b", "x=1", "y=2"]),
        "--add",
        UNIT_SEPARATOR.join(["c", "z"]),
    ]


@pytest.mark.parametrize(
    ("line", "value"),
    [(["--f"], "true"), (["--f", "false"], "false"), (["--f", "YES"], "true"), (["--f", "--g"], "true")],
)
def test_a_flag_stands_alone_or_takes_true_or_false(line: list[str], value: str) -> None:
    assert spread(line, (), (), {"--f"})[:2] == ["--f", value]


@given(st.lists(WORDS, min_size=1), st.lists(WORDS))
def test_no_word_is_lost_or_reordered(values: list[str], others: list[str]) -> None:
    spread_line = spread(["--many", *values, "--one", *others], {"--many"})
    assert [word for word in spread_line if word not in ("--many", "--one")] == values + others
    assert spread_line.count("--many") == len(values)


def test_target_regions_with_count_and_storage_type_in_any_order() -> None:
    assert parse_target_regions(
        ["West Central US", "eastus2=1", "westus=2=Standard_ZRS", "uksouth=Premium_LRS"]
    ) == [
        {"name": "West Central US"},
        {"name": "eastus2", "regionalReplicaCount": 1},
        {"name": "westus", "regionalReplicaCount": 2, "storageAccountType": "Standard_ZRS"},
        {"name": "uksouth", "storageAccountType": "Premium_LRS"},
    ]


@pytest.mark.parametrize("word", ["=1", "a=1=b=c", ""])
def test_a_malformed_target_region_is_refused(word: str) -> None:
    with pytest.raises(Misuse, match="--target-regions"):
        parse_target_regions([word])


def test_tags_with_and_without_values_and_the_empty_word() -> None:
    assert parse_tags(["a=1=2", "b"]) == {"a": "1=2", "b": ""}
    assert parse_tags([""]) == {}
    assert parse_tags(None) is None


def test_features_come_in_one_word_or_in_many() -> None:
    expected = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    assert parse_features(["A=1 B=2"]) == parse_features(["A=1", "B=2"]) == expected


def version() -> dict[str, Any]:
    return {"tags": {}, "properties": {"publishingProfile": {"targetRegions": [{"name": "westus"}]}}}


def test_set_add_and_remove_change_properties_and_tags() -> None:
    body = version()
    add = UNIT_SEPARATOR.join(["publishingProfile.targetRegions", "name=East US", "regionalReplicaCount=2"])
    change(body, ["publishingProfile.replicaCount=3", "tags.team=images"], [add])
    assert body["tags"] == {"team": "images"}
    assert body["properties"]["publishingProfile"] == {
        "replicaCount": 3,
        "targetRegions": [{"name": "westus"}, {"name": "East US", "regionalReplicaCount": 2}],
    }
    change(body, removes=[UNIT_SEPARATOR.join(["publishingProfile.targetRegions", "0"]), "tags.team"])
    assert body["properties"]["publishingProfile"]["targetRegions"] == [
        {"name": "East US", "regionalReplicaCount": 2}
    ]
    assert body["tags"] == {}


def test_set_reaches_into_lists() -> None:
    body = version()
    change(body, ["publishingProfile.targetRegions[0].regionalReplicaCount=4"])
    assert body["properties"]["publishingProfile"]["targetRegions"][0]["regionalReplicaCount"] == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {"sets": ["nothing"]},
        {"adds": ["publishingProfile.targetRegions"]},
        {"adds": [UNIT_SEPARATOR.join(["publishingProfile", "x"])]},
        {"removes": ["publishingProfile.absent"]},
        {"removes": [UNIT_SEPARATOR.join(["publishingProfile.targetRegions", "7"])]},
        {"sets": ["publishingProfile.targetRegions[9].name=x"]},
    ],
)
def test_a_path_that_leads_nowhere_is_refused(arguments: dict[str, list[str]]) -> None:
    with pytest.raises(Misuse):
        change(version(), **arguments)


@pytest.mark.parametrize(
    "word", ["West Europe=x", "a=1=b", "a=", "a=1=", "a=0", "a=Standard_LRS=1", "a=1=2", "a=\u0663"]
)
def test_a_target_region_with_neither_count_nor_type_is_refused_by_name(word: str) -> None:
    with pytest.raises(Misuse, match=f"--target-regions: '{word}'"):
        parse_target_regions([word])
    assert parse_target_regions(["a=2=premium_lrs"]) == [
        {"name": "a", "regionalReplicaCount": 2, "storageAccountType": "Premium_LRS"}
    ]
