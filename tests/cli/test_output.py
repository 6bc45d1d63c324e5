"""The form in which resources are shown."""

import json
from typing import Any

import pytest

from opengallery.cli.output import Output, emit, flatten, pick, with_resource_group

GROUP = "/subscriptions/s/resourceGroups/myRG"
GALLERY = {
    "id": f"{GROUP}/providers/Microsoft.Compute/galleries/g",
    "name": "g",
    "location": "westus",
    "properties": {"provisioningState": "Succeeded", "identifier": {"uniqueName": "u"}},
}


def test_properties_are_lifted_to_the_top() -> None:
    assert flatten(GALLERY) == {
        "id": GALLERY["id"],
        "name": "g",
        "location": "westus",
        "provisioningState": "Succeeded",
        "identifier": {"uniqueName": "u"},
    }


def test_the_top_wins_over_properties_of_the_same_name() -> None:
    assert flatten({"name": "top", "properties": {"name": "inner"}}) == {"name": "top"}


def test_resources_inside_resources_are_flat_too() -> None:
    nested = {"id": "x", "properties": {"nics": [{"id": "y", "properties": {"primary": True}}]}}
    assert flatten(nested) == {"nics": [{"id": "y", "primary": True}], "id": "x"}


def test_properties_of_what_is_no_resource_stay() -> None:
    assert flatten({"properties": {"a": 1}}) == {"properties": {"a": 1}}


def test_everything_with_an_id_in_a_group_gets_its_group() -> None:
    shown = with_resource_group({"id": GALLERY["id"], "source": {"id": GROUP + "/x"}, "other": {"id": "7"}})
    assert shown["resourceGroup"] == shown["source"]["resourceGroup"] == "myRG"
    assert "resourceGroup" not in shown["other"]


def test_pick_follows_dots_and_collects_from_lists() -> None:
    value = {"a": {"b": [{"c": 1}, {"c": 2}, {}]}}
    assert pick(value, "a.b[].c") == [1, 2, None]
    assert pick(value, "a.x.y") is None
    assert pick(value, "x[].c") == []


def printed(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    emit(*arguments)
    return capsys.readouterr().out


def test_json_keeps_the_servers_order(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, {"z": 1, "a": "ü"}, Output.JSON)
    assert text == '{\n  "z": 1,\n  "a": "ü"\n}\n'


def test_a_table_has_the_declared_columns_in_full_width(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "short", "n": 1}, {"name": "x" * 200, "n": None}]
    lines = printed(capsys, rows, Output.TABLE, {"Name": "name", "N": "n"}).splitlines()
    assert lines[0].split() == ["Name", "N"]
    assert set(lines[1]) == {"-", " "}
    assert lines[2].split() == ["short", "1"]
    assert lines[3] == "x" * 200


def test_tsv_is_the_table_without_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a\tb", "regions": ["x", "y"], "good": True}]
    columns = {"Name": "name", "Regions": "regions", "Good": "good"}
    assert printed(capsys, rows, Output.TSV, columns) == "a b\tx, y\ttrue\n"


def test_an_undeclared_table_shows_the_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, {"id": "i", "accessSas": "url", "list": [1]}, Output.TABLE)
    assert text.splitlines()[0] == "AccessSas"


def test_an_empty_table_and_none_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, [], Output.TABLE, {"Name": "name"}) == ""
    assert printed(capsys, {"a": 1}, Output.NONE) == ""


def test_a_bare_value_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(printed(capsys, True, Output.JSON)) is True
