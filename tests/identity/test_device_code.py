"""Device codes: a user types a short code into a page, and the client that waits gets its tokens."""

import re

import httpx
import pytest
from sqlalchemy import func, select

from opengallery.identity import client_secrets as checks
from opengallery.identity import device_codes
from opengallery.identity.device_codes import INTERVAL_S, LIFETIME, SLOWER_S
from opengallery.identity.directory import set_enabled

from .conftest import ENDPOINT, Identity
from .people import (
    BOB,
    CLI,
    PASSWORD,
    POWERSHELL,
    SCOPE,
    add_application,
    add_tenant,
    add_user,
    post,
    refresh,
    refused,
    set_password,
    submit,
)

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
PAGE = "/devicelogin"


def _begin(identity: Identity, tenant: str = "organizations", **changes: str) -> httpx.Response:
    form = {"client_id": CLI, "scope": SCOPE, **changes}
    return identity.client.post(f"/{tenant}/oauth2/v2.0/devicecode", data=form)


def _poll(
    identity: Identity, device_code: str, tenant: str = "organizations", **changes: str
) -> httpx.Response:
    identity.clock.time_s += INTERVAL_S
    return post(
        identity,
        tenant,
        **{"grant_type": GRANT, "client_id": CLI, "device_code": device_code, "client_info": "1", **changes},
    )


def _type_in(identity: Identity, user_code: str) -> httpx.Response:
    """The page that asks for a confirmation."""
    return submit(identity, identity.client.get(PAGE), PAGE, user_code=user_code)


def _approve(identity: Identity, user_code: str) -> httpx.Response:
    page = _type_in(identity, user_code)
    return submit(identity, page, PAGE, username=BOB, password=PASSWORD, action="continue")


def test_a_client_waits_until_its_user_has_signed_in(identity: Identity) -> None:
    bob = add_user(identity)
    begun = _begin(identity).json()
    assert begun["verification_uri"] == f"{ENDPOINT}{PAGE}"
    assert (begun["interval"], begun["expires_in"]) == (INTERVAL_S, LIFETIME.total_seconds())
    assert begun["user_code"] in begun["message"] and begun["verification_uri"] in begun["message"]
    refused(_poll(identity, begun["device_code"]), "authorization_pending", 70016)
    assert "You have signed in to Microsoft Azure CLI" in _approve(identity, begun["user_code"]).text
    answer = _poll(identity, begun["device_code"]).json()
    assert identity.tokens.validate(answer["access_token"]).object_id == bob
    assert answer["id_token"] and answer["client_info"]
    assert refresh(identity, answer["refresh_token"]).status_code == 200
    refused(_poll(identity, begun["device_code"]), "invalid_grant", 70000)
    assert "not known" in _type_in(identity, begun["user_code"]).text


def test_the_page_says_who_asks_before_it_asks_for_a_password(identity: Identity) -> None:
    app_id = add_application(identity, {"isFallbackPublicClient": True})
    user_code = _begin(identity, client_id=app_id).json()["user_code"]
    first = identity.client.get(PAGE)
    assert "password" not in first.text
    page = _type_in(identity, user_code)
    for told in ("An application", user_code, "testclient", "Go on only if you started this yourself"):
        assert told in page.text
    assert _begin(identity).json()["user_code"] not in page.text


def test_a_user_may_refuse(identity: Identity) -> None:
    begun = _begin(identity).json()
    page = _type_in(identity, begun["user_code"])
    assert "refused" in submit(identity, page, PAGE, action="cancel").text
    refused(_poll(identity, begun["device_code"]), "access_denied", 70019)


def test_a_client_that_asks_too_often_is_slowed_down(identity: Identity) -> None:
    code = _begin(identity).json()["device_code"]
    refused(_poll(identity, code), "authorization_pending", 70016)
    identity.clock.time_s -= INTERVAL_S - 1
    refused(_poll(identity, code), "slow_down", 90055)
    refused(_poll(identity, code), "slow_down", 90055)
    identity.clock.time_s += SLOWER_S * 2
    refused(_poll(identity, code), "authorization_pending", 70016)


def test_a_code_is_good_for_a_quarter_of_an_hour(identity: Identity) -> None:
    add_user(identity)
    begun = _begin(identity).json()
    page = _type_in(identity, begun["user_code"])
    identity.clock.time_s += LIFETIME.total_seconds()
    assert "time is over" in _type_in(identity, begun["user_code"]).text
    late = submit(identity, page, PAGE, username=BOB, password=PASSWORD, action="continue")
    assert late.status_code == 400
    refused(_poll(identity, begun["device_code"]), "expired_token", 70020)


