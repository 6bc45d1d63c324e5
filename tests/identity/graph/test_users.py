"""Users: what they show, what is refused, and when their tokens end."""

from typing import Any

import pytest

from opengallery.identity import client_secrets
from opengallery.identity.tokens import InvalidToken

from ..conftest import ENDPOINT
from .conftest import PASSWORD, Graph, ids


def test_a_user_is_created_shown_changed_and_deleted(graph: Graph) -> None:
    made = graph.user("bob", onPremisesImmutableId=None)
    assert made["userPrincipalName"] == "bob@local"
    assert made["@odata.context"].endswith("/v1.0/$metadata#users/$entity")
    assert "accountEnabled" not in made
    by_id = graph.get(f"/users/{made['id'].upper()}")
    assert graph.get("/users/BOB@Local") == graph.get("/users('bob@local')") == by_id == made
    graph.patch("/users/bob@local", {"displayName": "Robert", "jobTitle": "Builder", "mobilePhone": None})
    shown = graph.get("/users/bob@local", _select="displayName,jobTitle,accountEnabled,createdDateTime")
    assert (shown["displayName"], shown["jobTitle"], shown["accountEnabled"]) == ("Robert", "Builder", True)
    assert shown["createdDateTime"].endswith("Z") and "id" not in shown
    graph.patch("/users/bob@local", {"userPrincipalName": "robert@local"})
    assert graph.get("/users/robert@local")["id"] == made["id"]
    graph.delete("/users/robert@local")
    assert graph.refused("GET", f"/users/{made['id']}", status=404)[1] == "Request_ResourceNotFound"


def test_a_name_with_a_hash_or_a_dollar_is_found(graph: Graph) -> None:
    graph.user("b.o'b#ext#")
    assert graph.get("/users/b.o'b%23ext%23@local")["displayName"]
    assert graph.refused("GET", "/users('$bob@local')", status=404)[1] == "Request_ResourceNotFound"


def test_no_answer_holds_a_password_or_its_hash(graph: Graph) -> None:
    made = graph.user("bob")
    everything = [made, graph.get("/users", _select="*"), graph.get("/directoryObjects/" + made["id"])]
    assert PASSWORD not in str(everything) and "argon2" not in str(everything)
    secret = {"passwordProfile": {"password": "short!7"}}
    message = graph.refused("PATCH", "/users/bob@local", secret, status=400)[2]
    assert "short!7" not in message and "at least 8 and at most 256" in message
    assert graph.refused("GET", "/users?$select=passwordProfile", status=400)[1] == "Request_BadRequest"


def test_a_name_is_taken_once_in_any_case(graph: Graph, stranger: Graph) -> None:
    graph.user("bob")
    for asking in (graph, stranger):
        body = {
            "accountEnabled": True,
            "displayName": "B",
            "mailNickname": "b",
            "userPrincipalName": "BOB@LOCAL",
            "passwordProfile": {"password": PASSWORD},
        }
        error = asking.send("POST", "/users", body, 400)["error"]
        assert error["code"] == "Request_BadRequest"
        assert error["details"][0]["code"] == "ObjectConflict"
        assert error["details"][0]["target"] == "userPrincipalName"
    graph.user("carol")
    taken = graph.refused("PATCH", "/users/carol@local", {"userPrincipalName": "Bob@Local"}, status=400)
    assert "userPrincipalName already exists" in taken[2]


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"userPrincipalName": "bob"}, "userPrincipalName"),
    ({"userPrincipalName": "bob @local"}, "userPrincipalName"),
    ({"userPrincipalName": "böb@local"}, "userPrincipalName"),
    ({"userPrincipalName": "b" * 65 + "@local"}, "userPrincipalName"),
    ({"userPrincipalName": "bob@" + "a.b." * 30 + "c"}, "userPrincipalName"),
    ({"userPrincipalName": 7}, "userPrincipalName"),
    ({"displayName": " "}, "displayName"),
    ({"displayName": "b" * 257}, "displayName"),
    ({"displayName": "a\nb"}, "displayName"),
    ({"displayName": None}, "displayName"),
    ({"mailNickname": "a b"}, "mailNickname"),
    ({"mailNickname": ""}, "mailNickname"),
    ({"mailNickname": "a" * 65}, "mailNickname"),
    ({"jobTitle": "b" * 129}, "jobTitle"),
    ({"usageLocation": "Germany"}, "usageLocation"),
    ({"accountEnabled": "true"}, "accountEnabled"),
    ({"passwordProfile": {"password": "p" * 257}}, "at most 256"),
    ({"passwordProfile": {"password": 12345678}}, "at most 256"),
    ({"passwordProfile": {}}, "password"),
    ({"passwordProfile": "password"}, "passwordProfile"),
    ({"passwordProfile": {"password": PASSWORD, "forceChangePasswordNextSignIn": "no"}}, "forceChange"),
    ({"object_id": "1"}, "object_id"),
    ({"id": "1"}, "id"),
    ({"displayName": "a\0b"}, "NUL"),
]


