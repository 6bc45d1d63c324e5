"""Requests: api-versions, tokens, bodies, paths in any case, etags, PATCH, headers."""

import json
import uuid
from typing import Any

import pytest

from ..providers.conftest import Api
from .galleries import COMPUTE, REGION, VERSION, definition_body, full_id, gallery

ZERO = "00000000-0000-0000-0000-000000000000"
KINDS = [
    ("GET", "/"),
    ("GET", "/subscriptions?api-version=2022-12-01"),
    ("GET", "/tenants?api-version=2022-12-01"),
    ("GET", f"/subscriptions/{ZERO}?api-version=2022-12-01"),
    ("GET", f"/subscriptions/{ZERO}/locations?api-version=2022-12-01"),
    ("GET", f"/subscriptions/{ZERO}/providers?api-version=2024-11-01"),
    ("POST", f"/subscriptions/{ZERO}/providers/Microsoft.Compute/register?api-version=2024-11-01"),
    ("GET", f"/subscriptions/{ZERO}/resourcegroups?api-version=2024-11-01"),
    ("HEAD", f"/subscriptions/{ZERO}/resourcegroups/rg?api-version=2024-11-01"),
    ("PUT", f"/subscriptions/{ZERO}/resourcegroups/rg?api-version=2024-11-01"),
    ("GET", f"/subscriptions/{ZERO}/resources?api-version=2024-11-01"),
    ("GET", f"/subscriptions/{ZERO}/{COMPUTE}/galleries?{VERSION}"),
    ("PATCH", f"/subscriptions/{ZERO}/resourceGroups/rg/{COMPUTE}/galleries/g?{VERSION}"),
    ("DELETE", f"/subscriptions/{ZERO}/resourceGroups/rg/{COMPUTE}/galleries/g?{VERSION}"),
    ("POST", f"/subscriptions/{ZERO}/resourceGroups/rg/{COMPUTE}/virtualMachines/v/start?{VERSION}"),
    ("GET", f"/subscriptions/{ZERO}/{COMPUTE}/locations/global/operations/{ZERO}?{VERSION}"),
    ("GET", "/no/such/path"),
    ("PUT", "/providers"),
]


