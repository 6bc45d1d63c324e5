"""The routes: discovery as az and the SDKs read it, and the token endpoint with Entra's errors."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jwk, jwt
from sqlalchemy import insert, update

from opengallery.database import now
from opengallery.identity import client_secrets as checks
from opengallery.identity.applications import client_secrets
from opengallery.identity.client_secrets import hash_secret
from opengallery.identity.directory import set_enabled

from .conftest import ENDPOINT, Identity


def _refused(response: Any, status: int, error: str, code: int) -> None:
    answer = response.json()
    assert (response.status_code, answer["error"], answer["error_codes"]) == (status, error, [code]), answer
    assert answer["error_description"].startswith(f"AADSTS{code}: ")
    assert answer["correlation_id"] in answer["error_description"]
    assert answer["timestamp"]


def test_a_token_for_the_administrator(identity: Identity) -> None:
    response = identity.client.post(identity.token_path, data=identity.form())
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == answer["ext_expires_in"] == 3599
    principal = identity.tokens.validate(answer["access_token"])
    assert principal.object_id == identity.first.object_id


@pytest.mark.parametrize(
    ("scope", "audience"),
    [(f"{ENDPOINT}//.default", f"{ENDPOINT}/"), (f"{ENDPOINT}/.default", ENDPOINT)],
)
def test_the_slash_of_the_resource_is_kept(identity: Identity, scope: str, audience: str) -> None:
    answer = identity.client.post(identity.token_path, data=identity.form(scope=scope)).json()
    claims = answer["access_token"].split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["aud"] == audience


def test_a_stranger_verifies_a_token_by_discovery_alone(identity: Identity) -> None:
    base = f"/{identity.first.tenant_id}/v2.0/.well-known/openid-configuration"
    discovery = identity.client.get(base).json()
    path = discovery["token_endpoint"].removeprefix(ENDPOINT)
    token = identity.client.post(path, data=identity.form()).json()["access_token"]
    key_set = identity.client.get(discovery["jwks_uri"].removeprefix(ENDPOINT)).json()
    assert all(not {"d", "p", "q", "dp", "dq", "qi"} & key.keys() for key in key_set["keys"])
    decoded = jwt.decode(token, jwk.KeySet.import_key_set(key_set), algorithms=["RS256"])
    assert decoded.claims["iss"] == discovery["issuer"]
    assert decoded.header["kid"] == key_set["keys"][0]["kid"]


@pytest.mark.parametrize("version", ["/v2.0", ""])
def test_every_name_of_the_tenant_leads_to_it(identity: Identity, version: str) -> None:
    tenant_id = identity.first.tenant_id
    field = {"scope": f"{ENDPOINT}/.default"} if version else {"resource": ENDPOINT}
    for name in ("organizations", "common", "COMMON", tenant_id, tenant_id.upper()):
        answer = identity.client.get(f"/{name}{version}/.well-known/openid-configuration").json()
        assert answer["issuer"] == f"{ENDPOINT}/{tenant_id}/" + version.removeprefix("/")
        path = answer["token_endpoint"].removeprefix(ENDPOINT)
        assert identity.client.post(path, data=identity.form(**field)).status_code == 200
        assert identity.client.get(f"/{name}/discovery/v2.0/keys").json()["keys"]


def test_a_tenant_that_is_not_here_is_not_found(identity: Identity) -> None:
    for tenant in ("00000000-0000-0000-0000-000000000001", "consumers", "subscriptions", "%2e%2e", "a%00b"):
        for answer in (
            identity.client.get(f"/{tenant}/v2.0/.well-known/openid-configuration"),
            identity.client.get(f"/{tenant}/discovery/v2.0/keys"),
            identity.client.post(f"/{tenant}/oauth2/v2.0/token", data=identity.form()),
        ):
            _refused(answer, 400, "invalid_tenant", 90002)


def test_the_older_endpoint_takes_a_resource_and_answers_in_text(identity: Identity) -> None:
    path = f"/{identity.first.tenant_id}/oauth2/token"
    answer = identity.client.post(path, data=identity.form(resource=f"{ENDPOINT}/")).json()
    assert (answer["expires_in"], answer["resource"]) == ("3599", f"{ENDPOINT}/")
    assert int(answer["expires_on"]) - int(answer["not_before"]) == 3600
    assert identity.tokens.validate(answer["access_token"]).object_id == identity.first.object_id
    _refused(identity.client.post(path, data=identity.form()), 400, "invalid_request", 900144)


def test_the_client_may_authenticate_by_http_basic(identity: Identity) -> None:
    form = identity.form()
    credentials = (form.pop("client_id"), form.pop("client_secret"))
    assert identity.client.post(identity.token_path, data=form, auth=credentials).status_code == 200
    wrong = identity.client.post(identity.token_path, data=form, auth=(credentials[0], "wrong"))
    _refused(wrong, 401, "invalid_client", 7000215)
    for header in ("Basic", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode()):
        answer = identity.client.post(identity.token_path, data=form, headers={"authorization": header})
        _refused(answer, 400, "invalid_request", 90100)


REFUSALS = [
    ({"client_secret": "wrong"}, 401, "invalid_client", 7000215),
    ({"client_secret": "x" * 5000}, 401, "invalid_client", 7000215),
    ({"client_secret": ""}, 401, "invalid_client", 7000218),
    ({"client_id": "00000000-0000-0000-0000-000000000001"}, 400, "unauthorized_client", 700016),
    ({"client_id": "' or 1=1 --"}, 400, "unauthorized_client", 700016),
    ({"client_id": "a\0b"}, 400, "invalid_request", 90100),
    ({"client_id": ""}, 400, "invalid_request", 900144),
    ({"grant_type": "password"}, 400, "invalid_request", 900144),
    ({"grant_type": "refresh_token"}, 400, "invalid_request", 900144),
    ({"grant_type": "implicit"}, 400, "unsupported_grant_type", 70003),
    ({"grant_type": "device_code"}, 400, "unsupported_grant_type", 70003),
    ({"grant_type": ""}, 400, "invalid_request", 900144),
    ({"scope": ""}, 400, "invalid_request", 900144),
    ({"scope": f"{ENDPOINT}/user_impersonation"}, 400, "invalid_scope", 1002012),
    ({"scope": f"openid {ENDPOINT}/.default"}, 400, "invalid_scope", 1002012),
    ({"scope": "https://vault.azure.net/.default"}, 400, "invalid_resource", 500011),
]


def test_refusals_are_entra_s(identity: Identity) -> None:
    for changes, status, error, code in REFUSALS:
        answer = identity.client.post(identity.token_path, data=identity.form(**changes))
        _refused(answer, status, error, code)


def test_a_refusal_carries_the_client_s_correlation_id(identity: Identity) -> None:
    asked = "11111111-2222-3333-4444-555555555555"
    form = identity.form(client_secret="wrong")
    for header, expected in ((asked, True), ("<script>", False)):
        answer = identity.client.post(
            identity.token_path, data=form, headers={"client-request-id": header}
        ).json()
        assert (answer["correlation_id"] == header) is expected
        assert "<script>" not in answer["error_description"]


UNUSABLE_FORMS = [
    (b"{}", "application/json"),
    (b"grant_type=client_credentials&grant_type=password", "application/x-www-form-urlencoded"),
    (b"\xff\xfe", "application/x-www-form-urlencoded"),
    (b"a=" + b"x" * 100_000, "application/x-www-form-urlencoded"),
    (b"&".join(b"a%d=1" % i for i in range(1000)), "application/x-www-form-urlencoded"),
]


def test_a_form_that_can_t_be_used_is_refused(identity: Identity) -> None:
    for body, content_type in UNUSABLE_FORMS:
        headers = {"content-type": content_type}
        response = identity.client.post(identity.token_path, content=body, headers=headers)
        assert (response.status_code, response.json()["error"]) == (400, "invalid_request")


def test_an_expired_secret_is_refused_also_when_it_was_right_a_moment_ago(identity: Identity) -> None:
    assert identity.client.post(identity.token_path, data=identity.form()).status_code == 200
    with identity.database.write() as connection:
        connection.execute(update(client_secrets).values(expires_at=now() - timedelta(seconds=1)))
    _refused(identity.client.post(identity.token_path, data=identity.form()), 401, "invalid_client", 7000222)


def test_a_second_secret_works_beside_the_first(identity: Identity) -> None:
    entry = {"app_id": identity.first.app_id, "key_id": "k2", "hash": hash_secret("second")}
    with identity.database.write() as connection:
        connection.execute(insert(client_secrets).values(**entry, expires_at=now() + timedelta(days=1)))
    for secret in (identity.first.client_secret, "second"):
        form = identity.form(client_secret=secret)
        assert identity.client.post(identity.token_path, data=form).status_code == 200


def test_a_disabled_application_is_refused(identity: Identity) -> None:
    with identity.database.write() as connection:
        set_enabled(connection, identity.first.object_id, False)
    answer = identity.client.post(identity.token_path, data=identity.form())
    _refused(answer, 400, "unauthorized_client", 7000112)


def test_a_right_secret_is_hashed_once_in_some_minutes(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    matching = checks.SecretChecker._matching

    def counted(self: Any, secret: str, kept: Any) -> Any:
        hashed.append(secret)
        return matching(self, secret, kept)

    monkeypatch.setattr(checks.SecretChecker, "_matching", counted)
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: identity.client.post(identity.token_path, data=identity.form()), range(16))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len(hashed) == 1
    identity.clock.time_s += checks.REMEMBER_S
    assert identity.client.post(identity.token_path, data=identity.form()).status_code == 200
    assert len(hashed) == 2


def test_who_fails_too_often_waits_but_keeps_no_other_out(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FAILURES_MAX", 3)
    right = identity.form()
    assert identity.client.post(identity.token_path, data=right).status_code == 200
    for attempt in range(3):
        form = identity.form(client_secret=f"wrong {attempt}")
        _refused(identity.client.post(identity.token_path, data=form), 401, "invalid_client", 7000215)
    answer = identity.client.post(identity.token_path, data=identity.form(client_secret="wrong again"))
    _refused(answer, 429, "temporarily_unavailable", 90055)
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert identity.client.post(identity.token_path, data=right).status_code == 200
    identity.clock.time_s += checks.FAILURES_WINDOW_S
    form = identity.form(client_secret="wrong once more")
    _refused(identity.client.post(identity.token_path, data=form), 401, "invalid_client", 7000215)


def test_guesses_side_by_side_are_no_more_than_one_after_the_other(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FAILURES_MAX", 3)
    forms = [identity.form(client_secret=f"guess {number}") for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda form: identity.client.post(identity.token_path, data=form), forms))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {401, 429}
    assert codes.count(401) <= 3


def test_the_queue_of_checks_is_bounded(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHECKS_WAITING_MAX", -checks.CHECKS_AT_ONCE)
    answer = identity.client.post(identity.token_path, data=identity.form())
    _refused(answer, 429, "temporarily_unavailable", 90055)


def test_az_reads_every_endpoint_from_one_object(identity: Identity) -> None:
    cloud = identity.client.get("/metadata/endpoints", params={"api-version": "2022-09-01"}).json()
    assert cloud["authentication"]["loginEndpoint"] == ENDPOINT
    assert cloud["authentication"]["identityProvider"] == "AAD"
    assert cloud["resourceManager"] == cloud["microsoftGraphResourceId"] == f"{ENDPOINT}/"
    for name in ("portal", "graph", "graphAudience", "gallery", "batch", "media", "name"):
        assert cloud[name]
    assert set(cloud["suffixes"]) == {"storage", "keyVaultDns"}
    assert set(cloud["authentication"]["audiences"]) <= identity.tokens.audiences


def test_older_api_versions_get_their_own_forms(identity: Identity) -> None:
    listed = identity.client.get("/metadata/endpoints", params={"api-version": "2019-05-01"}).json()
    assert [cloud["resourceManager"] for cloud in listed] == [f"{ENDPOINT}/"]
    oldest = identity.client.get("/metadata/endpoints", params={"api-version": "2015-01-01"}).json()
    assert set(oldest) == {"galleryEndpoint", "graphEndpoint", "portalEndpoint", "authentication"}
    assert oldest["authentication"]["loginEndpoint"] == ENDPOINT


def test_instance_discovery_names_this_server_alone(identity: Identity) -> None:
    answer = identity.client.get(
        "/common/discovery/instance?"
        + urlencode({"api-version": "1.1", "authorization_endpoint": "https://evil"})
    ).json()
    assert answer["metadata"][0]["aliases"] == ["localhost:8443"]
    path = answer["tenant_discovery_endpoint"].removeprefix(ENDPOINT)
    assert identity.client.get(path).status_code == 200


def test_discovery_says_what_is_supported(identity: Identity) -> None:
    for version in ("/v2.0", ""):
        told = identity.client.get(f"/organizations{version}/.well-known/openid-configuration").json()
        assert set(told["grant_types_supported"]) == {
            "authorization_code",
            "client_credentials",
            "password",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:device_code",
        }
        assert told["response_types_supported"] == ["code"]
        assert told["code_challenge_methods_supported"] == ["S256"]
        assert told["token_endpoint_auth_signing_alg_values_supported"] == ["RS256", "PS256"]
        assert "private_key_jwt" in told["token_endpoint_auth_methods_supported"]
        assert "userinfo_endpoint" not in told
        for name in ("authorization_endpoint", "device_authorization_endpoint", "token_endpoint"):
            path = told[name].removeprefix(ENDPOINT)
            assert identity.client.post(path).status_code in (400, 403), name


def test_every_user_s_realm_is_here(identity: Identity) -> None:
    answers = [
        identity.client.get(f"/{tenant}/userrealm/{user}?api-version=1.0").json()
        for tenant in ("common", identity.first.tenant_id)
        for user in ("bob@local", "nobody@local")
    ]
    assert all(answer == answers[0] for answer in answers)
    assert (answers[0]["account_type"], answers[0]["domain_name"]) == ("Managed", "local")
    _refused(identity.client.get("/elsewhere/userrealm/bob@local"), 400, "invalid_tenant", 90002)
