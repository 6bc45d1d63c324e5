"""Direct sharing: who shares a gallery with whom, and what these see of it."""

import uuid
from typing import Any

import pytest
from sqlalchemy import event

from opengallery.arm import access
from opengallery.providers.compute.sharing import shares

from .conftest import Api
from .images import COMPUTE, REGION, id_of
from .principals import People
from .shared import (
    ELSEWHERE,
    EXPANDED,
    GROUP,
    GROUPS_PROFILE,
    catalog,
    gallery,
    image_id,
    neighbour,
    people,
    published,
    share,
    shared_with,
    stranger,
    theirs,
    unique,
    update,
)

__all__ = ["gallery", "neighbour", "people", "published", "stranger", "theirs"]


def test_a_gallery_shows_whom_it_is_shared_with_to_who_asks(api: Api, gallery: str) -> None:
    second, tenant = api.first.second_subscription_id, str(uuid.uuid4())
    assert api.get(gallery)["properties"]["sharingProfile"] == {"permissions": "Groups"}
    answer = api.ask("POST", f"{gallery}/share", update(Subscriptions=[second.upper(), second]))
    assert answer.status_code == 202
    api.finish(answer)
    done = share(api, AADTenants=[tenant])
    assert done == {"operationType": "Add", "groups": [{"type": "AADTenants", "ids": [tenant]}]}
    wanted = [{"type": "Subscriptions", "ids": [second]}, {"type": "AADTenants", "ids": [tenant]}]
    selected = api.get(f"{gallery}?$select=Permissions")["properties"]
    assert selected["sharingProfile"] == {"permissions": "Groups", "groups": wanted}
    assert selected["provisioningState"] == "Succeeded"
    assert "sharingStatus" not in selected
    expanded = api.get(f"{gallery}{EXPANDED}")["properties"]
    assert expanded["sharingProfile"]["groups"] == wanted
    assert expanded["sharingStatus"]["aggregatedState"] == "Succeeded"
    regions = [entry["region"] for entry in expanded["sharingStatus"]["summary"]]
    assert sorted(regions) == ["West Central US", "West Europe"]
    assert "groups" not in api.get(gallery)["properties"]["sharingProfile"]

    share(api, "Remove", Subscriptions=[second, str(uuid.uuid4())])
    profile = api.get(f"{gallery}?$select=Permissions")["properties"]["sharingProfile"]
    assert profile["groups"] == wanted[1:]
    assert api.act(f"{gallery}/share", {"operationType": "Reset", "groups": []})["operationType"] == "Reset"
    profile = api.get(f"{gallery}?$select=Permissions")["properties"]["sharingProfile"]
    assert profile == {"permissions": "Private"}


def test_writing_a_gallery_changes_nothing_of_its_shares(api: Api, gallery: str) -> None:
    share(api, Subscriptions=[api.first.second_subscription_id])
    read = api.get(f"{gallery}{EXPANDED}")
    read["properties"]["sharingProfile"]["groups"][0]["ids"] = [str(uuid.uuid4())]
    api.put(gallery, read)
    api.put(gallery, {"location": REGION, "properties": {"description": "new"}})
    profile = api.get(f"{gallery}{EXPANDED}")["properties"]["sharingProfile"]
    assert profile["groups"][0]["ids"] == [api.first.second_subscription_id]
    for given in ("Private", "Community"):
        info = {"publisherUri": "https://us.example", "publisherContact": "us@us.example"}
        info |= {"eula": "ours", "publicNamePrefix": "prefix"}
        body = {"permissions": given, "communityGalleryInfo": info}
        refusal = api.refused("PUT", gallery, {"location": REGION, "properties": {"sharingProfile": body}})
        assert refusal[:2] == (409, "OperationNotAllowed")
        assert "az sig share reset" in refusal[2]


