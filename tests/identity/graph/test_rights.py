"""Rights: no token no answer, no sight of another tenant, writing for administrators only."""

import re
from typing import Any

import pytest

from opengallery.identity.graph.call import administrator, anyone, themselves
from opengallery.identity.graph.http import OPERATIONS

from ..conftest import ENDPOINT
from .conftest import PASSWORD, Graph, ids

NOBODY = "00000000-0000-0000-0000-000000000001"


def _path(template: str, key: str = NOBODY) -> str:
    return "/" + template.replace("{key}", key).replace("{other}", NOBODY)


def test_no_operation_answers_without_a_right_token(graph: Graph) -> None:
    other = graph.identity.tokens.issue(graph.principal, ENDPOINT).text
    for operation in OPERATIONS:
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": f"Basic {other}"}):
            path = f"/v1.0{_path(operation.path, graph.principal.object_id)}"
            answer = graph.client.request(operation.method, path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
            assert answer.headers["www-authenticate"].startswith("Bearer ")
    assert graph.client.get("/v1.0/nonsense").status_code == 401


def test_nobody_but_administrators_and_owners_writes(graph: Graph) -> None:
    bob = graph.seen_by(graph.user("bob")["id"])
    before = (bob.get("/users"), bob.get("/applications"), bob.get("/servicePrincipals"))
    for operation in OPERATIONS:
        if operation.writes and operation.right is not themselves:
            assert operation.right is not anyone
            key = NOBODY
            if operation.path.startswith("servicePrincipals"):
                key = graph.identity.first.object_id
            if operation.path.startswith("applications"):
                key = graph.get("/applications")["value"][0]["id"]
            refused = bob.refused(operation.method, _path(operation.path, key), {}, status=403)
            assert refused[1] == "Authorization_RequestDenied", operation
            assert refused[2].startswith("Insufficient privileges to complete the operation.")
    assert (bob.get("/users"), bob.get("/applications"), bob.get("/servicePrincipals")) == before


def test_another_tenants_objects_are_not_there(graph: Graph, stranger: Graph) -> None:
    bob, group, robot = graph.user("bob")["id"], graph.group("builders"), graph.service_principal("robot")
    app = graph.get(f"/applications(appId='{robot['appId']}')")["id"]
    keys = {"users": bob, "groups": group, "servicePrincipals": robot["id"], "applications": app}
    bodies: dict[str, Any] = {
        "checkMemberGroups": {"groupIds": [group]},
        "checkMemberObjects": {"ids": [group]},
        "removePassword": {"keyId": NOBODY},
        "$ref": {"@odata.id": f"{ENDPOINT}/v1.0/directoryObjects/{NOBODY}"},
    }
    asked = 0
    for operation in OPERATIONS:
        collection, *rest = operation.path.split("/")
        if "{key}" not in rest:
            continue
        body = bodies.get(rest[-1])
        if operation.method == "PATCH" and rest == ["{key}"]:
            body = {"displayName": "Mine"} if collection != "servicePrincipals" else {"notes": "Mine"}
        answers = {
            _shape(stranger, operation.method, _path(operation.path, key), body, key)
            for key in (keys.get(collection, bob), NOBODY)
        }
        assert len(answers) == 1, (operation, answers)
        assert answers.pop()[0] in (404, 501), operation
        asked += 1
    assert asked > 60
    for path in ("/users", "/groups"):
        assert stranger.get(path)["value"] == []
    assert ids(stranger.get("/servicePrincipals")) == {stranger.principal.object_id}
    assert stranger.refused("GET", "/users/bob@local", status=404)
    everything = {"ids": [bob, group, robot["id"], app, stranger.principal.object_id]}
    found = stranger.post("/directoryObjects/getByIds", everything, 200)
    assert ids(found) == {stranger.principal.object_id}
    theirs = stranger.group("theirs")
    assert stranger.add(f"/groups/{theirs}/members", bob, 404)["error"]["code"] == "Request_ResourceNotFound"
    assert stranger.add(f"/groups/{theirs}/owners", robot["id"], 404)
    assert graph.get(f"/users/{bob}")["displayName"] == "Bob"


def _shape(graph: Graph, method: str, path: str, body: Any, key: str) -> tuple[int, str, str]:
    token = graph.identity.tokens.issue(graph.principal, f"{ENDPOINT}/").text
    headers = {"authorization": f"Bearer {token}"}
    answer = graph.client.request(method, f"/v1.0{path}", json=body, headers=headers)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"].replace(key, "KEY")


def test_anybody_of_the_tenant_reads(graph: Graph) -> None:
    group = graph.group("builders")
    bob = graph.user("bob")["id"]
    graph.add(f"/groups/{group}/members", bob)
    his = graph.seen_by(bob)
    for path in ("/users", "/groups", f"/groups/{group}/members", "/applications", "/servicePrincipals"):
        assert his.get(path) == graph.get(path)
    assert his.get("/organization")["value"][0]["id"] == graph.principal.tenant_id


def test_a_right_that_is_taken_away_works_no_more(graph: Graph) -> None:
    graph.user("bob")
    graph.administrators.clear()
    assert graph.refused("DELETE", "/users/bob@local", status=403)[1] == "Authorization_RequestDenied"


def test_nobody_shuts_themselves_out(graph: Graph) -> None:
    own = graph.identity.first
    path = f"/servicePrincipals/{own.object_id}"
    app = graph.get(f"/applications(appId='{own.app_id}')")["id"]
    assert graph.refused("DELETE", path, status=403)
    assert graph.refused("PATCH", path, {"accountEnabled": False}, status=403)
    assert graph.refused("DELETE", f"/applications/{app}", status=403)
    other = graph.user("bob")["id"]
    graph.administrators.add(other)
    his = graph.seen_by(other)
    assert "first administrator" in his.refused("DELETE", path, status=403)[2]
    assert "first administrator" in his.refused("DELETE", f"/applications/{app}", status=403)[2]
    his.patch(path, {"accountEnabled": False})
    assert his.refused("DELETE", f"/users/{other}", status=403)


def test_every_operation_says_who_may() -> None:
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)
    open_to_all = [entry for entry in OPERATIONS if entry.right is anyone]
    assert all(entry.method == "GET" or entry.is_query for entry in open_to_all)
    assert any(entry.right is administrator for entry in OPERATIONS)


