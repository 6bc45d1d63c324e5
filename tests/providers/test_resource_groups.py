"""Resource groups: made, changed, and deleted with all that is in them."""

import threading
from typing import Any

import pytest
from sqlalchemy import select

from opengallery.arm import resources

from .conftest import Api
from .images import COMPUTE, definition, id_of, managed_image, version_body

NETWORK = "providers/Microsoft.Network"


def rows_below(api: Api, group: str) -> list[str]:
    """Keys of everything that the database has of a group."""
    key = id_of(api, group).lower()
    with api.services.database.read() as connection:
        found = connection.scalars(select(resources.resources.c.key)).all()
    return [one for one in found if one == key or one.startswith(f"{key}/")]


def network(api: Api, group: str, name: str = "net") -> str:
    """A virtual network with one subnet; the id of that."""
    path = f"{group}/{NETWORK}/virtualNetworks/{name}"
    properties = {
        "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
        "subnets": [{"name": "subnet", "properties": {"addressPrefix": "10.0.0.0/24"}}],
    }
    api.put(path, {"location": "westcentralus", "properties": properties})
    return f"{id_of(api, path)}/subnets/subnet"


def interface(api: Api, group: str, name: str, subnet: str, **properties: Any) -> Any:
    """A network interface."""
    configuration = {"name": "c", "properties": {"subnet": {"id": subnet}, **properties}}
    body = {"location": "westcentralus", "properties": {"ipConfigurations": [configuration]}}
    return api.put(f"{group}/{NETWORK}/networkInterfaces/{name}", body)


def test_a_group_is_made_changed_and_deleted(api: Api) -> None:
    path = "resourcegroups/Life"
    body = {"location": "West Central US", "tags": {"a": "b"}}
    answer = api.ask("PUT", path, body)
    assert answer.status_code == 201
    assert answer.json()["id"] == f"/subscriptions/{api.first.subscription_id}/resourceGroups/Life"
    assert (answer.json()["name"], answer.json()["location"]) == ("Life", "westcentralus")
    assert answer.json()["properties"]["provisioningState"] == "Succeeded"
    assert api.ask("PUT", path.lower(), body).status_code == 200
    assert api.ask("PATCH", path, {"tags": {"c": "d"}}).json()["tags"] == {"c": "d"}
    refused = api.refused("PUT", path, {"location": "westeurope"})
    assert refused[:2] == (409, "InvalidResourceGroupLocation")
    answer = api.ask("DELETE", path)
    assert answer.status_code == 202
    assert answer.headers["Location"] and answer.headers["Azure-AsyncOperation"]
    api.finish(answer)
    assert api.ask("HEAD", path).status_code == 404
    for method in ("GET", "DELETE"):
        assert api.refused(method, path)[:2] == (404, "ResourceGroupNotFound")
    result = api.ask("GET", answer.headers["Location"].removeprefix("https://testserver"))
    assert (result.status_code, result.content) == (204, b"")


@pytest.mark.parametrize("name", ["ends.", "sp ace", "x" * 91, "a&b", "%E2%82%AC"])
def test_a_name_that_a_group_may_not_have_is_refused(api: Api, name: str) -> None:
    assert api.refused("PUT", f"resourcegroups/{name}", {"location": "westus"})[:2] == (
        400,
        "InvalidResourceName",
    )


@pytest.mark.parametrize(("body", "code"), [
    ({}, "LocationRequired"),
    ({"location": "atlantis"}, "LocationNotAvailableForResourceType"),
    ({"location": ["westus"]}, "InvalidRequestContent"),
    ({"location": "westus", "managedBy": 5}, "InvalidRequestContent"),
])  # fmt: skip
def test_a_wrong_group_leaves_nothing_behind(api: Api, body: Any, code: str) -> None:
    assert api.refused("PUT", "resourcegroups/wrong", body)[:2] == (400, code)
    assert rows_below(api, "resourceGroups/wrong") == []


def test_deleting_a_group_deletes_all_in_it_in_the_order_of_their_needs(api: Api) -> None:
    group, beside = api.group("full"), api.group("full2")
    image = managed_image(api, group, "image", 3)
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, image, "westcentralus"))
    address = f"{group}/{NETWORK}/publicIPAddresses/ip"
    api.put(address, {"location": "westcentralus"})
    subnet = network(api, group)
    interface(api, group, "nic", subnet, publicIPAddress={"id": id_of(api, address)})
    api.put(f"{beside}/{COMPUTE}/galleries/other", {"location": "westus"})
    assert len(rows_below(api, group)) == 9
    api.delete(group)
    api.groups.remove("full")
    assert rows_below(api, group) == []
    assert api.get(f"{beside}/{COMPUTE}/galleries/other")
    assert api.ask("GET", f"{group}/{COMPUTE}/galleries/gallery").status_code == 404
    assert api.get("resources?$filter=resourceGroup eq 'full'")["value"] == []


def test_what_another_group_still_uses_stops_the_deletion_and_says_so(api: Api) -> None:
    used, user = api.group("used"), api.group("user")
    subnet = network(api, used)
    interface(api, user, "nic", subnet)
    api.put(f"{used}/{COMPUTE}/galleries/other", {"location": "westus"})
    ended = api.operation(api.ask("DELETE", used))
    assert (ended["status"], ended["error"]["code"]) == ("Failed", "ResourceGroupDeletionBlocked")
    assert "InUse" in ended["error"]["message"] or "in use" in ended["error"]["message"]
    assert api.get(used)["properties"]["provisioningState"] == "Failed"
    api.delete(f"{user}/{NETWORK}/networkInterfaces/nic")
    api.delete(used)
    api.groups.remove("used")
    assert rows_below(api, used) == []


def test_nothing_is_made_in_a_group_that_is_being_deleted(api: Api) -> None:
    group = api.group("going")
    path = f"{group}/{COMPUTE}/galleries/new"
    with api.services.database.write() as connection:
        resources.set_state(connection, id_of(api, group).lower(), resources.DELETING)
    assert api.refused("PUT", path, {"location": "westus"})[:2] == (409, "ResourceGroupBeingDeleted")
    assert api.ask("GET", path).status_code == 404


def test_of_many_who_make_the_same_one_does(api: Api) -> None:
    path = f"{api.group('race')}/{COMPUTE}/galleries/one"
    statuses: list[int] = []

    def make() -> None:
        statuses.append(api.ask("PUT", path, {"location": "westus"}, If_None_Match="*").status_code)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [412] * 7