def test_a_value_that_cant_be_is_named(graph: Graph) -> None:
    body = {
        "accountEnabled": True,
        "displayName": "Bob",
        "mailNickname": "bob",
        "userPrincipalName": "bob@local",
        "passwordProfile": {"password": PASSWORD},
    }
    for change, named in UNUSABLE:
        _, code, message = graph.refused("POST", "/users", body | change, status=400)
        assert code == "Request_BadRequest" and named in message, change
    assert graph.get("/users")["value"] == []


def test_a_disabled_users_tokens_and_sessions_end_at_once(graph: Graph) -> None:
    bob = graph.user("bob")["id"]
    token = graph.identity.tokens.issue(graph.seen_by(bob).principal, f"{ENDPOINT}/").text
    assert graph.identity.tokens.validate(token).object_id == bob
    graph.patch(f"/users/{bob}", {"accountEnabled": False})
    with pytest.raises(InvalidToken):
        graph.identity.tokens.validate(token)
    assert graph.ended == [bob]
    graph.patch(f"/users/{bob}", {"accountEnabled": True})
    assert graph.identity.tokens.validate(token).object_id == bob
    graph.delete(f"/users/{bob}")
    with pytest.raises(InvalidToken):
        graph.identity.tokens.validate(token)
    assert graph.ended == [bob, bob]


def test_a_changed_password_ends_the_sessions(graph: Graph) -> None:
    bob = graph.user("bob")["id"]
    graph.patch(f"/users/{bob}", {"jobTitle": "Builder"})
    assert graph.ended == []
    graph.patch(f"/users/{bob}", {"passwordProfile": {"password": PASSWORD + "!"}})
    assert graph.ended == [bob]


def test_users_are_found_by_what_az_asks_for(graph: Graph, stranger: Graph) -> None:
    bob, _ = graph.user("bob"), graph.user("carol")
    for text in (
        "userPrincipalName eq 'BOB@local'",
        "startswith(displayName,'bo')",
        "displayName eq 'bob' and accountEnabled eq true",
        f"id eq '{bob['id']}'",
        "mailNickname in ('bob', 'x')",
        "not(startswith(userPrincipalName,'carol'))",
    ):
        assert ids(graph.get("/users", _filter=text)) == {bob["id"]}, text
        assert ids(stranger.get("/users", _filter=text)) == set(), text
    assert graph.get("/users/$count") == "2"
    assert graph.get("/users", _count="true")["@odata.count"] == 2


def test_pages_lead_through_all_users_once(graph: Graph) -> None:
    made = {graph.user(f"user{number}")["id"] for number in range(5)}
    found: list[str] = []
    page = graph.get("/users", _top="2", _filter="startswith(displayName,'user')", _count="true")
    while True:
        assert len(page["value"]) <= 2
        found += [entry["id"] for entry in page["value"]]
        link = page.get("@odata.nextLink")
        if link is None:
            break
        assert link.startswith(f"{ENDPOINT}/v1.0/users?")
        page = graph.send("GET", link.removeprefix(f"{ENDPOINT}/v1.0"))
    assert len(found) == 5 and set(found) == made


def test_a_user_changes_their_own_password_with_the_current_one(graph: Graph) -> None:
    bob = graph.user("bob")["id"]
    his = graph.seen_by(bob)
    change = {"currentPassword": "wrong password", "newPassword": "another password"}
    refused = his.refused("POST", "/me/changePassword", change, status=400)
    assert refused[1:] == ("Request_BadRequest", "The current password is wrong.")
    short = {"currentPassword": PASSWORD, "newPassword": "short"}
    assert "at least 8" in his.refused("POST", "/me/changePassword", short, status=400)[2]
    change["currentPassword"] = PASSWORD
    his.post("/me/changePassword", change, 204)
    assert graph.ended == [bob]
    assert (
        "wrong" in his.refused("POST", "/me/changePassword", change | {"newPassword": "p" * 9}, status=400)[2]
    )


def test_wrong_passwords_are_counted(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_secrets, "FAILURES_MAX", 3)
    his = graph.seen_by(graph.user("bob")["id"])
    change = {"currentPassword": "wrong password", "newPassword": "another password"}
    answers = [
        his.client.post(
            "/v1.0/me/changePassword",
            json=change | {"currentPassword": f"wrong {number}"},
            headers={"authorization": f"Bearer {his.identity.tokens.issue(his.principal, ENDPOINT).text}"},
        )
        for number in range(4)
    ]
    assert {answer.status_code for answer in answers[:3]} == {400}
    assert answers[3].status_code == 429 and int(answers[3].headers["retry-after"]) > 0


def test_me_is_the_signed_in_user_and_no_service_principal(graph: Graph) -> None:
    bob = graph.user("bob")
    his = graph.seen_by(bob["id"])
    assert his.get("/me") == bob
    assert his.get("/me/ownedObjects")["value"] == []
    message = graph.refused("GET", "/me", status=400)[2]
    assert "/me request is only valid with delegated authentication flow" in message
    assert graph.refused("GET", "/me/ownedObjects", status=400)[2] == message