def test_a_body_is_bounded_and_read_strictly(graph: Graph) -> None:
    token = graph.identity.tokens.issue(graph.principal, f"{ENDPOINT}/").text
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    for content, status in (
        (b"x" * 300_000, 413),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"displayName": NaN}', 400),
        (b'{"displayName": 1e999}', 400),
        (b'{"displayName": "\\ud800"}', 400),
        (b'{"displayName": "a\\u0000"}', 400),
        (b'{"web": ' + b'{"a":' * 100 + b"1" + b"}" * 101, 400),
        (b"[" * 100_000, 400),
    ):
        answer = graph.client.post("/v1.0/applications", content=content, headers=headers)
        assert answer.status_code == status, content[:40]
        assert answer.json()["error"]["message"]


def test_unknown_paths_and_methods_are_refused(graph: Graph) -> None:
    assert graph.refused("GET", "/nonsense", status=400)[1] == "BadRequest"
    assert graph.refused("GET", "", status=400)[1] == "BadRequest"
    assert "GET" in graph.refused("PUT", "/users", {}, status=405)[2]
    assert graph.refused("GET", "/users/" + "a" * 600, status=400)
    assert graph.refused("GET", "/users/a%00b", status=400)
    assert graph.refused("GET", "/users/%ff", status=400)


def test_the_callers_request_id_comes_back(graph: Graph) -> None:
    asked = {"headers": {"client-request-id": "0BD5B6C7-7ACD-4C1B-A6F3-9D4C95DDB0CE"}}
    error = graph.send("GET", "/users/nobody", None, 404, **asked)["error"]
    assert error["innerError"]["client-request-id"] == "0bd5b6c7-7acd-4c1b-a6f3-9d4c95ddb0ce"
    asked = {"headers": {"client-request-id": "<script>"}}
    error = graph.send("GET", "/users/nobody", None, 404, **asked)["error"]
    assert error["innerError"]["client-request-id"] == error["innerError"]["request-id"]


def test_a_failure_tells_nothing_of_the_inside(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(PASSWORD)

    monkeypatch.setattr("opengallery.identity.graph.users.find_user", fail)
    _, code, message = graph.refused("GET", "/users/bob@local", status=500)
    assert code == "InternalServerError" and re.search(r"request id [0-9a-f-]{36}", message)
    assert PASSWORD not in message
