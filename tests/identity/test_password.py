"""Users sign in by name and password: what they get, and that a refusal tells nothing."""

import base64
import json

import pytest
from joserfc import jwk, jwt

from opengallery.identity import client_secrets as checks
from opengallery.identity import failures
from opengallery.identity.directory import set_enabled
from opengallery.identity.failures import Failures
from opengallery.identity.tokens import InvalidToken

from .conftest import ENDPOINT, Identity
from .people import (
    BOB,
    CLI,
    PASSWORD,
    SCOPE,
    add_application,
    add_tenant,
    add_user,
    by_password,
    claims,
    refused,
    set_password,
)


def test_a_user_gets_tokens_that_name_them_and_the_client(identity: Identity) -> None:
    bob = add_user(identity)
    answer = by_password(identity).json()
    principal = identity.tokens.validate(answer["access_token"])
    assert (principal.object_id, principal.kind, principal.app_id) == (bob, "User", None)
    access = claims(answer["access_token"])
    assert access["aud"] == f"{ENDPOINT}/"
    assert (access["oid"], access["tid"]) == (bob, identity.first.tenant_id)
    assert (access["appid"], access["azp"], access["azpacr"]) == (CLI, CLI, "0")
    assert (access["idtyp"], access["scp"]) == ("user", "user_impersonation")
    assert access["upn"] == access["preferred_username"] == BOB
    info = json.loads(base64.urlsafe_b64decode(answer["client_info"] + "=="))
    assert info == {"uid": bob, "utid": identity.first.tenant_id}
    assert set(SCOPE.split()) & set(answer["scope"].split()) == {f"{ENDPOINT}//.default"}
    assert (answer["token_type"], answer["expires_in"]) == ("Bearer", 3599)


def test_an_id_token_is_for_the_client_and_no_access_token(identity: Identity) -> None:
    bob = add_user(identity)
    id_token = by_password(identity).json()["id_token"]
    keys = jwk.KeySet.import_key_set({"keys": identity.keys.public()})
    checked = jwt.decode(id_token, keys, algorithms=["RS256"]).claims
    assert (checked["aud"], checked["oid"], checked["preferred_username"]) == (CLI, bob, BOB)
    assert checked["iss"] == f"{ENDPOINT}/{identity.first.tenant_id}/v2.0"
    with pytest.raises(InvalidToken):
        identity.tokens.validate(id_token)


def test_a_client_gets_only_what_it_asks_for(identity: Identity) -> None:
    add_user(identity)
    answer = by_password(identity, scope=f"{ENDPOINT}/.default", client_info="").json()
    assert not {"id_token", "refresh_token", "client_info"} & answer.keys()
    assert by_password(identity, scope="openid").json()["access_token"]


def test_the_older_endpoint_signs_users_in_too(identity: Identity) -> None:
    bob = add_user(identity)
    form = {"grant_type": "password", "client_id": CLI, "username": BOB, "password": PASSWORD}
    answer = identity.client.post("/common/oauth2/token", data={**form, "resource": f"{ENDPOINT}/"}).json()
    assert identity.tokens.validate(answer["access_token"]).object_id == bob
    assert claims(answer["access_token"])["appidacr"] == "0"
    assert answer["refresh_token"] and answer["id_token"] and answer["expires_on"].isdigit()


