"""Lists: page by page, filtered, and of nothing but what the caller may read."""

import base64
from typing import Any

import pytest

from opengallery.arm import access

from ..providers.conftest import Api
from .conftest import Newcomer
from .galleries import COMPUTE, VERSION, definition_body, full_id, gallery

GALLERIES = "Microsoft.Compute/galleries"
NETWORK = "providers/Microsoft.Network"


def pages(api: Api, path: str) -> list[list[Any]]:
    """The names in each page of a list."""
    found = []
    url = api.url(path)
    while url:
        answer = api.ask("GET", url)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert set(body) <= {"value", "nextLink"}
        found.append([one["name"] for one in body["value"]])
        url = body.get("nextLink", "").removeprefix("https://testserver")
    return found


def names(api: Api, path: str) -> list[str]:
    """The names in all pages of a list, in order."""
    return sorted(name for page in pages(api, path) for name in page)


def test_a_list_comes_in_pages_of_five(api: Api) -> None:
    group = api.group("Pages(ä)")
    made = sorted(f"g{number}" for number in range(12))
    for name in made:
        gallery(api, group, name)
    path = f"{group}/{COMPUTE}/galleries"
    assert [len(page) for page in pages(api, path)] == [5, 5, 2]
    assert names(api, path) == made
    assert [len(page) for page in pages(api, f"{path}?$top=4")] == [4, 4, 4]
    assert [len(page) for page in pages(api, f"{path}?%24TOP=3")] == [3, 3, 3, 3]
    assert [len(page) for page in pages(api, f"{path}?$top=100")] == [5, 5, 2]
    assert names(api, f"{COMPUTE}/galleries") == made
    filtered = f"resources?$filter=resourceGroup eq 'pages(Ä)' and resourceType eq '{GALLERIES}'"
    assert [len(page) for page in pages(api, filtered)] == [5, 5, 2]


def test_nothing_follows_a_full_last_page(api: Api) -> None:
    group = api.group("full-pages")
    for number in range(5):
        gallery(api, group, f"g{number}")
    assert [len(page) for page in pages(api, f"{group}/{COMPUTE}/galleries")] == [5]


@pytest.mark.parametrize("top", ["0", "-1", "x", "", "1.5", "\u00b2", "9" * 5000])
def test_a_wrong_number_is_refused(api: Api, top: str) -> None:
    assert api.refused("GET", f"resourcegroups?$top={top}")[:2] == (400, "InvalidParameter")


@pytest.mark.parametrize(
    "token", ["!", "abc", "x" * 3, base64.b64encode(b"/a\0").decode(), "w6w=", "%00", "\u00e4"]
)
def test_a_wrong_token_is_refused(api: Api, token: str) -> None:
    assert api.refused("GET", f"resourcegroups?$skiptoken={token}")[:2] == (400, "InvalidSkipToken")


def test_a_list_is_of_a_group_or_a_subscription_or_a_parent(api: Api) -> None:
    first, second = api.group("lists-1"), api.group("lists-11")
    one, two = gallery(api, first, "one"), gallery(api, second, "two")
    api.put(f"{one}/images/a", definition_body())
    api.put(f"{two}/images/b", definition_body())
    assert pages(api, f"{first}/{COMPUTE}/galleries") == [["one"]]
    assert pages(api, f"{COMPUTE}/galleries") == [["one", "two"]]
    assert pages(api, f"{one}/images") == [["a"]]
    assert {"lists-1", "lists-11"} <= set(names(api, "resourcegroups"))
    other = f"/subscriptions/{api.first.second_subscription_id}"
    assert pages(api, f"{other}/{COMPUTE}/galleries?{VERSION}") == [[]]


def test_az_resource_list(api: Api) -> None:
    group = api.group("all")
    one = gallery(api, group, "one", tags={"Team": "Blue"})
    api.put(f"{one}/images/a", definition_body())
    api.put(f"{group}/{NETWORK}/networkSecurityGroups/nsg", {"location": "eastus"})
    gallery(api, api.group("beside"), "beside")

    def found(text: str) -> list[str]:
        return names(api, f"resources?$filter={text}")

    assert found("resourceGroup eq 'ALL'") == ["nsg", "one", "one/a"]
    assert found(f"resourceType eq '{GALLERIES.upper()}'") == ["beside", "one"]
    assert found(f"resourceGroup eq 'all' and resourceType eq '{GALLERIES}/images'") == ["one/a"]
    assert found("resourceGroup eq 'all' and name eq 'nsg'") == ["nsg"]
    assert found("location eq 'East US'") == ["nsg"]
    assert found("tagName eq 'team' and tagValue eq 'blue'") == ["one"]
    assert found("resourceGroup eq 'a'' and name eq ''b'") == []
    listed = api.get("resources?$filter=name eq 'one'&$expand=createdTime,changedTime,provisioningState")[
        "value"
    ]
    assert listed[0]["id"] == full_id(api, one)
    assert listed[0]["type"] == GALLERIES
    assert listed[0]["provisioningState"] == "Succeeded"
    assert listed[0]["createdTime"] <= listed[0]["changedTime"]
    assert "properties" not in listed[0]
    assert "createdTime" not in api.get("resources?$filter=name eq 'one'")["value"][0]


@pytest.mark.parametrize(
    "text", ["x", "name", "name eq one", "name ne 'x'", "colour eq 'x'", "name eq 'x' or name eq 'y'"]
)
def test_a_filter_that_is_none_is_refused(api: Api, text: str) -> None:
    assert api.refused("GET", f"resources?$filter={text}")[:2] == (400, "InvalidFilterInQueryString")


def test_a_list_holds_what_its_caller_may_read_and_tells_of_nothing_else(
    api: Api, newcomer: Newcomer
) -> None:
    mine, theirs = api.group("mine"), api.group("a-secret")
    for number in range(7):
        gallery(api, theirs, f"hidden{number}")
        gallery(api, mine, f"seen{number}")
    reader = newcomer((access.READER, full_id(api, mine)))
    seen = [f"seen{number}" for number in range(7)]
    for path in (f"{COMPUTE}/galleries", f"{mine}/{COMPUTE}/galleries", "resources"):
        assert pages(reader, path) == [seen[:5], seen[5:]]
    assert pages(reader, "resourcegroups") == [["mine"]]
    token = (
        reader.get(f"{COMPUTE}/galleries?$top=7&{VERSION}")["nextLink"].split("skiptoken=")[1].split("&")[0]
    )
    assert b"hidden" not in base64.urlsafe_b64decode(token.replace("%3D", "="))
    subscriptions = reader.get("/subscriptions?api-version=2022-12-01")["value"]
    assert [one["subscriptionId"] for one in subscriptions] == [api.first.subscription_id]


def test_who_may_read_one_gallery_is_shown_that_one(api: Api, newcomer: Newcomer) -> None:
    group = api.group("shared")
    one, _ = gallery(api, group, "one"), gallery(api, group, "two")
    api.put(f"{one}/images/a", definition_body())
    reader = newcomer((access.READER, full_id(api, one)))
    assert pages(reader, f"{COMPUTE}/galleries") == pages(reader, f"{group}/{COMPUTE}/galleries") == [["one"]]
    assert pages(reader, f"{one}/images") == [["a"]]
    assert reader.refused("GET", f"{group}/{COMPUTE}/galleries/two/images")[:2] == (
        403,
        "AuthorizationFailed",
    )
