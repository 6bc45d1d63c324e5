"""Community galleries: shared with everyone who is signed in, of whatever tenant."""

import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from opengallery.arm import access

from .conftest import Api
from .images import COMPUTE, REGION, definition, id_of, machine_body, managed_image, version_body
from .principals import People, people_of
from .vhds import SIZE_BYTES, disk

GROUP = "commons"
GALLERY = f"resourceGroups/{GROUP}/{COMPUTE}/galleries/gallery"
INFO = {
    "publisherUri": "https://images.example/about",
    "publisherContact": "images@images.example",
    "eula": "https://images.example/eula",
    "publicNamePrefix": "Images",
}
BODY = {
    "location": REGION,
    "properties": {"sharingProfile": {"permissions": "Community", "communityGalleryInfo": INFO}},
}
QUERIES = "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01"
QUERY = "communitygalleryresources| where type == 'microsoft.compute/locations/communitygalleries' "


@pytest.fixture(scope="module")
def people(server: Api) -> Iterator[People]:
    with people_of(server) as people:
        yield people


@pytest.fixture(scope="module")
def stranger(people: People) -> Api:
    """A contributor of another tenant's subscription."""
    tenant_id, subscription_id = people.tenant()
    return people.contributor(subscription_id, tenant_id)


@pytest.fixture(scope="module")
def published(server: Api) -> Iterator[Api]:
    """A community gallery with a version in two regions."""
    server.group(GROUP)
    server.groups.remove(GROUP)
    path = f"resourceGroups/{GROUP}"
    server.put(GALLERY, BODY)
    image = managed_image(server, path, "image", 1, 2)
    version = f"{definition(server, path)}/versions/1.0.0"
    server.put(version, version_body(server, image, REGION, "westeurope"))
    yield server
    share(server, "Reset")
    server.delete(path)


@pytest.fixture
def gallery(published: Api, api: Api) -> Iterator[str]:
    """Its path; not shown to anyone before and after."""
    yield GALLERY
    share(api, "Reset")
    api.put(GALLERY, BODY)


def share(api: Api, verb: str = "EnableCommunity", path: str = GALLERY) -> Any:
    return api.act(f"{path}/share", {"operationType": verb, "groups": []})


def public_name(api: Api, path: str = GALLERY) -> str:
    (name,) = api.get(path)["properties"]["sharingProfile"]["communityGalleryInfo"]["publicNames"]
    return str(name)


def catalog(region: str, rest: str) -> str:
    return f"{COMPUTE}/locations/{region}/communityGalleries/{rest}?api-version=2025-03-03"


def listed(api: Api, region: str | None = None, **options: Any) -> Any:
    """What `az sig list-community` asks, and its answer."""
    where = "" if region is None else f"| where location == '{region}' "
    answer = api.ask("POST", QUERIES, {"query": QUERY + where, "options": {"$top": 30, **options}})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_community_gallery_needs_to_say_who_publishes_it(api: Api) -> None:
    path = f"{api.group('wrong')}/{COMPUTE}/galleries/wrong"

    def refused(**info: Any) -> tuple[int, str, str]:
        profile = {"permissions": "Community", "communityGalleryInfo": info}
        body = {"location": REGION, "properties": {"sharingProfile": profile}}
        found = api.refused("PUT", path, body)
        assert api.ask("GET", path).status_code == 404
        return found

    assert refused()[:2] == (400, "InvalidParameter")
    for name in INFO:
        status, code, message = refused(**{key: value for key, value in INFO.items() if key != name})
        assert (status, code) == (400, "InvalidParameter") and name in message
    for name, value in (
        ("publicNamePrefix", "four"),
        ("publicNamePrefix", "seventeen-letters"),
        ("publicNamePrefix", "a/b/c/d"),
        ("publisherUri", "javascript:alert(1)"),
        ("publisherUri", "https://a b"),
        ("publisherUri", f"https://{'x' * 2048}"),
        ("publisherContact", "nobody"),
        ("publisherContact", "a@b\r\nBcc: c"),
        ("eula", ""),
        ("eula", "line\x1b[2J"),
        ("eula", "x" * 2049),
        ("eula", 1),
    ):
        assert refused(**{**INFO, name: value})[0] == 400, (name, value)


def test_a_community_gallery_is_seen_by_nobody_before_it_is_enabled(
    api: Api, gallery: str, stranger: Api
) -> None:
    profile = api.get(gallery)["properties"]["sharingProfile"]
    assert profile["permissions"] == "Community"
    info = profile["communityGalleryInfo"]
    assert {name: info[name] for name in INFO} == INFO
    assert info["communityGalleryEnabled"] is False
    assert re.fullmatch(r"Images-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", public_name(api))
    for one in (stranger, api):
        assert listed(one)["data"] == []
        assert one.ask("GET", catalog(REGION, public_name(api))).status_code == 404