def test_a_code_is_typed_as_people_type(identity: Identity) -> None:
    code = _begin(identity).json()["user_code"]
    assert re.fullmatch(r"[B-DF-HJ-NP-TV-XZ]{9}", code)
    typed = f" {code[:3].lower()}-{code[3:6]} {code[6:].lower()}"
    assert "Microsoft Azure CLI" in _type_in(identity, typed).text


def test_a_wrong_password_lets_the_client_wait_on(identity: Identity) -> None:
    add_user(identity)
    begun = _begin(identity).json()
    page = _type_in(identity, begun["user_code"])
    again = submit(identity, page, PAGE, username=BOB, password="wrong", action="continue")
    assert "invalid username or password" in again.text
    refused(_poll(identity, begun["device_code"]), "authorization_pending", 70016)
    assert (
        "You have signed in"
        in submit(identity, again, PAGE, username=BOB, password=PASSWORD, action="continue").text
    )


def test_codes_are_for_their_client_alone(identity: Identity) -> None:
    add_user(identity)
    begun = _begin(identity).json()
    _approve(identity, begun["user_code"])
    refused(_poll(identity, begun["device_code"], client_id=POWERSHELL), "invalid_grant", 70000)
    refused(_poll(identity, begun["user_code"]), "invalid_grant", 70000)
    assert _poll(identity, begun["device_code"]).status_code == 200


def test_a_confirmation_is_good_for_the_code_it_was_shown_for(identity: Identity) -> None:
    add_user(identity)
    mine, theirs = _begin(identity).json(), _begin(identity).json()
    page = _type_in(identity, mine["user_code"])
    answer = submit(
        identity,
        page,
        PAGE,
        username=BOB,
        password=PASSWORD,
        action="continue",
        user_code=theirs["user_code"],
    )
    assert answer.status_code == 403
    refused(_poll(identity, theirs["device_code"]), "authorization_pending", 70016)


def test_a_user_of_another_tenant_can_t_approve(identity: Identity) -> None:
    add_user(identity)
    begun = _begin(identity, tenant=add_tenant(identity)).json()
    assert "invalid username or password" in _approve(identity, begun["user_code"]).text


def test_what_happened_to_the_user_since_counts(identity: Identity) -> None:
    bob = add_user(identity)
    first, second = _begin(identity).json(), _begin(identity).json()
    for begun in (first, second):
        _approve(identity, begun["user_code"])
    with identity.database.write() as connection:
        set_enabled(connection, bob, False)
    refused(_poll(identity, first["device_code"]), "invalid_grant", 50057)
    with identity.database.write() as connection:
        set_enabled(connection, bob, True)
    set_password(identity, bob, "another")
    refused(_poll(identity, second["device_code"]), "invalid_grant", 50173)


def test_only_public_clients_of_the_tenant_get_codes(identity: Identity) -> None:
    confidential = add_application(identity, {}, secret="a secret")
    refused(_begin(identity, client_id=confidential), "invalid_client", 7000218, 401)
    refused(_begin(identity, client_id="nobody"), "unauthorized_client", 700016)
    refused(_begin(identity, tenant="elsewhere"), "invalid_tenant", 90002)
    refused(_begin(identity, scope="https://vault.azure.net/.default"), "invalid_resource", 500011)


def test_who_guesses_codes_has_to_wait_even_when_right(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ADDRESS_FAILURES_MAX", 2)
    code = _begin(identity).json()["user_code"]
    for guess in ("BBBBBBBBB", "CCCCCCCCC"):
        assert _type_in(identity, guess).status_code == 400
    for guess in ("DDDDDDDDD", code):
        assert _type_in(identity, guess).status_code == 429
    identity.clock.time_s += checks.FAILURES_WINDOW_S
    assert _type_in(identity, code).status_code == 200


def test_those_that_wait_are_bounded_and_purged(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_codes, "WAITING_MAX_OF_ADDRESS", 2)
    codes = [_begin(identity).json()["device_code"] for _ in range(2)]
    refused(_begin(identity), "temporarily_unavailable", 90055, 429)
    with identity.database.read() as connection:
        kept = str(connection.execute(select(device_codes.device_codes)).all())
    assert not [code for code in codes if code in kept]
    identity.clock.time_s += 2 * LIFETIME.total_seconds()
    assert _begin(identity).status_code == 200
    with identity.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(device_codes.device_codes)) == 1


def test_the_older_endpoint_names_the_page_in_its_own_way(identity: Identity) -> None:
    add_user(identity)
    form = {"client_id": CLI, "resource": f"{ENDPOINT}/"}
    begun = identity.client.post("/common/oauth2/devicecode", data=form).json()
    assert (begun["verification_url"], begun["interval"]) == (f"{ENDPOINT}{PAGE}", str(INTERVAL_S))
    _approve(identity, begun["user_code"])
    form = {"grant_type": "device_code", "client_id": CLI, "code": begun["device_code"]}
    assert identity.client.post("/common/oauth2/token", data=form).json()["refresh_token"]