def test_no_answer_tells_whether_there_is_such_a_user(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_user(identity)
    add_user(identity, "nopassword@local", None)
    add_user(identity, "elsewhere@local", tenant_id=add_tenant(identity))
    disabled = add_user(identity, "disabled@local")
    with identity.database.write() as connection:
        set_enabled(connection, disabled, False)
    verified: list[str] = []
    verify = checks._hasher.verify

    class Counted:
        def verify(self, hash_: str, secret: str) -> bool:
            verified.append(hash_)
            return verify(hash_, secret)

    monkeypatch.setattr(checks, "_hasher", Counted())
    checks.nobodys_password()
    names = (BOB, "nobody@local", "nopassword@local", "elsewhere@local", "disabled@local", "", "x" * 300)
    told = set()
    for name in names:
        response = by_password(
            identity, tenant=identity.first.tenant_id, username=name or " ", password="wrong"
        )
        refused(response, "invalid_grant", 50126)
        told.add(response.json()["error_description"].partition(" Trace ID")[0])
    assert len(told) == 1
    assert len(verified) == len(names)
    refused(
        by_password(identity, tenant=identity.first.tenant_id, username="elsewhere@local"),
        "invalid_grant",
        50126,
    )


def test_that_a_user_is_disabled_is_said_to_who_knows_the_password(identity: Identity) -> None:
    bob = add_user(identity)
    assert by_password(identity).status_code == 200
    with identity.database.write() as connection:
        set_enabled(connection, bob, False)
    refused(by_password(identity), "invalid_grant", 50057)
    refused(by_password(identity, password="wrong"), "invalid_grant", 50126)


def test_names_are_found_in_any_case(identity: Identity) -> None:
    add_user(identity)
    assert by_password(identity, username=" BOB@Local").status_code == 200


def test_the_old_password_is_over_at_once(identity: Identity) -> None:
    bob = add_user(identity)
    assert by_password(identity).status_code == 200
    set_password(identity, bob, "another")
    refused(by_password(identity), "invalid_grant", 50126)
    assert by_password(identity, password="another").status_code == 200


@pytest.mark.parametrize("name", [BOB, "nobody@local"])
def test_an_account_that_fails_too_often_is_locked_for_a_while(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(checks, "FAILURES_MAX", 2)
    add_user(identity)
    for attempt in range(2):
        refused(by_password(identity, username=name, password=f"wrong {attempt}"), "invalid_grant", 50126)
    locked = by_password(identity, username=name, password="wrong again")
    refused(locked, "invalid_grant", 50053)
    assert 1 <= int(locked.headers["retry-after"]) <= 60
    identity.clock.time_s += checks.FAILURES_WINDOW_S
    refused(by_password(identity, username=name, password="wrong"), "invalid_grant", 50126)


def test_an_address_that_fails_too_often_waits_whatever_the_name(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "ADDRESS_FAILURES_MAX", 2)
    add_user(identity)
    for attempt in range(2):
        refused(by_password(identity, username=f"{attempt}@local"), "invalid_grant", 50126)
    refused(by_password(identity), "temporarily_unavailable", 90055, 429)
    identity.clock.time_s += checks.FAILURES_WINDOW_S
    assert by_password(identity).status_code == 200


def test_failures_are_forgotten_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "NAMES_MAX", 2)
    counted = Failures(lambda: 0.0)
    for name in ("a", "b", "a", "c"):
        counted.add(name)
    assert [counted.wait_s(name, 1, 60.0) > 0 for name in "abc"] == [True, False, True]


def test_only_a_client_that_proves_itself_or_is_public_may_ask(identity: Identity) -> None:
    add_user(identity)
    public = add_application(identity, {"isFallbackPublicClient": True})
    confidential = add_application(identity, {}, secret="a secret")
    foreign = add_application(identity, {"isFallbackPublicClient": True}, tenant_id=add_tenant(identity))
    assert by_password(identity, client_id=public).status_code == 200
    refused(by_password(identity, client_id=confidential), "invalid_client", 7000218, 401)
    right = by_password(identity, client_id=confidential, client_secret="a secret")
    assert claims(right.json()["access_token"])["azpacr"] == "1"
    wrong = by_password(identity, client_id=confidential, client_secret="wrong")
    refused(wrong, "invalid_client", 7000215, 401)
    refused(by_password(identity, client_id=foreign), "invalid_grant", 50126)
    own_tenant = by_password(identity, client_id=foreign, tenant=identity.first.tenant_id)
    refused(own_tenant, "unauthorized_client", 700016)
    refused(by_password(identity, client_secret="a secret"), "invalid_client", 700025, 401)


@pytest.mark.parametrize(
    ("scope", "error", "code"),
    [
        ("https://vault.azure.net/.default", "invalid_resource", 500011),
        ("User.Read", "invalid_scope", 70011),
        (f"{ENDPOINT}/.default https://management.azure.com/.default", "invalid_scope", 70011),
        ("x" * 5000, "invalid_scope", 70011),
    ],
)
def test_a_scope_of_nobody_s_is_refused(identity: Identity, scope: str, error: str, code: int) -> None:
    add_user(identity)
    refused(by_password(identity, scope=scope), error, code)


def test_a_public_client_can_t_act_in_its_own_name(identity: Identity) -> None:
    public = add_application(identity, {"isFallbackPublicClient": True})
    for client_id in (CLI, public):
        form = identity.form(client_id=client_id, client_secret="")
        refused(identity.client.post(identity.token_path, data=form), "invalid_client", 7000218, 401)
