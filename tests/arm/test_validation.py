"""Validation of bodies against declarations; and errors, which survive a durable step."""

import pickle
from typing import Annotated, Any, Literal

import msgspec
import pytest

from opengallery.arm.errors import ArmError
from opengallery.arm.request_body import DEPTH_MAX, read_body
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import ANY_NAME, Properties, ResourceType, Sku, check_api_version
from opengallery.arm.resources import Resource
from opengallery.arm.templates.errors import TemplateError
from opengallery.arm.validation import merged, read_resource, without_nulls

ID = ResourceId("s", "g").child("Fruit.Garden/trees", "apple")


class Leaf(Properties):
    """An element of a list."""

    leaf_name: str
    is_green: bool = True


class Tree(Properties):
    """The properties of a tree."""

    height_m: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    kind: Literal["Apple", "Pear"] = "Apple"
    leaves: list[Leaf] = []
    note: str | None = None


TREE = ResourceType(
    "Fruit.Garden/trees",
    ("2024-01-01", "2020-01-01-preview"),
    Tree,
    envelope={"sku": Sku},
    immutable=frozenset({"kind"}),
    read_only=frozenset({"planted"}),
    verbatim=frozenset({"recipe"}),
)


def _read(body: dict[str, Any], old: Resource | None = None) -> Resource:
    new = Resource(ID)
    read_resource(TREE, new, old, body)
    return new


def _refusal(body: dict[str, Any], old: Resource | None = None) -> ArmError:
    with pytest.raises(ArmError) as refused:
        _read(body, old)
    return refused.value


def test_defaults_are_filled_in_and_unknown_members_kept() -> None:
    body = {"leaves": [{"leafName": "a", "colour": {"r": 1}}], "unknown": [1, None]}
    tree = _read({"location": "West US", "properties": body, "sku": {"name": "S", "family": "x"}})
    assert tree.location == "westus"
    assert tree.properties == {
        "heightM": 3,
        "kind": "Apple",
        "leaves": [{"leafName": "a", "isGreen": True, "colour": {"r": 1}}],
        "unknown": [1],
    }
    assert tree.extra == {"sku": {"name": "S", "family": "x"}}


def test_a_null_is_an_absence_except_where_it_is_a_value() -> None:
    recipe = {"sugar": None, "apples": [None, 1]}
    body = {"heightM": None, "leaves": None, "recipe": recipe}
    tree = _read({"location": "westus", "tags": {"a": None, "b": "c"}, "properties": body})
    assert tree.tags == {"b": "c"}
    assert tree.properties["recipe"] == recipe
    assert tree.properties["heightM"] == 3
    assert without_nulls([None, {"a": [None]}]) == [{"a": []}]


