"""Refresh tokens: used once, for one client, for a bounded time; what was stolen ends."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from opengallery.identity import refresh_tokens
from opengallery.identity.directory import set_enabled
from opengallery.identity.refresh_tokens import (
    FAMILY_LIFETIME,
    IDLE_LIFETIME,
    REUSE_GRACE_S,
    end_all,
    token_families,
)

from .conftest import ENDPOINT, Identity
from .people import (
    POWERSHELL,
    add_application,
    add_tenant,
    add_user,
    by_password,
    claims,
    refresh,
    refused,
    set_password,
)

GONE = ("invalid_grant", 70000)


def _first(identity: Identity) -> str:
    return str(by_password(identity).json()["refresh_token"])


def _next(identity: Identity, token: str) -> str:
    response = refresh(identity, token)
    assert response.status_code == 200, response.text
    return str(response.json()["refresh_token"])


def _families(identity: Identity) -> int:
    with identity.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(token_families)) or 0


def test_a_refresh_brings_tokens_for_any_resource_and_a_new_refresh_token(identity: Identity) -> None:
    bob = add_user(identity)
    token = _first(identity)
    for scope in ("https://management.azure.com/.default", f"{ENDPOINT}/user_impersonation openid"):
        answer = refresh(identity, token, scope=scope).json()
        assert claims(answer["access_token"])["aud"] == scope.split("/.default")[0].split("/user_")[0]
        assert identity.tokens.validate(answer["access_token"]).object_id == bob
        assert ("id_token" in answer) is ("openid" in scope)
        assert answer["refresh_token"] != token
        token = answer["refresh_token"]
    assert claims(refresh(identity, token, scope="").json()["access_token"])["aud"] == f"{ENDPOINT}/"


def test_only_digests_are_kept(identity: Identity) -> None:
    add_user(identity)
    token = _next(identity, _first(identity))
    with identity.database.read() as connection:
        kept = str(connection.execute(select(token_families)).all())
    for part in token.split("."):
        assert len(part) >= 32
        assert part not in kept


def test_a_token_that_comes_again_ends_all_that_followed(identity: Identity) -> None:
    add_user(identity)
    first, other = _first(identity), _first(identity)
    second = _next(identity, first)
    identity.clock.time_s += REUSE_GRACE_S + 1
    refused(refresh(identity, first), *GONE)
    refused(refresh(identity, second), *GONE)
    assert _next(identity, other)


def test_two_commands_at_once_are_no_theft(identity: Identity) -> None:
    add_user(identity)
    first = _first(identity)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: refresh(identity, first), range(4)))
    assert {answer.status_code for answer in answers} == {200}
    identity.clock.time_s += REUSE_GRACE_S + 1
    assert all(_next(identity, answer.json()["refresh_token"]) for answer in answers)
    refused(refresh(identity, first), *GONE)


def test_a_family_is_one_row_however_often_it_is_used(identity: Identity) -> None:
    add_user(identity)
    token = _first(identity)
    for _ in range(5):
        token = _next(identity, token)
        identity.clock.time_s += REUSE_GRACE_S + 1
    _next(identity, token)
    with identity.database.read() as connection:
        row = connection.execute(select(token_families)).one()
    assert (len(row.live), len(row.used)) == (1, 1)


def test_waiting_tokens_of_a_family_are_bounded(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh_tokens, "LIVE_MAX", 3)
    add_user(identity)
    first = _first(identity)
    tokens = [_next(identity, first) for _ in range(5)]
    assert _next(identity, tokens[-1])
    refused(refresh(identity, tokens[0]), *GONE)


def test_sign_ins_of_a_user_are_bounded(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh_tokens, "FAMILIES_MAX", 2)
    add_user(identity)
    tokens = []
    for _ in range(3):
        identity.clock.time_s += 1
        tokens.append(_first(identity))
    refused(refresh(identity, tokens[0]), *GONE)
    assert all(_next(identity, token) for token in tokens[1:])


def test_a_token_is_over_when_it_was_not_used_for_long(identity: Identity) -> None:
    add_user(identity)
    token = _first(identity)
    identity.clock.time_s += IDLE_LIFETIME.total_seconds() - 1
    token = _next(identity, token)
    identity.clock.time_s += IDLE_LIFETIME.total_seconds()
    refused(refresh(identity, token), "invalid_grant", 700082)


def test_a_sign_in_is_over_in_the_end_however_often_it_is_used(identity: Identity) -> None:
    add_user(identity)
    token, passed, step = _first(identity), timedelta(), timedelta(days=13)
    while passed + step < FAMILY_LIFETIME:
        identity.clock.time_s += step.total_seconds()
        passed += step
        token = _next(identity, token)
    identity.clock.time_s += step.total_seconds()
    refused(refresh(identity, token), "invalid_grant", 700082)


def test_what_has_expired_is_deleted(identity: Identity) -> None:
    add_user(identity)
    for _ in range(3):
        _first(identity)
    identity.clock.time_s += IDLE_LIFETIME.total_seconds()
    _first(identity)
    assert _families(identity) == 1


def test_a_token_is_for_its_client_alone(identity: Identity) -> None:
    add_user(identity)
    token = _first(identity)
    public = add_application(identity, {"isFallbackPublicClient": True})
    for client_id in (POWERSHELL, public):
        refused(refresh(identity, token, client_id=client_id), *GONE)
    assert _next(identity, token)


def test_a_confidential_client_has_to_prove_itself_at_each_refresh(identity: Identity) -> None:
    add_user(identity)
    app_id = add_application(identity, {}, secret="a secret")
    token = by_password(identity, client_id=app_id, client_secret="a secret").json()["refresh_token"]
    refused(refresh(identity, token, client_id=app_id), "invalid_client", 7000218, 401)
    assert refresh(identity, token, client_id=app_id, client_secret="a secret").status_code == 200


def test_a_token_is_good_in_its_users_tenant_alone(identity: Identity) -> None:
    add_user(identity)
    token = _first(identity)
    refused(refresh(identity, token, tenant=add_tenant(identity)), *GONE)
    refused(refresh(identity, token, tenant="elsewhere"), "invalid_tenant", 90002)
    assert _next(identity, token)


def test_a_disabled_user_is_refused_at_once(identity: Identity) -> None:
    bob = add_user(identity)
    token = _first(identity)
    with identity.database.write() as connection:
        set_enabled(connection, bob, False)
    refused(refresh(identity, token), "invalid_grant", 50057)
    with identity.database.write() as connection:
        set_enabled(connection, bob, True)
    assert _next(identity, token)


def test_a_new_password_ends_what_was_issued_before(identity: Identity) -> None:
    bob = add_user(identity)
    token = _first(identity)
    set_password(identity, bob, "another")
    refused(refresh(identity, token), "invalid_grant", 50173)
    refused(refresh(identity, token), *GONE)
    later = by_password(identity, password="another").json()["refresh_token"]
    assert _next(identity, later)


def test_all_of_a_users_sign_ins_can_be_ended(identity: Identity) -> None:
    bob = add_user(identity)
    tokens = [_first(identity), _first(identity)]
    with identity.database.write() as connection:
        end_all(connection, bob)
    for token in tokens:
        refused(refresh(identity, token), *GONE)


def test_what_is_no_token_is_refused(identity: Identity) -> None:
    add_user(identity)
    family, _, secret = _first(identity).partition(".")
    for token in ("x", ".", f"{family[:-1]}.{secret}", secret, "x" * 5000, "ü"):
        refused(refresh(identity, token), *GONE)
    refused(refresh(identity, f"{family}.{secret[:-1]}"), *GONE)