def test_everyone_who_is_signed_in_sees_an_enabled_one(
    api: Api, gallery: str, stranger: Api, people: People
) -> None:
    share(api)
    name = public_name(api)
    assert api.get(gallery)["properties"]["sharingProfile"]["communityGalleryInfo"]["communityGalleryEnabled"]
    nobody = people.person(api.first.subscription_id)
    for one in (stranger, nobody, api):
        found = listed(one)
        assert (found["count"], "$skipToken" in found) == (2, False)
        assert [entry["location"] for entry in found["data"]] == [REGION, "westeurope"]
        (here,) = listed(one, REGION)["data"]
        assert here["name"] == name
        metadata = {key: value for key, value in INFO.items() if key != "publicNamePrefix"}
        assert here["properties"]["communityMetadata"] == {**metadata, "publicNames": [name]}
        assert here["properties"]["identifier"] == {"uniqueId": f"/CommunityGalleries/{name}"}
        assert listed(one, "japaneast")["data"] == []
    shown = stranger.get(catalog(REGION, name))
    assert shown["type"] == "Microsoft.Compute/Locations/CommunityGalleries"
    assert shown["properties"]["communityMetadata"]["eula"] == INFO["eula"]
    assert "publisher" in shown["properties"]["disclaimer"]
    (image,) = stranger.get(catalog(REGION, f"{name}/images"))["value"]
    assert image["identifier"]["uniqueId"] == f"/CommunityGalleries/{name}/Images/linux"
    assert stranger.get(catalog(REGION, f"{name.upper()}/images/linux")) == image
    (version,) = stranger.get(catalog("westeurope", f"{name}/images/linux/versions"))["value"]
    assert version["identifier"]["uniqueId"] == f"/CommunityGalleries/{name}/Images/linux/Versions/1.0.0"
    assert stranger.get(catalog("westeurope", f"{name}/images/linux/versions/1.0.0")) == version
    for told in (shown, image, version, found):
        assert api.first.subscription_id not in str(told) and GROUP not in str(told)
    assert stranger.ask("GET", catalog("japaneast", name)).status_code == 404
    missing = f"Images-{uuid.uuid4()}"
    for rest in ("", "/images", "/images/linux", "/images/linux/versions/1.0.0"):
        assert stranger.ask("GET", catalog(REGION, f"{missing}{rest}")).status_code == 404


def test_nobody_sees_it_without_a_token_or_a_place_of_their_own(
    api: Api, gallery: str, people: People
) -> None:
    share(api)
    name = public_name(api)
    for method, path in (("POST", QUERIES), ("GET", api.url(catalog(REGION, name)))):
        assert api.client.request(method, path, json={"query": QUERY}).status_code == 401
    nobody = people.person(api.first.subscription_id)
    for subscription in (api.first.subscription_id, str(uuid.uuid4())):
        path = f"/subscriptions/{subscription}/{catalog(REGION, name)}"
        assert nobody.refused("GET", path)[:2] == (403, "AuthorizationFailed")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": 1},
        {"query": "resources"},
        {"query": "communitygalleryresources"},
        {"query": f"{QUERY} | project name"},
        {"query": f"{QUERY} | where location == 'a' or true"},
        {"query": f"{QUERY} | where location == 'a'' '"},
        {"query": "x" * 5000},
        {"query": QUERY, "options": {"$top": 0}},
        {"query": QUERY, "options": {"$top": 100_000}},
        {"query": QUERY, "options": {"$skipToken": "no token of ours"}},
    ],
    ids=lambda body: str(body)[:60],
)
def test_other_queries_are_refused(api: Api, body: Any) -> None:
    status, code, message = api.refused("POST", QUERIES, body)
    assert status == 400 and message
    if len(str(body.get("query"))) < 5000 and "options" not in body and isinstance(body.get("query"), str):
        assert code == "InvalidQuery" and "az sig list-community" in message


def test_a_list_of_community_galleries_comes_in_pages(api: Api, gallery: str, stranger: Api) -> None:
    share(api)
    group = api.group("more")
    paths = [f"{group}/{COMPUTE}/galleries/more{number}" for number in range(3)]
    for path in paths:
        api.put(path, BODY)
        share(api, path=path)
    names = {public_name(api, path) for path in (*paths, gallery)}
    found, token = [], None
    while True:
        page = listed(stranger, **{"$top": 2}, **({"$skipToken": token} if token else {}))
        found += [(entry["name"], entry["location"]) for entry in page["data"]]
        if (token := page.get("$skipToken")) is None:
            break
        assert len(page["data"]) == 2
    assert len(found) == len(set(found)) == 5
    assert {name for name, _ in found} == names
    for path in paths:
        share(api, "Reset", path)


