"""Galleries and image definitions."""

import threading
from typing import Any

import pytest

from .conftest import Api
from .images import COMPUTE, REGION, id_of


def body(offer: str = "offer", **properties: Any) -> dict[str, Any]:
    """The body of an image definition."""
    identifier = {"publisher": "Us", "offer": offer, "sku": "sku"}
    required = {"identifier": identifier, "osType": "Linux", "osState": "Generalized"}
    return {"location": REGION, "properties": {**required, **properties}}


@pytest.fixture
def gallery(api: Api) -> str:
    """A gallery in a group of its own; its path."""
    path = f"{api.group('galleries')}/{COMPUTE}/galleries/My.Gallery_1"
    api.put(path, {"location": REGION, "properties": {"description": "ours"}})
    return path


def test_a_gallery_shows_its_unique_name(api: Api, gallery: str) -> None:
    found = api.get(gallery)
    assert found["id"] == id_of(api, gallery)
    assert found["type"] == "Microsoft.Compute/galleries"
    assert found["location"] == REGION
    assert found["properties"]["description"] == "ours"
    assert found["properties"]["provisioningState"] == "Succeeded"
    assert found["properties"]["identifier"]["uniqueName"] == f"{api.first.subscription_id}-MY.GALLERY_1"
    sent = {
        "location": REGION,
        "properties": {"identifier": {"uniqueName": "mine"}, "provisioningState": "Failed"},
    }
    found = api.put(gallery, sent)
    assert found["properties"]["identifier"]["uniqueName"] != "mine"
    assert found["properties"]["provisioningState"] == "Succeeded"


def test_any_region_is_a_source_without_the_preview_profile(api: Api, gallery: str) -> None:
    other = gallery.replace("My.Gallery_1", "other")
    assert api.put(other, {"location": "Sweden Central"})["location"] == "swedencentral"


@pytest.mark.parametrize("name", ["my-gallery", "_a", "a_", ".a", "x" * 81, "a b", "gal%C3%A9rie"])
def test_a_name_that_a_gallery_may_not_have_is_refused(api: Api, name: str) -> None:
    path = f"{api.group('names')}/{COMPUTE}/galleries/{name}"
    assert api.refused("PUT", path, {"location": REGION})[:2] == (400, "InvalidResourceName")
    assert api.get("resources?$filter=resourceGroup eq 'names'")["value"] == []


def test_a_gallery_with_definitions_is_not_deleted(api: Api, gallery: str) -> None:
    definition = f"{gallery}/images/linux"
    api.put(definition, body())
    status, code, message = api.refused("DELETE", gallery)
    assert (status, code) == (409, "CannotDeleteResource")
    assert "nested resources" in message
    assert api.get(definition) and api.get(gallery)
    api.delete(definition)
    api.delete(gallery)
    assert api.ask("GET", gallery).status_code == 404
    assert api.ask("DELETE", gallery).status_code == 204


def test_a_definition_has_defaults(api: Api, gallery: str) -> None:
    created = api.put(f"{gallery}/images/linux", body(description="d", eula="e", unknown={"x": 1}))
    assert created["type"] == "Microsoft.Compute/galleries/images"
    properties = created["properties"]
    assert (properties["hyperVGeneration"], properties["architecture"]) == ("V1", "x64")
    assert properties["unknown"] == {"x": 1}


def test_the_nature_of_a_definition_cannot_change(api: Api, gallery: str) -> None:
    path = f"{gallery}/images/linux"
    api.put(path, body(hyperVGeneration="V2", architecture="Arm64"))
    before = api.get(path)["etag"]
    identifier = {"publisher": "Us", "offer": "offer", "sku": "another"}
    for name, value in (
        ("osType", "Windows"),
        ("osState", "Specialized"),
        ("hyperVGeneration", "V1"),
        ("architecture", "x64"),
        ("identifier", identifier),
    ):
        for method in ("PUT", "PATCH"):
            sent = {**body(hyperVGeneration="V2", architecture="Arm64")["properties"], name: value}
            status, code, message = api.refused(method, path, {"location": REGION, "properties": sent})
            assert (status, code) == (409, "PropertyChangeNotAllowed")
            assert name in message
    assert api.get(path)["etag"] == before
    kept = api.put(path, body(description="new"))["properties"]
    assert (kept["hyperVGeneration"], kept["architecture"], kept["description"]) == ("V2", "Arm64", "new")


