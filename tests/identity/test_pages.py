"""The pages: forms count only when they come from a page of ours, and pages hold nothing but themselves."""

import base64
import hashlib
import re

import httpx
import pytest

from opengallery.identity.clients import Client
from opengallery.identity.pages.page import page
from opengallery.identity.pages.page_tokens import COOKIE, LIFETIME_S

from .conftest import ENDPOINT, Identity
from .people import (
    BOB,
    CLI,
    PASSWORD,
    REDIRECT,
    add_application,
    add_user,
    authorize_query,
    fields_of,
    submit,
)

AUTHORIZE = f"/organizations/oauth2/v2.0/authorize?{authorize_query()}"
SIGN_IN = {"username": BOB, "password": PASSWORD, "action": "continue"}
PAGES = (AUTHORIZE, "/devicelogin", f"/organizations/oauth2/v2.0/authorize?{authorize_query(client_id='x')}")


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """SQLite: pages know nothing of the database's kind."""
    return str(getattr(request, "param", "sqlite"))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_lets_nothing_in_and_is_kept_nowhere(identity: Identity, path: str) -> None:
    response = identity.client.get(path)
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "script-src" not in policy
    style = re.search(r"<style>(.*)</style>", response.text, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy["style-src"] == f"'sha256-{digest}'"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "<script" not in response.text and " on" not in re.sub(r">[^<]*<", "><", response.text)
    assert not re.search(r'(src|href)="', response.text)


def test_a_page_fits_a_phone_and_the_dark(identity: Identity) -> None:
    text = identity.client.get("/devicelogin").text
    assert 'name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme: dark" in text


def test_a_form_may_lead_to_the_client_and_nowhere_else(identity: Identity) -> None:
    policy = identity.client.get(AUTHORIZE).headers["content-security-policy"]
    assert f"form-action 'self' {REDIRECT};" in policy


def test_the_cookie_is_for_our_pages_alone(identity: Identity) -> None:
    cookie = identity.client.get(AUTHORIZE).headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=") and COOKIE.startswith("__Host-")
    for attribute in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    assert "Domain" not in cookie


def _post(identity: Identity, shown: httpx.Response, path: str = AUTHORIZE, **headers: str) -> httpx.Response:
    fields = {**fields_of(shown), **SIGN_IN}
    return identity.client.post(path, data=fields, headers=headers, follow_redirects=False)


def test_a_form_that_comes_from_our_page_is_taken(identity: Identity) -> None:
    add_user(identity)
    for headers in (
        {"origin": ENDPOINT},
        {"origin": "null", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin"},
    ):
        assert _post(identity, identity.client.get(AUTHORIZE), **headers).status_code == 303, headers


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "https://localhost:8444"},
        {"origin": "http://localhost:8443"},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": "null", "sec-fetch-site": "cross-site"},
        {"origin": "null", "sec-fetch-site": "same-site"},
    ],
)
def test_a_form_that_comes_from_elsewhere_is_refused(identity: Identity, headers: dict[str, str]) -> None:
    add_user(identity)
    assert _post(identity, identity.client.get(AUTHORIZE), **headers).status_code == 403


def test_a_form_needs_the_cookie_of_its_page(identity: Identity) -> None:
    add_user(identity)
    shown = identity.client.get(AUTHORIZE)
    identity.client.cookies.clear()
    assert _post(identity, shown, origin=ENDPOINT).status_code == 403
    identity.client.cookies.clear()
    identity.client.get(AUTHORIZE)
    assert _post(identity, shown, origin=ENDPOINT).status_code == 403


@pytest.mark.parametrize(
    "token", ["", ".", "x", "9999999999.", "9999999999." + "0" * 64, "٣.x", "1" * 99 + ".x"]
)
def test_a_token_that_we_did_not_sign_is_refused(identity: Identity, token: str) -> None:
    add_user(identity)
    shown = identity.client.get(AUTHORIZE)
    assert submit(identity, shown, AUTHORIZE, page_token=token, **SIGN_IN).status_code == 403


def test_a_token_is_good_for_its_request_and_a_while(identity: Identity) -> None:
    add_user(identity)
    shown = identity.client.get(AUTHORIZE)
    other = f"/organizations/oauth2/v2.0/authorize?{authorize_query(state='another')}"
    assert _post(identity, shown, other, origin=ENDPOINT).status_code == 403
    assert submit(identity, shown, "/devicelogin", user_code="BBBBBBBBB").status_code == 403
    identity.clock.time_s += LIFETIME_S
    late = _post(identity, shown, origin=ENDPOINT)
    assert late.status_code == 403
    assert _post(identity, late, origin=ENDPOINT).status_code == 303


def test_what_a_request_says_is_shown_as_text(identity: Identity) -> None:
    evil = '"><script>alert(1)</script>'
    name = '<img src=x onerror="alert(1)">'
    app_id = add_application(identity, {"isFallbackPublicClient": True})
    with identity.database.write() as connection:
        connection.exec_driver_sql("update principals set display_name = ? where app_id = ?", (name, app_id))
    query = authorize_query(client_id=app_id, login_hint=evil, state=evil)
    texts = [
        identity.client.get(f"/organizations/oauth2/v2.0/authorize?{query}").text,
        identity.client.get(f"/common/oauth2/v2.0/authorize?{authorize_query(redirect_uri=evil)}").text,
        identity.client.get(f"/{evil}/oauth2/v2.0/authorize?{authorize_query(client_id=evil)}").text,
    ]
    path = f"/organizations/oauth2/v2.0/authorize?{authorize_query(response_mode='form_post', state=evil)}"
    add_user(identity)
    texts.append(submit(identity, identity.client.get(path), path, **SIGN_IN).text)
    for text in texts:
        assert "<script" not in text and "<img" not in text


def test_values_of_a_template_are_escaped() -> None:
    assert "&lt;b&gt;" in bytes(page("A title", "message", message="<b>").body).decode()


def test_a_form_that_can_t_be_read_is_refused(identity: Identity) -> None:
    for path in (AUTHORIZE, "/devicelogin"):
        headers = {"content-type": "application/json", "origin": ENDPOINT}
        response = identity.client.post(path, content=b"{}", headers=headers)
        assert response.status_code == 400
        assert response.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("registered", "asked", "is_taken"),
    [
        ("https://app.example/a", "https://app.example/a", True),
        ("https://app.example/a", "https://app.example/a/", False),
        ("https://app.example/a", "https://app.example:444/a", False),
        ("http://localhost/a", "http://localhost:5/a", True),
        ("http://localhost/a", "http://127.0.0.1:5/a", False),
        ("http://localhost/a", "http://localhost:5/b", False),
        ("http://app.example/a", "http://app.example/a", False),
        ("myapp://signed-in", "myapp://signed-in", False),
    ],
)
def test_a_confidential_client_is_answered_where_it_is_registered(
    registered: str, asked: str, is_taken: bool
) -> None:
    assert (
        Client(CLI, "A client", is_public=False, redirect_uris=(registered,)).takes_redirect(asked)
        is is_taken
    )