def test_only_who_may_share_enables_it(api: Api, gallery: str, people: People) -> None:
    scope = id_of(api, gallery)
    body = {"operationType": "EnableCommunity", "groups": []}
    for role in (access.READER, access.CONTRIBUTOR):
        person = people.person(api.first.subscription_id, (role, scope))
        assert person.refused("POST", f"{gallery}/share", body)[:2] == (403, "AuthorizationFailed")
    assert listed(api)["data"] == []
    subscriptions = [{"type": "Subscriptions", "ids": [str(uuid.uuid4())]}]
    assert api.refused("POST", f"{gallery}/share", {**body, "groups": subscriptions})[0] == 400
    added = {"operationType": "Add", "groups": subscriptions}
    assert api.refused("POST", f"{gallery}/share", added)[:2] == (409, "OperationNotAllowed")
    share(people.person(api.first.subscription_id, (access.OWNER, scope)))
    assert listed(api)["count"] == 2


def test_what_everyone_sees_is_mended_but_its_name_stays(api: Api, gallery: str, stranger: Api) -> None:
    share(api)
    share(api)
    name = public_name(api)
    read = api.get(f"{gallery}?$expand=SharingProfile/Groups")
    assert read["properties"]["sharingStatus"]["aggregatedState"] == "Succeeded"
    read["properties"]["sharingProfile"]["communityGalleryInfo"]["eula"] = "Be kind."
    api.put(gallery, read)
    assert public_name(api) == name
    assert stranger.get(catalog(REGION, name))["properties"]["communityMetadata"]["eula"] == "Be kind."
    for profile in (
        {"permissions": "Private"},
        {"permissions": "Groups"},
        {"permissions": "Community", "communityGalleryInfo": {"publicNamePrefix": "Others"}},
    ):
        body = {"location": REGION, "properties": {"sharingProfile": profile}}
        assert api.refused("PUT", gallery, body)[:2] == (409, "OperationNotAllowed")
    assert api.refused("DELETE", gallery)[0] == 409
    share(api, "Reset")
    assert api.get(gallery)["properties"]["sharingProfile"] == {"permissions": "Private"}
    assert stranger.ask("GET", catalog(REGION, name)).status_code == 404
    api.put(gallery, BODY)
    assert public_name(api) != name


def test_an_enabled_gallery_is_not_deleted(api: Api) -> None:
    path = f"{api.group('doomed')}/{COMPUTE}/galleries/doomed"
    api.put(path, BODY)
    share(api, path=path)
    status, code, message = api.refused("DELETE", path)
    assert (status, code) == (409, "OperationNotAllowed") and "az sig share reset" in message
    share(api, "Reset", path)
    api.delete(path)


def test_a_stranger_uses_a_community_image_until_it_is_taken_back(
    api: Api, gallery: str, stranger: Api
) -> None:
    share(api)
    image = f"/CommunityGalleries/{public_name(api)}/Images/linux/Versions/latest"
    group = stranger.group("consumer")
    body = machine_body(stranger, "unused")
    body["properties"]["storageProfile"]["imageReference"] = {"communityGalleryImageId": image}
    machine = f"{group}/{COMPUTE}/virtualMachines/vm"
    made = stranger.put(machine, body)["properties"]["storageProfile"]["imageReference"]
    assert made == {"communityGalleryImageId": image, "exactVersion": "1.0.0"}
    exported = f"{group}/{COMPUTE}/disks/exported"
    source = {"createOption": "FromImage", "galleryImageReference": {"communityGalleryImageId": image}}
    stranger.put(exported, {"location": REGION, "properties": {"creationData": source}})
    url = stranger.act(f"{exported}/beginGetAccess", {"access": "Read", "durationInSeconds": 600})[
        "accessSAS"
    ]
    assert stranger.client.get(url).content[:SIZE_BYTES] == disk(1, 2)
    direct = image.replace("CommunityGalleries", "SharedGalleries")
    body["properties"]["storageProfile"]["imageReference"] = {"sharedGalleryImageId": direct}
    other = machine.replace("/vm", "/other")
    assert stranger.refused("PUT", other, body)[:2] == (404, "GalleryImageNotFound")
    share(api, "Reset")
    body["properties"]["storageProfile"]["imageReference"] = {"communityGalleryImageId": image}
    assert stranger.refused("PUT", other, body)[:2] == (404, "GalleryImageNotFound")
    stranger.act(f"{machine}/restart")
    stranger.delete(group)
    stranger.groups.clear()