@pytest.mark.parametrize(("method", "path"), KINDS)
@pytest.mark.parametrize("token", [None, "", "Basic eDp5", "Bearer", "Bearer x", "Bearer a.b.c"])
def test_no_request_is_answered_without_a_valid_token(
    api: Api, method: str, path: str, token: str | None
) -> None:
    headers = {} if token is None else {"Authorization": token}
    answer = api.client.request(method, path, headers=headers)
    assert answer.status_code == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert challenge.startswith(f'Bearer authorization_uri="https://localhost:8443/{api.first.tenant_id}"')
    if method != "HEAD":
        code = answer.json()["error"]["code"]
        assert code == (
            "InvalidAuthenticationToken" if (token or "").startswith("Bearer ") else "AuthenticationFailed"
        )


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (f"resourceGroups/g/{COMPUTE}/galleries/x?", 400, "MissingApiVersionParameter"),
        (f"resourceGroups/g/{COMPUTE}/galleries?api-version=", 400, "MissingApiVersionParameter"),
        (f"{COMPUTE}/nothing?", 400, "MissingApiVersionParameter"),
        ("resources?", 400, "MissingApiVersionParameter"),
        ("locations?", 400, "MissingApiVersionParameter"),
        (f"operations/{ZERO}?", 400, "MissingApiVersionParameter"),
        ("resourceGroups/g/x/y?", 400, "MissingApiVersionParameter"),
        (f"resourceGroups/g/{COMPUTE}/galleries/x?api-version=newest", 400, "InvalidApiVersionParameter"),
        ("resources?api-version=newest", 400, "InvalidApiVersionParameter"),
        ("locations?api-version=2001-01-01", 400, "InvalidApiVersionParameter"),
        (f"resourceGroups/g/{COMPUTE}/galleries/x?api-version=2001-01-01", 400, "NoRegisteredProviderFound"),
        (f"{COMPUTE}/galleries?api-version=2001-01-01", 400, "NoRegisteredProviderFound"),
        ("resourceGroups/g?api-version=2001-01-01", 400, "NoRegisteredProviderFound"),
        (f"resourceGroups/g/{COMPUTE}/nothing/x?{VERSION}", 404, "InvalidResourceType"),
        (f"resourceGroups/g/{COMPUTE}/galleries/x/nothing/y?{VERSION}", 404, "InvalidResourceType"),
        (f"resourceGroups/g/{COMPUTE}/galleries/x/nothing?{VERSION}", 404, "InvalidResourceType"),
        (f"resourceGroups/g/providers/No.Such/galleries/x?{VERSION}", 404, "InvalidResourceNamespace"),
        (f"providers/No.Such/galleries?{VERSION}", 404, "InvalidResourceNamespace"),
        (f"resourceGroups/g/x/y?{VERSION}", 404, "InvalidResourceId"),
        (f"resourceGroups//{COMPUTE}/galleries/x?{VERSION}", 404, "InvalidResourceId"),
        (f"resourceGroups/g/{COMPUTE}/galleries/%00?{VERSION}", 404, "InvalidResourceId"),
        (f"resourceGroups/g/{COMPUTE}/galleries/a%2Fb?{VERSION}", 404, "InvalidResourceId"),
        (f"/providers/Microsoft.Compute/galleries/x?{VERSION}", 404, "InvalidResourceId"),
        (f"/providers/Microsoft.Compute/galleries?{VERSION}", 404, "MissingSubscription"),
        (f"{COMPUTE}/galleries/x?{VERSION}", 404, "InvalidResourceId"),
        ("providers/Microsoft.Resources/resourceGroups/x?api-version=2024-11-01", 404, "InvalidResourceId"),
    ],
)  # fmt: skip
def test_a_path_or_api_version_that_is_none_is_refused(api: Api, path: str, status: int, code: str) -> None:
    url = path if path.startswith("/") else full_id(api, path)
    answer = api.client.get(url, headers={"Authorization": f"Bearer {api.token}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    if code == "NoRegisteredProviderFound":
        assert "2024-" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        f"/providers/Microsoft.Compute/galleries/x?{VERSION}",
        f"{COMPUTE}/galleries/x?{VERSION}",
        "resourceGroups/g/providers/Microsoft.Resources/resourceGroups/x?api-version=2024-11-01",
        "//resourceGroups/x?api-version=2024-11-01",
    ],
)
def test_nothing_is_made_outside_a_resource_group(api: Api, path: str) -> None:
    api.group("g")
    assert api.refused("PUT", path, {"location": REGION})[0] == 404
    assert api.refused("DELETE", path)[0] == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "resources?api-version=2024-11-01"),
        ("PUT", f"{COMPUTE}/galleries?{VERSION}"),
        ("POST", f"{COMPUTE}/galleries?{VERSION}"),
        ("POST", "resourceGroups?api-version=2024-11-01"),
        ("POST", f"resourceGroups/g/{COMPUTE}/galleries/x?{VERSION}"),
    ],
)
def test_a_method_that_a_path_has_not_is_refused(api: Api, method: str, path: str) -> None:
    assert api.refused(method, path, {})[:2] == (405, "MethodNotAllowed")