def test_only_who_may_share_shares(api: Api, people: People, gallery: str) -> None:
    scope = id_of(api, gallery)
    body = update(Subscriptions=[api.first.second_subscription_id])
    for role in (access.READER, access.CONTRIBUTOR):
        person = people.person(api.first.subscription_id, (role, scope))
        status, code, message = person.refused("POST", f"{gallery}/share", body)
        assert (status, code) == (403, "AuthorizationFailed")
        assert "Microsoft.Compute/galleries/share/action" in message
        assert person.get(gallery)["name"] == "gallery"
    nobody = people.person(api.first.subscription_id)
    missing = gallery.replace("/gallery", "/missing")
    for path in (gallery, missing):
        assert nobody.refused("POST", f"{path}/share", body)[:2] == (403, "AuthorizationFailed")
    assert shared_with(api) == []
    owner = people.person(api.first.subscription_id, (access.OWNER, scope))
    share(owner, Subscriptions=[api.first.second_subscription_id])


def ids(count: int) -> list[str]:
    return [str(uuid.uuid4()) for _ in range(count)]


@pytest.mark.parametrize(
    "body",
    [
        update(Subscriptions=ids(31)),
        update(Subscriptions=ids(101)),
        update(AADTenants=ids(6)),
        update(Subscriptions=["not-a-guid"]),
        update(Subscriptions=["00000000-0000-0000-0000-00000000000\0"]),
        update(AADTenants=[f"{uuid.uuid4()} "]),
        update(ManagementGroups=ids(1)),
        update(Subscriptions=[]),
        update("Remove"),
        update("Add"),
        update("Reset", Subscriptions=ids(1)),
        update("Own", Subscriptions=ids(1)),
        {"groups": []},
        {"operationType": "Add", "groups": "x"},
        {"operationType": "Add", "groups": [{"type": "Subscriptions"}]},
        {},
    ],
    ids=str,
)
def test_an_impossible_share_is_refused(api: Api, gallery: str, body: Any) -> None:
    status, _, message = api.refused("POST", f"{gallery}/share", body)
    assert status == 400 and message
    assert shared_with(api) == []


def test_a_gallery_is_shared_with_so_many_and_no_more(api: Api, gallery: str) -> None:
    many = ids(30)
    share(api, Subscriptions=many, AADTenants=ids(5))
    for kind, word in (("Subscriptions", "31 subscriptions"), ("AADTenants", "6 tenants")):
        status, code, message = api.refused("POST", f"{gallery}/share", update(**{kind: ids(1)}))
        assert (status, code) == (400, "InvalidParameter")
        assert word in message
    share(api, Subscriptions=many[:1])
    share(api, "Remove", Subscriptions=many[:1])
    share(api, Subscriptions=ids(1))


def test_how_a_gallery_is_shared_is_how_it_may_be(api: Api) -> None:
    path = f"{api.group('private')}/{COMPUTE}/galleries/mine"
    api.put(path, {"location": REGION})
    assert "sharingProfile" not in api.get(path)["properties"]
    profile = api.get(f"{path}?$select=Permissions")["properties"]["sharingProfile"]
    assert profile == {"permissions": "Private"}
    for verb in ("Add", "EnableCommunity"):
        body = update(verb, Subscriptions=ids(1)) if verb == "Add" else {"operationType": verb}
        status, code, message = api.refused("POST", f"{path}/share", body)
        assert (status, code) == (409, "OperationNotAllowed")
        assert "'Private'" in message and "az sig update --permissions" in message
    api.put(path, GROUPS_PROFILE)
    assert api.refused("POST", f"{path}/share", {"operationType": "EnableCommunity"})[0] == 409
    share(api, gallery=path, Subscriptions=ids(1))
    share(api, "Reset", gallery=path)


def test_whom_it_is_not_shared_with_sees_nothing(
    api: Api, gallery: str, neighbour: Api, stranger: Api, theirs: Any
) -> None:
    share(api, Subscriptions=ids(1), AADTenants=ids(1))
    name, absent = unique(api), unique(api, "absent")
    for consumer in (neighbour, stranger, api):
        for shared_to in ("", "&sharedTo=tenant"):
            assert consumer.get(catalog(REGION) + shared_to) == {"value": []}
        for rest in (
            "",
            "/images",
            "/images/linux",
            "/images/linux/versions",
            "/images/linux/versions/1.0.0",
        ):
            real = consumer.ask("GET", catalog(REGION, f"/{name}{rest}"))
            missing = consumer.ask("GET", catalog(REGION, f"/{absent}{rest}"))
            assert real.status_code == missing.status_code == 404
            assert real.text.replace(name, absent) == missing.text


