"""No route answers without the check: every route and verb, with every wrong token, and with a right one that may not.

What is walked comes from the application and its registry: a new resource type or route is walked without
a change here. A new route that is open has to be named in `OPEN`, with the reason.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from starlette.testclient import TestClient

from opengallery import app
from opengallery.arm import access
from opengallery.identity.first_start import read_first_start
from opengallery.providers import load_registry
from opengallery.settings import Settings

from .bad_tokens import Issuer
from .walked import ORIGIN, THERE, VERBS, Asked, Walked, mounted, seen

OPEN = {
    "/metadata/endpoints": "which endpoints the cloud has: asked before there is a token",
    "/common/discovery/instance": "which authorities there are: asked before there is a token",
    "/{tenant}/v2.0/.well-known/openid-configuration": "discovery of how to sign in",
    "/{tenant}/.well-known/openid-configuration": "discovery of how to sign in",
    "/{tenant}/discovery/v2.0/keys": "public keys, by which anybody may check a token",
    "/{tenant}/discovery/keys": "public keys, by which anybody may check a token",
    "/{tenant}/oauth2/v2.0/token": "where a token comes from: checks a credential of its own",
    "/{tenant}/oauth2/token": "where a token comes from: checks a credential of its own",
    "/{tenant}/oauth2/v2.0/authorize": "the page where a user signs in",
    "/{tenant}/oauth2/authorize": "the page where a user signs in",
    "/{tenant}/oauth2/v2.0/devicecode": "where a device begins to sign in",
    "/{tenant}/oauth2/devicecode": "where a device begins to sign in",
    "/{tenant}/userrealm/{user}": "the same for every name: that the user's password is asked for here",
    "/devicelogin": "the page where a user types a device's code",
}
SIGNED = {
    "/uploads/{upload_id}/{blob}": "a signed data URL: its signature is for one upload, one right and one time",
    "/downloads/{download_id}/{blob}": "a signed data URL: its signature is for one download and one time",
    "/consoles/{name}/{file}": "a signed data URL: its signature is for one machine's file and one time",
}
TOLD_MAX = 20
ODD_VERBS = ("OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "FOO")


@pytest.fixture
def walked(database_url: str) -> Iterator[Walked]:
    """The whole application on a fresh database, with something of every type in it."""
    data = Path(tempfile.mkdtemp(prefix="opengallery-walk-"))
    services = app.build_services(Settings(data=data, database_url=database_url))
    application = app.build_application(services)
    first = read_first_start(data)
    assert first is not None
    with TestClient(application, base_url=ORIGIN, raise_server_exceptions=False) as client:
        walked = Walked(application, services, load_registry(), first, client)
        walked.fill()
        yield walked
    services.database.close()
    shutil.rmtree(data)


@pytest.fixture
def issuer(walked: Walked) -> Issuer:
    return Issuer(walked)


def test_a_right_token_with_every_right_is_answered(walked: Walked, issuer: Issuer) -> None:
    """Else the other tests would show nothing: what they ask for is there, and can be had."""
    token = issuer.right(issuer.administrator())
    for declared in walked.registry.types():
        url = f"{ORIGIN}{walked.id_of(declared)}?api-version={declared.api_versions[0]}"
        # Rows of no more than an id: some types can't show them, but none says that they aren't there.
        assert walked.send("HEAD", url, token).status_code in (204, 500), declared.type
        assert walked.send("HEAD", url.replace(THERE, "absent"), token).status_code == 404
    listed = walked.send("GET", f"{ORIGIN}/subscriptions?api-version=2022-12-01", token)
    assert walked.subscription in listed.text


def test_the_open_routes_are_those_that_are_named_here(walked: Walked) -> None:
    anonymous = [
        route.path
        for route in mounted(walked.application)
        if any(
            walked.send(method, f"{ORIGIN}{walked.filled(route.path)}").status_code != 401
            for method in sorted(route.methods or ())
        )
    ]
    assert sorted(set(anonymous)) == sorted({**OPEN, **SIGNED})


@pytest.mark.parametrize("database_kind", ["sqlite"])  # tokens know nothing of the database's kind
def test_no_request_is_answered_without_a_right_token(walked: Walked, issuer: Issuer) -> None:
    tokens = issuer.bad()
    everything = [*walked.requests(), *_closed(walked)]
    assert len(everything) > 500
    answers: dict[tuple[str, bool], set[tuple[int, str, str]]] = {}
    for number, asked in enumerate(everything):
        # Every request without a token and with two wrong ones; all wrong ones at some of each kind.
        for place, (name, token) in enumerate(tokens.items()):
            if place == 0 or (number + place) % 11 == 0 or asked.method == "GET":
                status, text, headers = seen(walked.send(asked.method, asked.url, token))
                headers.pop("content-length", None)
                text = text if asked.method != "HEAD" else ""
                is_graph = asked.path.startswith("/v1.0")
                shown = (status, _without_ids(text), _without_ids(json.dumps(headers, sort_keys=True)))
                answers.setdefault((name, is_graph), set()).add(shown)
    for name, found in answers.items():
        assert {status for status, *_ in found} == {401}, name
        # One answer to whatever was asked for (and one without a body, to HEAD).
        assert len({text for _, text, _ in found if text}) == 1, name
        assert all("www-authenticate" in headers for *_, headers in found), name


def _without_ids(text: str) -> str:
    """The text without the ids and the time that every answer has of its own."""
    return re.sub(r"[0-9a-f-]{36}|\d{4}-\d\d-\d\dT[\d:.]+", "*", text)


def _closed(walked: Walked) -> Iterator[Asked]:
    """The application's own routes that are not open, and the open ones by verbs that they don't take."""
    for route in mounted(walked.application):
        is_open = route.path in OPEN or route.path in SIGNED
        for method in VERBS:
            if not is_open or method not in (route.methods or ()):
                yield Asked(method, walked.filled(route.path), "2024-03-03")


def test_who_has_no_role_learns_nothing(walked: Walked, issuer: Issuer) -> None:
    token = issuer.right(walked.newcomer())
    _require_nothing_told(walked, token, statuses={400, 403, 404, 405})


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_an_owner_of_another_tenant_learns_nothing_of_this_one(walked: Walked, issuer: Issuer) -> None:
    foreigner = walked.newcomer(tenant_id=walked.other_tenant())
    with walked.services.database.write() as connection:
        access.assign(connection, foreigner.object_id, access.OWNER, "/")
    _require_nothing_told(walked, issuer.right(foreigner), statuses={400, 403, 404, 405})


def _require_nothing_told(walked: Walked, token: str, statuses: set[int]) -> None:
    """Whatever is asked for is refused, in the same words whether or not it exists."""
    told: list[str] = []
    for asked in walked.requests():
        answer = walked.send(asked.method, asked.url, token)
        if answer.is_success and walked.subscription not in asked.path:
            # What belongs to no subscription, such as the list of those that the caller may read: it holds
            # constants and what is the caller's own.
            assert not any(name in answer.text for name in _names(walked)), (asked, answer.text)
            continue
        if len(told) >= TOLD_MAX:
            break
        if answer.status_code not in statuses:
            told.append(f"{asked}: {answer.status_code}")
        for twin, replaced in walked.twins(asked.path):
            other = walked.send(asked.method, f"{ORIGIN}{twin}?api-version={asked.api_version}", token)
            if seen(other, replaced) != seen(answer):
                told.append(f"{asked}: {seen(answer)[:2]}, but {twin}: {seen(other)[:2]}")
    assert told == [], "These tell something:\n" + "\n".join(told)


def _names(walked: Walked) -> tuple[str, ...]:
    """What stands in an answer that tells of what is there."""
    return (THERE, walked.subscription, walked.first.second_subscription_id, walked.first.object_id)


def test_a_signed_url_tells_nothing_without_its_signature(walked: Walked, issuer: Issuer) -> None:
    tokens = (None, issuer.right(issuer.administrator()))
    queries = ("", "sig=", "sr=b&sp=rw&se=2099-01-01T00:00:00Z&sig=AAAA", "se=4102444800&sig=AAAA")
    for pattern in SIGNED:
        route = next(route for route in mounted(walked.application) if route.path == pattern)
        for method in sorted(route.methods or ()):
            answers = [
                walked.send_as_is(method, _named(pattern, name), query, token)
                for token in tokens
                for query in queries
                for name in (THERE, "0" * 64, "..", "%00", "%ff")
            ]
            assert {answer.status_code for answer in answers} == {403}, pattern
            assert len({answer.text for answer in answers}) == 1, pattern


def _named(pattern: str, name: str) -> str:
    first, second = (part for part in pattern.split("/{")[1:])
    return pattern.replace("{" + first, name).replace("{" + second, "disk.vhd")


def _odd_paths(walked: Walked) -> list[str]:
    """Spellings of paths that a check might look at in another way than what answers."""
    group = f"/subscriptions/{walked.subscription}/resourceGroups/{THERE}"
    gallery = f"{group}/providers/Microsoft.Compute/galleries/{THERE}"
    return [
        spelled
        for path in (group, gallery, "/subscriptions", "/tenants", f"{gallery}/images")
        for spelled in (
            path.upper(),
            f"{path}/",
            f"{path}//",
            f"{path}.",
            f"{path}/.",
            f"{path}/..",
            f"/{path}",
            path.replace("/", "//"),
            "/" + path[1:].replace("/", "%2F"),
            path.replace("/", "/./"),
            path.replace("/", "\\"),
            f"/x/..{path}",
            f"/x/%2e%2e{path}",
            f"/metadata/endpoints/..{path}",
            f"/metadata/endpoints%2f..{path}",
            f"/common/discovery/instance;{path}",
            f"{path}%00",
            f"{path}%20",
            f"{path}%0d%0aX:y",
            f"{path};x=y",
            path.replace("e", "%65"),
            path.replace("e", "%2565"),
            f"{path}%ff",
            f"{path}\\..\\",
        )
    ]


LISTS = ("/subscriptions", "/tenants")
# What no route takes at all: a path or a method that HTTP allows and ARM does not know.
NO_ROUTE = {404: "InvalidResourceId", 405: "MethodNotAllowed"}


def test_odd_spellings_and_verbs_lead_nowhere_without_a_token(walked: Walked) -> None:
    for path in _odd_paths(walked):
        for method in (*VERBS, *ODD_VERBS):
            answer = walked.send_as_is(method, path, "api-version=2024-03-03")
            if answer.status_code != 401:
                assert json.loads(answer.text)["error"]["code"] == NO_ROUTE[answer.status_code]
            assert THERE not in answer.text and walked.subscription not in answer.text
            assert "location" not in answer.headers


def test_odd_spellings_and_verbs_tell_nothing_to_who_has_no_role(walked: Walked, issuer: Issuer) -> None:
    token, query = issuer.right(walked.newcomer()), "api-version=2022-12-01"
    for path in _odd_paths(walked):
        for method in (*VERBS, *ODD_VERBS):
            answer = walked.send_as_is(method, path, query, token)
            is_list = answer.status_code in (200, 204) and unquote(path).lower().rstrip("/") in LISTS
            assert not is_list or not any(name in answer.text for name in _names(walked))
            assert is_list or answer.status_code in (400, 403, 404, 405), (method, path, answer)
            for twin, replaced in walked.twins(path):
                other = walked.send_as_is(method, twin, query, token)
                assert seen(other, replaced) == seen(answer), (method, path, twin)


def test_a_method_can_not_be_overridden(walked: Walked, issuer: Issuer) -> None:
    """A reader's GET stays one, whatever a header says."""
    reader = walked.newcomer()
    group = f"/subscriptions/{walked.subscription}/resourceGroups/{THERE}"
    with walked.services.database.write() as connection:
        access.assign(connection, reader.object_id, access.READER, group.lower())
    token = issuer.right(reader)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        answer = walked.send("GET", f"{ORIGIN}{group}?api-version=2024-11-01", token, **{name: "DELETE"})
        assert answer.status_code == 200
    assert walked.send("HEAD", f"{ORIGIN}{group}?api-version=2024-11-01", token).status_code == 204