def _send(api: Api, path: str, content: bytes, method: str = "PUT") -> Any:
    return api.client.request(
        method, api.url(path), content=content, headers={"Authorization": f"Bearer {api.token}"}
    )


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b'"x"', b'{"location": NaN}', b'{"location": "\\u0000"}', b'{"tags": {"a": "\\ud800"}}',
     b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}", b'{"properties": ' + b'{"a":' * 200 + b"1" + b"}" * 201],
)  # fmt: skip
def test_a_body_that_is_no_object_leaves_nothing_behind(api: Api, content: bytes) -> None:
    path = f"{api.group('bodies')}/{COMPUTE}/galleries/one"
    answer = _send(api, path, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequestContent")
    assert api.ask("GET", path).status_code == 404


def test_a_body_over_four_mebibytes_is_refused(api: Api) -> None:
    path = f"{api.group('bodies')}/providers/Microsoft.Network/networkSecurityGroups/one"
    body = json.dumps({"location": REGION, "properties": {"x": "y" * (4 * 1024**2)}}).encode()
    answer = _send(api, path, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "RequestContentTooLarge")
    assert api.ask("GET", path).status_code == 404
    room = 4 * 1024**2 - len(json.dumps({"location": REGION, "properties": {"x": ""}}))
    body = json.dumps({"location": REGION, "properties": {"x": "y" * room}}).encode()
    assert len(body) == 4 * 1024**2
    assert _send(api, path, body).status_code == 201


@pytest.mark.parametrize(
    ("body", "target"),
    [
        ({"location": 5}, "location"),
        ({"location": {}}, "location"),
        ({"location": REGION, "tags": "x"}, "tags"),
        ({"location": REGION, "tags": {"a": []}}, "tags"),
        ({"location": REGION, "properties": "x"}, "properties"),
        ({"location": REGION, "properties": {"description": 5}}, "properties.description"),
        ({"location": "atlantis"}, "location"),
        ({}, "location"),
    ],
)
def test_a_wrong_type_or_region_leaves_nothing_behind(api: Api, body: Any, target: str) -> None:
    path = f"{api.group('types')}/{COMPUTE}/galleries/one"
    answer = api.ask("PUT", path, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["target"].startswith(target)
    assert answer.json()["error"]["message"]
    assert api.get("resources?$filter=resourceGroup eq 'types'")["value"] == []
    assert api.ask("GET", path).status_code == 404


def test_a_missing_parent_or_group_is_named(api: Api) -> None:
    group = api.group("parents")
    path = f"{group}/{COMPUTE}/galleries/none/images/one"
    assert api.refused("PUT", path, definition_body())[:2] == (404, "ParentResourceNotFound")
    nowhere = f"resourceGroups/nowhere/{COMPUTE}/galleries/one"
    for method in ("GET", "PUT", "PATCH"):
        status, code, message = api.refused(method, nowhere, {"location": REGION})
        assert (status, code) == (404, "ResourceGroupNotFound")
        assert "az group create" in message
    assert api.refused("GET", f"{group}/{COMPUTE}/galleries/none")[:2] == (404, "ResourceNotFound")
    assert api.refused("GET", f"{group}/{COMPUTE}/galleries/none/images")[:2] == (404, "ResourceNotFound")
    assert api.refused("GET", f"/subscriptions/{ZERO}/resourcegroups?api-version=2024-11-01")[:2] == (
        404,
        "SubscriptionNotFound",
    )


def test_a_path_in_any_case_is_the_same_resource(api: Api) -> None:
    path = gallery(api, api.group("Mixed-Case"), "My.Gallery")
    asked = full_id(api, path)
    for other in (
        asked.lower(),
        asked.upper().replace(api.first.subscription_id.upper(), api.first.subscription_id),
    ):
        found = api.get(f"{other}?{VERSION}")
        assert (found["id"], found["name"]) == (asked, "My.Gallery")
        assert api.ask("PUT", f"{other}?{VERSION}", {"location": REGION}).status_code == 200
    upper = f"{path.upper()}/IMAGES/Def"
    body = definition_body()
    api.put(f"/SUBSCRIPTIONS/{api.first.subscription_id.upper()}/{upper}?{VERSION}", body)
    found = api.get(f"{path}/images/def")
    assert found["id"] == f"{asked}/images/Def"
    assert found["type"] == "Microsoft.Compute/galleries/images"
    assert api.get(f"{path.lower()}/images")["value"][0]["id"] == f"{asked}/images/Def"
    assert api.refused("DELETE", path.upper() + f"?{VERSION}")[:2] == (409, "CannotDeleteResource")


def test_a_name_may_hold_what_a_url_escapes(api: Api) -> None:
    group = api.group("(Größe)")
    base = f"{group}/providers/Microsoft.Network/networkSecurityGroups"
    created = api.put(f"{base}/a%20b%2B%C3%A9", {"location": REGION})
    assert created["name"] == "a b+é"
    assert created["id"] == full_id(api, f"{base}/a b+é")
    for name in ("a%3Fb", "a%2541b", "a%23"):  # decoded once: a?b, a%41b, a#
        assert api.refused("PUT", f"{base}/{name}", {"location": REGION})[:2] == (400, "InvalidResourceName")


def test_an_etag_guards_what_it_names(api: Api) -> None:
    path = gallery(api, api.group("etags"))
    answer = api.ask("GET", path)
    etag = answer.headers["ETag"]
    assert answer.json()["etag"] == etag
    body = {"location": REGION, "tags": {"a": "b"}}
    stale = f'"{uuid.uuid4()}"'
    for method in ("PUT", "PATCH", "DELETE"):
        assert api.refused(method, path, body, If_Match=stale)[:2] == (412, "PreconditionFailed")
        assert api.refused(method, path, body, If_None_Match="*")[0] == 412
    assert api.refused("PUT", path, body, If_None_Match=f"{stale}, {etag}")[0] == 412
    assert api.get(path)["tags"] == {}
    assert api.ask("PUT", path, body, If_Match=f"{stale}, {etag}").status_code == 200
    assert api.get(path)["etag"] != etag
    assert api.refused("DELETE", path, If_Match=etag)[0] == 412
    other = f"{path}2"
    assert api.refused("PUT", other, body, If_Match="*")[0] == 412
    assert api.ask("GET", other).status_code == 404
    assert api.ask("PUT", other, body, If_None_Match="*").status_code == 201
    assert api.ask("DELETE", other, If_Match="*").status_code == 200


def test_head_tells_whether_it_is_there(api: Api) -> None:
    path = gallery(api, api.group("heads"))
    for there in ("resourcegroups/heads", path):
        answer = api.ask("HEAD", there)
        assert (answer.status_code, answer.content) == (204, b"")
        answer = api.ask("HEAD", f"{there}-not")
        assert (answer.status_code, answer.content) == (404, b"")


KEPT = {"vCPUs": {"min": 1, "max": 8}}
ADDED = {"memory": {"min": 1, "max": 16}}


def test_patch_merges_and_null_takes_out(api: Api) -> None:
    path = f"{gallery(api, api.group('patches'))}/images/linux"
    body = definition_body(description="old", recommended=KEPT)
    api.put(path, {**body, "tags": {"a": "b"}})
    answer = api.ask("PATCH", path, {"properties": {"description": None, "recommended": ADDED}})
    assert answer.status_code == 200
    found = api.get(path)
    assert "description" not in found["properties"]
    assert found["properties"]["recommended"] == {**KEPT, **ADDED}
    assert found["tags"] == {"a": "b"}
    assert api.ask("PATCH", path, {"tags": {"c": "d"}}).json()["tags"] == {"c": "d"}
    assert api.ask("PATCH", path, {"tags": {}}).json()["tags"] == {}
    assert api.refused("PATCH", path, {"properties": "x"})[0] == 400
    assert api.refused("PATCH", path, {"location": "westeurope"})[:2] == (409, "InvalidResourceLocation")
    assert api.refused("PATCH", f"{path}-not", {})[:2] == (404, "ResourceNotFound")
    assert api.get(path)["properties"]["recommended"] == {**KEPT, **ADDED}


def test_put_replaces_as_a_whole(api: Api) -> None:
    path = gallery(api, api.group("puts"), tags={"a": "b"}, properties={"description": "old"})
    replaced = api.put(path, {"location": "West Central US"})
    assert (replaced["tags"], replaced["location"]) == ({}, REGION)
    assert "description" not in replaced["properties"]


def test_who_and_when_is_told(api: Api) -> None:
    path = gallery(api, api.group("system-data"))
    before = api.get(path)["systemData"]
    api.put(path, {"location": REGION})
    after = api.get(path)["systemData"]
    assert before["createdBy"] == after["lastModifiedBy"] == api.first.app_id
    assert before["createdByType"] == "Application"
    assert before["createdAt"] == after["createdAt"] <= before["lastModifiedAt"] < after["lastModifiedAt"]


def test_request_ids_come_back(api: Api) -> None:
    sent = {"x_ms_correlation_request_id": str(uuid.uuid4()), "x_ms_client_request_id": str(uuid.uuid4())}
    for path in ("resourcegroups", "resourcegroups/none"):
        answer = api.ask("GET", path, **sent)
        assert answer.headers["x-ms-correlation-request-id"] == sent["x_ms_correlation_request_id"]
        assert answer.headers["x-ms-client-request-id"] == sent["x_ms_client_request_id"]
        request_id = answer.headers["x-ms-request-id"]
        uuid.UUID(request_id)
        assert api.ask("GET", path).headers["x-ms-request-id"] != request_id
    alone = api.ask("GET", "resourcegroups").headers
    assert alone["x-ms-correlation-request-id"] == alone["x-ms-request-id"]


def test_a_path_with_a_line_break_is_refused_in_arms_form(api: Api) -> None:
    answer = api.ask("GET", "resourceGroups/a%0Ab?api-version=2024-11-01")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "InvalidResourceId"
    answer = api.client.request("TRACE", "/subscriptions")
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "MethodNotAllowed"