def test_a_subscription_sees_what_is_shared_with_it(
    api: Api, gallery: str, neighbour: Api, stranger: Api
) -> None:
    share(api, Subscriptions=[neighbour.first.subscription_id])
    (shown,) = neighbour.get(catalog(REGION))["value"]
    assert shown["name"] == unique(api)
    assert shown["identifier"] == {"uniqueId": f"/SharedGalleries/{unique(api)}"}
    assert neighbour.get(catalog(REGION, f"/{unique(api).lower()}")) == shown
    assert neighbour.get(catalog("West Europe", f"/{unique(api)}"))["location"] == ELSEWHERE
    assert neighbour.get(catalog("japaneast")) == {"value": []}
    assert neighbour.ask("GET", catalog("japaneast", f"/{unique(api)}")).status_code == 404
    assert neighbour.refused("GET", catalog("atlantis"))[0] == 400
    assert neighbour.get(catalog(REGION) + "&sharedTo=tenant") == {"value": []}
    assert neighbour.ask("GET", catalog(REGION, f"/{unique(api)}") + "&sharedTo=tenant").status_code == 404
    assert neighbour.refused("GET", catalog(REGION) + "&sharedTo=all")[0] == 400
    assert stranger.get(catalog(REGION)) == {"value": []}

    (image,) = neighbour.get(catalog(REGION, f"/{unique(api)}/images"))["value"]
    assert image["identifier"]["uniqueId"] == f"/SharedGalleries/{unique(api)}/Images/linux"
    assert image["properties"]["osType"] == "Linux"
    assert image["properties"]["identifier"] == {"publisher": "us", "offer": "linux", "sku": "V1"}
    assert neighbour.get(catalog(REGION, f"/{unique(api)}/images/LINUX")) == image
    versions = neighbour.get(catalog(REGION, f"/{unique(api)}/images/linux/versions"))["value"]
    assert [version["name"] for version in versions] == ["1.0.0", "2.0.0"]
    assert [version["properties"]["excludeFromLatest"] for version in versions] == [False, True]
    one = neighbour.get(catalog(REGION, f"/{unique(api)}/images/linux/versions/1.0.0"))
    assert one == versions[0]
    assert one["identifier"]["uniqueId"] == image_id(api, "1.0.0")
    assert one["properties"]["storageProfile"]["osDiskImage"]["diskSizeGB"] == 1
    versions = neighbour.get(catalog(ELSEWHERE, f"/{unique(api)}/images/linux/versions"))["value"]
    assert [version["name"] for version in versions] == ["1.0.0", "3.0.0"]
    missing = neighbour.ask("GET", catalog(REGION, f"/{unique(api)}/images/linux/versions/3.0.0"))
    assert missing.status_code == 404
    for answer in (str(shown), str(image), str(versions), missing.text):
        assert GROUP not in answer.lower()


def test_a_role_in_the_subscription_is_needed_to_see_them(api: Api, people: People, gallery: str) -> None:
    second = api.first.second_subscription_id
    share(api, Subscriptions=[second])
    nobody = people.person(second)
    for subscription in (second, str(uuid.uuid4())):
        for rest in ("", f"/{unique(api)}", f"/{unique(api)}/images/linux/versions/1.0.0"):
            path = f"/subscriptions/{subscription}/{catalog(REGION, rest)}"
            assert nobody.refused("GET", path)[:2] == (403, "AuthorizationFailed")
    some = people.person(second, (access.CONTRIBUTOR, f"/subscriptions/{second}/resourcegroups/any"))
    assert [found["name"] for found in some.get(catalog(REGION))["value"]] == [unique(api)]