def test_two_definitions_of_a_gallery_have_different_identifiers(api: Api, gallery: str) -> None:
    api.put(f"{gallery}/images/one", body())
    twin = body()
    twin["properties"]["identifier"] = {"publisher": "US", "offer": "Offer", "sku": "SKU"}
    status, code, message = api.refused("PUT", f"{gallery}/images/two", twin)
    assert (status, code) == (409, "Conflict")
    assert "'one'" in message
    assert api.ask("GET", f"{gallery}/images/two").status_code == 404
    api.put(f"{gallery}/images/one", body(description="again"))
    other = gallery.replace("My.Gallery_1", "other")
    api.put(other, {"location": REGION})
    api.put(f"{other}/images/two", twin)
    api.delete(f"{gallery}/images/one")
    api.put(f"{gallery}/images/two", twin)


def test_of_many_twins_at_once_one_is_made(api: Api, gallery: str) -> None:
    statuses: list[int] = []

    def make(number: int) -> None:
        statuses.append(api.ask("PUT", f"{gallery}/images/twin{number}", body()).status_code)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [409] * 5


@pytest.mark.parametrize(
    ("changes", "target"),
    [
        ({"osType": "BeOS"}, "properties.osType"),
        ({"osType": None}, "properties"),
        ({"osState": 1}, "properties.osState"),
        ({"identifier": "x"}, "properties.identifier"),
        ({"identifier": {"publisher": "p", "offer": "o"}}, "properties.identifier"),
        ({"identifier": {"publisher": "p", "offer": "o", "sku": ""}}, "properties.identifier.sku"),
        (
            {"identifier": {"publisher": "p" * 129, "offer": "o", "sku": "s"}},
            "properties.identifier.publisher",
        ),
        ({"hyperVGeneration": "V3"}, "properties.hyperVGeneration"),
        ({"features": {}}, "properties.features"),
        ({"recommended": []}, "properties.recommended"),
    ],
)
def test_a_wrong_definition_leaves_nothing_behind(
    api: Api, gallery: str, changes: dict[str, Any], target: str
) -> None:
    path = f"{gallery}/images/linux"
    answer = api.ask("PUT", path, body(**changes))
    assert (answer.status_code, answer.json()["error"]["target"]) == (400, target)
    assert api.ask("GET", path).status_code == 404
    assert api.get(f"{gallery}/images")["value"] == []


@pytest.mark.parametrize(
    "properties",
    [
        {"sharingProfile": "x"},
        {"sharingProfile": {"permissions": "Everybody"}},
        {"sharingProfile": {"communityGalleryInfo": "x"}},
        {"softDeletePolicy": {"isSoftDeleteEnabled": "yes"}},
        {"descriptoin": "x"},
    ],
)
def test_a_gallery_with_wrong_properties_is_refused(api: Api, properties: Any) -> None:
    path = f"{api.group('wrong')}/providers/Microsoft.Compute/galleries/one"
    body = {"location": "westcentralus", "properties": properties}
    assert api.refused("PUT", path, body)[0] == 400
    assert api.ask("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("properties", "status"),
    [
        ({"recommended": {"vCPUs": {"min": "x"}}}, 400),
        ({"recommended": {"vCPUs": {"min": 0}}}, 400),
        ({"recommended": {"memory": {"min": 4, "max": 2}}}, 400),
        ({"disallowed": {"diskTypes": "x"}}, 400),
        ({"features": [{"name": "x"}]}, 400),
        ({"purchasePlan": {"name": 1}}, 400),
        ({"endOfLifeDate": "soon"}, 400),
        ({"endOfLifeDate": "0001-01-01T00:00:00+05:00"}, 400),
        ({"endOfLifeDate": "2030-12-31", "recommended": {"vCPUs": {"min": 1, "max": 2}}}, 201),
    ],
)
def test_nested_properties_of_a_definition(api: Api, properties: Any, status: int) -> None:
    gallery = f"{api.group('nested')}/providers/Microsoft.Compute/galleries/one"
    api.put(
        gallery, {"location": "westcentralus", "properties": {"sharingProfile": {"permissions": "Groups"}}}
    )
    identifier = {"publisher": "us", "offer": "o", "sku": "s"}
    fixed = {"osType": "Linux", "osState": "Generalized", "identifier": identifier}
    body = {"location": "westcentralus", "properties": {**fixed, **properties}}
    answer = api.ask("PUT", f"{gallery}/images/one", body)
    assert answer.status_code == status, answer.text
    if status == 201:
        assert answer.json()["properties"]["endOfLifeDate"] == "2030-12-31T00:00:00+00:00"
