"""The authorize page and the codes it gives: to whom, by which proof, once."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import func, select

from opengallery.identity import authorization_codes
from opengallery.identity.authorization_codes import LIFETIME
from opengallery.identity.directory import set_enabled

from .conftest import ENDPOINT, Identity
from .people import (
    BOB,
    CHALLENGE,
    CLI,
    PASSWORD,
    POWERSHELL,
    REDIRECT,
    VERIFIER,
    add_application,
    add_tenant,
    add_user,
    authorize_query,
    claims,
    code_of,
    fields_of,
    redeem,
    refresh,
    refused,
    set_password,
    sign_in_by_page,
    submit,
)

PATH = "/organizations/oauth2/v2.0/authorize"


def _answer(response: httpx.Response) -> dict[str, str]:
    """What the client is told in the query of its redirect URI."""
    assert response.status_code == 303, response.text
    location = urlsplit(response.headers["location"])
    assert f"{location.scheme}://{location.netloc}" == REDIRECT
    return {name: values[0] for name, values in parse_qs(location.query).items()}


def test_a_browser_brings_a_code_that_brings_tokens(identity: Identity) -> None:
    bob = add_user(identity)
    told = _answer(sign_in_by_page(identity))
    assert told["state"] == "a state & more"
    answer = redeem(identity, told["code"]).json()
    assert identity.tokens.validate(answer["access_token"]).object_id == bob
    id_claims = claims(answer["id_token"])
    assert (id_claims["aud"], id_claims["nonce"]) == (CLI, "a nonce")
    assert answer["client_info"]
    assert refresh(identity, answer["refresh_token"]).status_code == 200


def test_the_scopes_are_those_that_the_page_was_opened_for(identity: Identity) -> None:
    add_user(identity)
    code = code_of(sign_in_by_page(identity, scope=f"{ENDPOINT}/.default"))
    answer = redeem(identity, code).json()
    assert not {"refresh_token", "id_token"} & answer.keys()


def test_a_code_is_good_once_and_its_tokens_end_when_it_comes_again(identity: Identity) -> None:
    add_user(identity)
    code = code_of(sign_in_by_page(identity))
    token = redeem(identity, code).json()["refresh_token"]
    refused(redeem(identity, code), "invalid_grant", 54005)
    refused(refresh(identity, token), "invalid_grant", 70000)


WRONG: list[tuple[dict[str, str], int]] = [
    ({"code_verifier": "w" * 43}, 501481),
    ({"code_verifier": ""}, 501481),
    ({"code_verifier": CHALLENGE}, 501481),
    ({"code_verifier": "short"}, 501481),
    ({"redirect_uri": "http://localhost:41998"}, 50011),
    ({"redirect_uri": ""}, 50011),
]


@pytest.mark.parametrize(("changes", "number"), WRONG)
def test_a_wrong_request_is_refused_and_uses_the_code_up(
    identity: Identity, changes: dict[str, str], number: int
) -> None:
    add_user(identity)
    code = code_of(sign_in_by_page(identity))
    refused(redeem(identity, code, **changes), "invalid_grant", number)
    refused(redeem(identity, code), "invalid_grant", 54005)


def test_a_code_is_for_its_client_alone(identity: Identity) -> None:
    add_user(identity)
    code = code_of(sign_in_by_page(identity))
    refused(redeem(identity, code, client_id=POWERSHELL), "invalid_grant", 70000)
    assert redeem(identity, code).status_code == 200
    refused(redeem(identity, "no code"), "invalid_grant", 70000)


def test_a_code_is_good_for_minutes(identity: Identity) -> None:
    add_user(identity)
    code = code_of(sign_in_by_page(identity))
    identity.clock.time_s += LIFETIME.total_seconds()
    refused(redeem(identity, code), "invalid_grant", 70008)


def test_a_code_is_good_in_its_users_tenant_alone(identity: Identity) -> None:
    add_user(identity)
    code = code_of(sign_in_by_page(identity))
    refused(redeem(identity, code, tenant=add_tenant(identity)), "invalid_grant", 70000)


def test_what_happened_to_the_user_since_counts(identity: Identity) -> None:
    bob = add_user(identity)
    first, second = (code_of(sign_in_by_page(identity)) for _ in range(2))
    with identity.database.write() as connection:
        set_enabled(connection, bob, False)
    refused(redeem(identity, first), "invalid_grant", 50057)
    with identity.database.write() as connection:
        set_enabled(connection, bob, True)
    set_password(identity, bob, "another")
    refused(redeem(identity, second), "invalid_grant", 50173)


def test_codes_are_kept_as_digests_bounded_and_purged(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorization_codes, "CODES_MAX", 2)
    add_user(identity)
    table = authorization_codes.authorization_codes

    def kept() -> list[Any]:
        with identity.database.read() as connection:
            return list(connection.execute(select(table)).all())

    codes = []
    for _ in range(3):
        identity.clock.time_s += 1
        codes.append(code_of(sign_in_by_page(identity)))
    assert not [code for code in codes if code in str(kept())]
    refused(redeem(identity, codes[0]), "invalid_grant", 70000)
    identity.clock.time_s += LIFETIME.total_seconds()
    sign_in_by_page(identity)
    with identity.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(table)) == 1


SENT_NOWHERE: list[dict[str, str | None]] = [
    {"client_id": None},
    {"client_id": "00000000-0000-0000-0000-000000000001"},
    {"redirect_uri": None},
    {"redirect_uri": "https://evil.example/"},
    {"redirect_uri": "http://localhost.evil.example:1"},
    {"redirect_uri": "http://evil.example@localhost:1"},
    {"redirect_uri": "http://localhost@evil.example:1"},
    {"redirect_uri": "http://localhost:1/#fragment"},
    {"redirect_uri": "https://localhost:1/"},
    {"redirect_uri": "http://localhost:99999999"},
    {"redirect_uri": "javascript:alert(1)//localhost"},
    {"redirect_uri": "http://localhost\\@evil.example"},
    {"redirect_uri": "http://localhost:1/\r\nset-cookie: a=b"},
    {"redirect_uri": f"http://localhost/{'x' * 3000}"},
    {"response_mode": "web_message"},
    {"state": "x" * 9000},
]


@pytest.mark.parametrize("changes", SENT_NOWHERE)
def test_a_request_that_can_t_be_trusted_is_answered_here(
    identity: Identity, changes: dict[str, str | None]
) -> None:
    response = identity.client.get(f"{PATH}?{authorize_query(**changes)}", follow_redirects=False)
    assert response.status_code == 400
    assert "location" not in response.headers
    assert "AADSTS" in response.text


SENT_BACK: list[tuple[dict[str, str | None], str]] = [
    ({"response_type": "token"}, "unsupported_response_type"),
    ({"response_type": "code id_token"}, "unsupported_response_type"),
    ({"response_type": None}, "invalid_request"),
    ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
    ({"code_challenge": None}, "invalid_request"),
    ({"code_challenge_method": "plain"}, "invalid_request"),
    ({"code_challenge_method": None}, "invalid_request"),
    ({"code_challenge": "short"}, "invalid_request"),
    ({"prompt": "none"}, "login_required"),
    ({"prompt": "create"}, "invalid_request"),
    ({"request": "x"}, "request_not_supported"),
    ({"nonce": "x" * 2000}, "invalid_request"),
    ({"scope": "https://vault.azure.net/.default"}, "invalid_resource"),
]


@pytest.mark.parametrize(("changes", "error"), SENT_BACK)
def test_a_request_that_is_wrong_is_sent_back_to_the_client(
    identity: Identity, changes: dict[str, str | None], error: str
) -> None:
    told = _answer(identity.client.get(f"{PATH}?{authorize_query(**changes)}", follow_redirects=False))
    assert (told["error"], told["state"]) == (error, "a state & more")
    assert "code" not in told


@pytest.mark.parametrize(
    "uri", ["http://localhost", "http://localhost:1/a?b=c", "http://127.0.0.1:5", "http://[::1]:5/x"]
)
def test_a_public_client_is_answered_on_the_users_own_machine(identity: Identity, uri: str) -> None:
    add_user(identity)
    location = sign_in_by_page(identity, redirect_uri=uri).headers["location"]
    assert location.startswith(uri + ("&" if "?" in uri else "?") + "code=")


def test_an_application_is_answered_where_it_is_registered(identity: Identity) -> None:
    add_user(identity)
    details = {"web": {"redirectUris": ["https://app.example/signed-in", "http://localhost/here"]}}
    app_id = add_application(identity, details, secret="a secret")
    good = ("https://app.example/signed-in", "http://localhost:4711/here")
    for uri in good:
        code = code_of(
            sign_in_by_page(
                identity, client_id=app_id, redirect_uri=uri, code_challenge=None, code_challenge_method=None
            )
        )
        answer = redeem(
            identity, code, client_id=app_id, redirect_uri=uri, code_verifier="", client_secret="a secret"
        )
        assert answer.status_code == 200, answer.text
    for uri in (
        "https://app.example/",
        "https://app.example/signed-in/x",
        "http://localhost:4711/there",
        REDIRECT,
    ):
        query = authorize_query(client_id=app_id, redirect_uri=uri)
        assert identity.client.get(f"{PATH}?{query}", follow_redirects=False).status_code == 400


def test_a_public_application_is_answered_where_it_is_registered_too(identity: Identity) -> None:
    add_user(identity)
    details = {"publicClient": {"redirectUris": ["https://native.example/"]}}
    app_id = add_application(identity, details)
    code = code_of(sign_in_by_page(identity, client_id=app_id, redirect_uri="https://native.example/"))
    changes = {"client_id": app_id, "redirect_uri": "https://native.example/"}
    assert redeem(identity, code, **changes).status_code == 200


def test_a_proof_that_was_not_asked_for_is_refused(identity: Identity) -> None:
    add_user(identity)
    app_id = add_application(identity, {"web": {"redirectUris": ["https://app.example/"]}}, secret="a secret")
    changes = {"client_id": app_id, "redirect_uri": "https://app.example/"}
    code = code_of(sign_in_by_page(identity, code_challenge=None, code_challenge_method=None, **changes))
    response = redeem(identity, code, client_secret="a secret", code_verifier=VERIFIER, **changes)
    refused(response, "invalid_grant", 501481)


def test_a_confidential_client_has_to_prove_itself(identity: Identity) -> None:
    add_user(identity)
    app_id = add_application(identity, {"web": {"redirectUris": ["https://app.example/"]}}, secret="a secret")
    changes = {"client_id": app_id, "redirect_uri": "https://app.example/"}
    code = code_of(sign_in_by_page(identity, **changes))
    refused(redeem(identity, code, **changes), "invalid_client", 7000218, 401)
    assert redeem(identity, code, client_secret="a secret", **changes).status_code == 200


@pytest.mark.parametrize("mode", ["query", "fragment", "form_post"])
def test_the_answer_comes_in_the_way_that_the_client_wants(identity: Identity, mode: str) -> None:
    add_user(identity)
    response = sign_in_by_page(identity, response_mode=mode)
    if mode == "form_post":
        assert f'action="{REDIRECT}"' in response.text
        told = fields_of(response)
    else:
        parts = urlsplit(response.headers["location"])
        text = parts.query if mode == "query" else parts.fragment
        told = {name: values[0] for name, values in parse_qs(text).items()}
    assert told["state"] == "a state & more"
    assert redeem(identity, told["code"]).status_code == 200


def test_a_user_may_cancel(identity: Identity) -> None:
    path = f"{PATH}?{authorize_query()}"
    told = _answer(submit(identity, identity.client.get(path), path, action="cancel"))
    assert told["error"] == "access_denied"


def test_a_wrong_password_shows_the_page_again(identity: Identity) -> None:
    add_user(identity)
    path = f"{PATH}?{authorize_query()}"
    page = submit(
        identity, identity.client.get(path), path, username=BOB, password="wrong", action="continue"
    )
    assert page.status_code == 400
    assert "invalid username or password" in page.text
    assert (fields_of(page)["username"], fields_of(page)["password"]) == (BOB, "")
    code = code_of(submit(identity, page, path, username=BOB, password=PASSWORD, action="continue"))
    assert redeem(identity, code).status_code == 200


def test_a_user_of_another_tenant_can_t_sign_in_by_this_one(identity: Identity) -> None:
    add_user(identity)
    path = f"/{add_tenant(identity)}/oauth2/v2.0/authorize?{authorize_query()}"
    page = submit(
        identity, identity.client.get(path), path, username=BOB, password=PASSWORD, action="continue"
    )
    assert page.status_code == 400
    assert "invalid username or password" in page.text


def test_the_hint_is_filled_in(identity: Identity) -> None:
    page = identity.client.get(f"{PATH}?{authorize_query(login_hint=BOB)}")
    assert fields_of(page)["username"] == BOB


def test_the_older_endpoint_takes_a_resource(identity: Identity) -> None:
    bob = add_user(identity)
    query = authorize_query(scope=None, resource=f"{ENDPOINT}/")
    path = f"/common/oauth2/authorize?{query}"
    code = code_of(
        submit(identity, identity.client.get(path), path, username=BOB, password=PASSWORD, action="continue")
    )
    form = {"grant_type": "authorization_code", "client_id": CLI, "code": code, "redirect_uri": REDIRECT}
    answer = identity.client.post("/common/oauth2/token", data={**form, "code_verifier": VERIFIER}).json()
    assert identity.tokens.validate(answer["access_token"]).object_id == bob
    assert answer["resource"] == f"{ENDPOINT}/"


def test_the_proof_is_the_standard_s(identity: Identity) -> None:
    # RFC 7636, appendix B.
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    add_user(identity)
    code = code_of(sign_in_by_page(identity, code_challenge=challenge))
    assert redeem(identity, code, code_verifier=verifier).status_code == 200