def test_a_tenant_sees_what_is_shared_with_it(
    api: Api, people: People, gallery: str, neighbour: Api, stranger: Api, theirs: Any
) -> None:
    share(api, AADTenants=[theirs[0]])
    assert stranger.get(catalog(REGION)) == {"value": []}
    (shown,) = stranger.get(catalog(REGION) + "&sharedTo=tenant")["value"]
    assert shown["name"] == unique(api)
    for rest in ("", "/images", "/images/linux", "/images/linux/versions/1.0.0"):
        assert stranger.get(catalog(REGION, f"/{unique(api)}{rest}"))
        assert stranger.get(catalog(REGION, f"/{unique(api)}{rest}") + "&sharedTo=tenant")
        assert neighbour.ask("GET", catalog(REGION, f"/{unique(api)}{rest}")).status_code == 404
    foreign = f"/subscriptions/{api.first.subscription_id}/{catalog(REGION, f'/{unique(api)}')}"
    assert stranger.refused("GET", foreign)[0] in (403, 404)


def test_a_list_of_shared_galleries_comes_in_pages(api: Api, neighbour: Api) -> None:
    group = api.group("many")
    for number in range(7):
        path = f"{group}/{COMPUTE}/galleries/many{number}"
        api.put(path, GROUPS_PROFILE)
        share(api, gallery=path, Subscriptions=[neighbour.first.subscription_id])
    found, page = [], neighbour.get(catalog(REGION))
    assert len(page["value"]) == 5
    while True:
        found += [one["name"] for one in page["value"]]
        if "nextLink" not in page:
            break
        page = neighbour.get(page["nextLink"].split("testserver")[1])
    assert found == [unique(api, f"many{number}") for number in range(7)]
    for number in range(7):
        share(api, "Reset", gallery=f"{group}/{COMPUTE}/galleries/many{number}")


def test_a_shared_gallery_is_not_deleted(api: Api, neighbour: Api) -> None:
    group = api.group("doomed")
    path = f"{group}/{COMPUTE}/galleries/doomed"
    api.put(path, GROUPS_PROFILE)
    share(api, gallery=path, Subscriptions=[neighbour.first.subscription_id])
    status, code, message = api.refused("DELETE", path)
    assert (status, code) == (409, "OperationNotAllowed")
    assert "az sig share reset --resource-group doomed --gallery-name doomed" in message
    operation = api.operation(api.ask("DELETE", group))
    assert operation["status"] == "Failed" and "az sig share reset" in operation["error"]["message"]
    assert neighbour.get(catalog(REGION, f"/{unique(api, 'doomed')}"))
    share(api, "Remove", gallery=path, Subscriptions=[neighbour.first.subscription_id])
    api.delete(path)
    assert neighbour.get(catalog(REGION)) == {"value": []}


def test_of_two_galleries_with_a_name_one_is_shared(api: Api) -> None:
    paths = [f"{api.group(name)}/{COMPUTE}/galleries/Twin" for name in ("one", "two")]
    for path in paths:
        api.put(path, GROUPS_PROFILE)
    share(api, gallery=paths[0], Subscriptions=ids(1))
    status, code, message = api.refused("POST", f"{paths[1]}/share", update(Subscriptions=ids(1)))
    assert (status, code) == (409, "Conflict") and unique(api, "twin") in message
    share(api, "Reset", gallery=paths[0])
    share(api, gallery=paths[1], Subscriptions=ids(1))
    share(api, "Reset", gallery=paths[1])


def test_names_and_consumers_are_found_by_an_index(api: Api, gallery: str, neighbour: Api) -> None:
    database, consumer = api.services.database, shares.Consumer(str(uuid.uuid4()), str(uuid.uuid4()))
    if database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL scans tables this small")
    asked: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
        asked.append((statement, parameters))

    with database.read() as connection:
        event.listen(connection, "before_cursor_execute", note)
        shares.find_shared(connection, "name", consumer)
        shares.find_community(connection, "name")
        list(shares.shared_after(connection, consumer, ("Subscriptions",), ""))
        shares.groups(connection, "key")
        shares.is_published(connection, "key")
        event.remove(connection, "before_cursor_execute", note)
        for statement, parameters in asked[:5]:
            plan = connection.exec_driver_sql(f"explain query plan {statement}", parameters).all()
            assert not any(str(row[-1]).startswith("SCAN") for row in plan), (statement, plan)
    assert len(asked) == 5