@pytest.mark.parametrize(
    ("body", "code", "target"),
    [
        ({"properties": {"heightM": 0}}, "InvalidParameter", "properties.heightM"),
        ({"properties": {"heightM": 101}}, "InvalidParameter", "properties.heightM"),
        ({"properties": {"heightM": "x"}}, "InvalidRequestContent", "properties.heightM"),
        ({"properties": {"heightM": 1.5}}, "InvalidRequestContent", "properties.heightM"),
        ({"properties": {"heightM": True}}, "InvalidRequestContent", "properties.heightM"),
        ({"properties": {"kind": "Plum"}}, "InvalidParameter", "properties.kind"),
        ({"properties": {"leaves": {}}}, "InvalidRequestContent", "properties.leaves"),
        ({"properties": {"leaves": [{}]}}, "InvalidRequestContent", "properties.leaves[0]"),
        ({"properties": []}, "InvalidRequestContent", "properties"),
        ({"properties": "x"}, "InvalidRequestContent", "properties"),
        ({"tags": []}, "InvalidRequestContent", "tags"),
        ({"tags": ""}, "InvalidRequestContent", "tags"),
        ({"tags": {"a": 1}}, "InvalidRequestContent", "tags"),
        ({"tags": {str(number): "" for number in range(51)}}, "InvalidTags", "tags"),
        ({"tags": {"a": "x" * 257}}, "InvalidTags", "tags"),
        ({"sku": "S"}, "InvalidRequestContent", "sku"),
        ({"sku": {"capacity": "many"}}, "InvalidRequestContent", "sku.capacity"),
        ({"location": None}, "LocationRequired", "location"),
        ({"location": ""}, "LocationRequired", "location"),
        ({"location": 5}, "InvalidRequestContent", "location"),
        ({"location": "atlantis"}, "LocationNotAvailableForResourceType", "location"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(body: dict[str, Any], code: str, target: str) -> None:
    refused = _refusal({"location": "westus", **body})
    assert (refused.status, refused.code, refused.target) == (400, code, target)
    assert refused.message.endswith(".")


def test_what_cannot_change_stays() -> None:
    old = _read({"location": "westus", "properties": {"kind": "Pear"}})
    old.properties["planted"] = "2020"
    for properties in ({}, {"kind": None}, {"kind": "Pear"}, {"planted": "2021"}):
        tree = _read({"location": "westus", "properties": properties}, old)
        assert (tree.properties["kind"], tree.properties["planted"]) == ("Pear", "2020")
    refused = _refusal({"location": "westus", "properties": {"kind": "Apple"}}, old)
    assert (refused.status, refused.code, refused.target) == (409, "PropertyChangeNotAllowed", "kind")
    refused = _refusal({"location": "eastus"}, old)
    assert (refused.status, refused.code) == (409, "InvalidResourceLocation")
    assert _read({}, old).location == "westus"


def test_merging_completes_and_never_drops() -> None:
    assert merged({"a": {"b": 1}, "c": [1]}, {"a": {"d": 2}, "c": [1], "e": 3}) == {
        "a": {"b": 1, "d": 2},
        "c": [1],
        "e": 3,
    }


@pytest.mark.parametrize("name", ["", " ", "a/b", "a?b", "a ", "a.", "x" * 261])
def test_a_name_that_no_resource_may_have_is_refused(name: str) -> None:
    with pytest.raises(ArmError) as refused:
        ANY_NAME.check(name, "Fruit.Garden/trees")
    assert (refused.value.status, refused.value.code) == (400, "InvalidResourceName")


@pytest.mark.parametrize(
    ("version", "code"),
    [
        (None, "MissingApiVersionParameter"),
        ("", "MissingApiVersionParameter"),
        ("latest", "InvalidApiVersionParameter"),
        ("2024-01-01-gamma", "InvalidApiVersionParameter"),
        ("2024-1-1", "InvalidApiVersionParameter"),
        ("2024-01-0\u0661", "InvalidApiVersionParameter"),
        ("2019-01-01", "NoRegisteredProviderFound"),
    ],
)
def test_a_wrong_api_version_is_refused_with_the_list(version: str | None, code: str) -> None:
    with pytest.raises(ArmError) as refused:
        check_api_version(TREE, version, "westus")
    assert (refused.value.status, refused.value.code) == (400, code)
    assert all(known in refused.value.message for known in TREE.api_versions)


def test_an_api_version_fits_in_any_case() -> None:
    check_api_version(TREE, "2020-01-01-PREVIEW", None)


@pytest.mark.parametrize(
    "error",
    [
        ArmError("C", "m", target="t", status=409, details=[ArmError("D", "n")], headers={"a": "b"}),
        TemplateError("m", "t", "C"),
    ],
)
def test_an_error_survives_a_durable_step(error: ArmError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.status, again.error(), str(again)) == (
        type(error),
        error.status,
        error.error(),
        "m",
    )


def test_an_error_can_be_raised_again_from_what_an_operation_keeps() -> None:
    error = ArmError("C", "m", target="t", details=[ArmError("D", "n", target="u")])
    assert ArmError.from_error(error.error()).error() == error.error()


NESTED = b'{"a":' * DEPTH_MAX + b"1" + b"}" * DEPTH_MAX


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'"x"',
        b"null",
        b"5",
        b"\xff\xfe\x00",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\u0000"}',
        b'{"\\u0000": 1}',
        b'{"a": ["\\ud800"]}',
        b'{"a": ' + b"9" * 5000 + b"}",
        NESTED,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    ],
)
@pytest.mark.parametrize("path", ["/x", "/providers/Microsoft.Resources/deployments/d"])
def test_a_body_that_is_no_object_that_can_be_kept_is_refused(content: bytes, path: str) -> None:
    with pytest.raises(ArmError) as refused:
        read_body(content, path)
    assert (refused.value.status, refused.value.code) == (400, "InvalidRequestContent")


def test_a_body_may_be_empty_and_nest_to_the_limit() -> None:
    assert read_body(b"", "/x") == read_body(b" \n", "/x") == {}
    assert read_body(NESTED[5:-1], "/x")
    assert read_body('{"a": "\U0001f600é"}'.encode(), "/x") == {"a": "\U0001f600é"}


def test_only_deployments_may_be_written_as_az_writes_them() -> None:
    written = b'{"properties": {template:{ /* why */ "a": [1,], // x\n }}}'
    deployment = "/subscriptions/s/resourcegroups/g/providers/microsoft.resources/Deployments/d"
    for path in (deployment, f"{deployment}/validate"):
        assert read_body(written, path) == {"properties": {"template": {"a": [1]}}}
    with pytest.raises(ArmError):
        read_body(written, "/subscriptions/s/resourcegroups/g/providers/Microsoft.Compute/galleries/d")
