"""Applications and service principals: their credentials, which are shown once or never, and their names."""

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import select

from opengallery.identity import credentials
from opengallery.identity.applications import client_certificates, client_secrets, find_application
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.tokens import InvalidToken

from ..conftest import ENDPOINT
from .conftest import Graph, ids

YEAR = timedelta(days=365)


def certificate(key: Any = None, lasts: timedelta = YEAR, encoding: Encoding = Encoding.DER) -> str:
    """A self-signed certificate, base64, with line breaks as az sends it."""
    key = key or rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CLI-Login")])
    begins = datetime.now(UTC) - timedelta(days=2)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), 1000, begins, begins + timedelta(days=2) + lasts
        )
        .sign(key, hashes.SHA256())
        .public_bytes(encoding)
    )
    return base64.encodebytes(made).decode()


def credential(key: str | None, **changes: Any) -> dict[str, Any]:
    """An entry of keyCredentials as az makes it."""
    return {
        "@odata.type": "#microsoft.graph.keyCredential",
        "displayName": None,
        "key": key,
        "type": "AsymmetricX509Cert",
        "usage": "Verify",
        **changes,
    }


def test_a_secret_signs_in_and_is_shown_once(graph: Graph) -> None:
    robot = graph.service_principal("robot")
    application = graph.get("/applications", _filter=f"appId eq '{robot['appId']}'")["value"][0]
    body = {"passwordCredential": {"displayName": "rbac", "endDateTime": "2099-01-31T00:00:00Z"}}
    made = graph.post(f"/applications/{application['id']}/addPassword", body, 200)
    assert (made["displayName"], made["endDateTime"]) == ("rbac", "2099-01-31T00:00:00Z")
    assert (
        made["secretText"].isalnum()
        and made["secretText"].startswith(made["hint"])
        and len(made["hint"]) == 3
    )
    with graph.identity.database.read() as connection:
        found = find_application(connection, robot["appId"])
        stored = repr(connection.execute(select(client_secrets)).all())
    assert found is not None and made["secretText"] not in stored
    checker = SecretChecker()
    checker.submit(robot["appId"], made["secretText"], found.secrets).result(10)
    checker.close()
    everything = [
        graph.get(path)
        for path in ("/applications", "/servicePrincipals", f"/applications/{application['id']}")
    ]
    assert made["secretText"] not in str(everything) and "argon2" not in str(everything)
    shown = graph.get(f"/servicePrincipals/{robot['id']}")["passwordCredentials"]
    assert shown == graph.get(f"/applications/{application['id']}")["passwordCredentials"]
    assert [(entry["keyId"], entry["secretText"]) for entry in shown] == [(made["keyId"], None)]


def test_a_secret_lasts_a_year_unless_told_otherwise(graph: Graph) -> None:
    path = f"/applications/{graph.application('app')['id']}"
    made = graph.post(f"{path}/addPassword", {}, 200)
    lasts = datetime.fromisoformat(made["endDateTime"]) - datetime.fromisoformat(made["startDateTime"])
    assert lasts == YEAR
    for dates in (
        {"endDateTime": "2020-01-01T00:00:00Z"},
        {"endDateTime": "2300-01-01T00:00:00Z"},
        {"endDateTime": "soon"},
        {"endDateTime": 7},
        {"endDateTime": "0001-01-01T00:00:00+14:00"},
        {"startDateTime": "2098-01-01T00:00:00Z", "endDateTime": "2099-01-01T00:00:00Z"},
        {"secretText": "chosen by me"},
        {"displayName": "a" * 257},
    ):
        refused = graph.refused("POST", f"{path}/addPassword", {"passwordCredential": dates}, status=400)
        assert refused[1] == "Request_BadRequest"
        assert "chosen by me" not in refused[2]


def test_secrets_are_removed_one_by_one_and_bounded(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "SECRETS_MAX", 2)
    path = f"/applications/{graph.application('app')['id']}"
    first, second = (graph.post(f"{path}/addPassword", {}, 200) for _ in range(2))
    full = graph.refused("POST", f"{path}/addPassword", {}, status=403)
    assert full[1] == "Directory_QuotaExceeded"
    graph.post(f"{path}/removePassword", {"keyId": first["keyId"]}, 204)
    assert [entry["keyId"] for entry in graph.get(path)["passwordCredentials"]] == [second["keyId"]]
    for key_id in (first["keyId"], "nonsense"):
        missing = graph.refused("POST", f"{path}/removePassword", {"keyId": key_id}, status=400)
        assert "No password credential found" in missing[2]


def test_certificates_are_replaced_kept_and_read(graph: Graph) -> None:
    key = rsa.generate_private_key(65537, 2048)
    first, second = certificate(key), certificate(key, encoding=Encoding.PEM)
    made = graph.application("app", keyCredentials=[credential(first, displayName="one")])
    path = f"/applications/{made['id']}"
    (shown,) = graph.get(path)["keyCredentials"]
    parsed = x509.load_der_x509_certificate(base64.b64decode(first))
    assert shown["customKeyIdentifier"] == parsed.fingerprint(hashes.SHA1()).hex().upper()
    assert (shown["displayName"], shown["key"], shown["usage"]) == ("one", None, "Verify")
    graph.patch(path, {"keyCredentials": [shown, credential(second)]})
    assert len(graph.get(path)["keyCredentials"]) == 2
    with graph.identity.database.read() as connection:
        kept = connection.execute(select(client_certificates)).all()
    assert parsed.fingerprint(hashes.SHA256()).hex() in {row.thumbprint for row in kept}
    chosen = graph.get(path, _select="keyCredentials")["keyCredentials"]
    assert base64.b64decode(first) in {base64.b64decode(entry["key"]) for entry in chosen}
    graph.patch(path, {"keyCredentials": [shown]})
    assert [entry["keyId"] for entry in graph.get(path)["keyCredentials"]] == [shown["keyId"]]
    graph.patch(path, {"keyCredentials": []})
    assert graph.get(path)["keyCredentials"] == []


def test_a_certificate_counts_no_longer_than_its_own_dates_allow(graph: Graph) -> None:
    entry = credential(
        certificate(), startDateTime="2001-01-01T00:00:00Z", endDateTime="2199-01-01T00:00:00Z"
    )
    (shown,) = graph.application("app", keyCredentials=[entry])["keyCredentials"]
    begins, ends = (datetime.fromisoformat(shown[name]) for name in ("startDateTime", "endDateTime"))
    assert begins > datetime.now(UTC) - timedelta(days=3)
    assert ends < datetime.now(UTC) + YEAR + timedelta(days=1)


def test_what_is_no_usable_certificate_is_refused(graph: Graph) -> None:
    key = rsa.generate_private_key(65537, 2048)
    good = certificate(key)
    for entries in (
        [credential("nonsense!")],
        [credential(base64.b64encode(b"no certificate").decode())],
        [credential(certificate(ec.generate_private_key(ec.SECP256R1())))],
        [credential(certificate(rsa.generate_private_key(65537, 1024)))],
        [credential(certificate(key, lasts=timedelta(days=-1)))],
        [credential("A" * 40_000)],
        [credential(None)],
        [credential(None, keyId="00000000-0000-0000-0000-000000000001")],
        [credential(good, keyId="nonsense")],
        [credential(good, type="Symmetric")],
        [credential(good, usage="Sign")],
        [credential(good, secret="x")],
        [credential(good, keyId="00000000-0000-0000-0000-000000000001")] * 2,
        [credential(good)] * 21,
        ["certificate"],
        "certificate",
    ):
        body = {"displayName": "app", "keyCredentials": entries}
        status = graph.client.post("/v1.0/applications", json=body, headers=_headers(graph)).status_code
        assert status == 400, entries
    assert graph.get("/applications", _filter="displayName eq 'app'")["value"] == []


def _headers(graph: Graph) -> dict[str, str]:
    token = graph.identity.tokens.issue(graph.principal, f"{ENDPOINT}/").text
    return {"authorization": f"Bearer {token}"}


def test_names_of_an_application_are_its_own(graph: Graph, stranger: Graph) -> None:
    app = graph.application("app", identifierUris=["api://App", "https://app.local/x"])
    robot = graph.post("/servicePrincipals", {"appId": app["appId"]})
    assert robot["servicePrincipalNames"] == [app["appId"], "api://App", "https://app.local/x"]
    assert (robot["servicePrincipalType"], robot["accountEnabled"]) == ("Application", True)
    for name in ("api://app", app["appId"]):
        text = f"servicePrincipalNames/any(c:c eq '{name}')"
        assert ids(graph.get("/servicePrincipals", _filter=text)) == {robot["id"]}
        assert ids(stranger.get("/servicePrincipals", _filter=text)) == set()
    by_uri = graph.get("/applications", _filter="identifierUris/any(s:s eq 'api://app')")
    assert ids(by_uri) == {app["id"]}
    other = {"displayName": "other", "identifierUris": ["API://APP"]}
    taken = graph.refused("POST", "/applications", other, status=400)
    assert taken[1] == "Request_MultipleObjectsWithSameKeyValue"
    stranger.application("theirs", identifierUris=["api://app"])
    graph.patch(f"/applications/{app['id']}", {"identifierUris": []})
    graph.application("other", identifierUris=["api://app"])
    for uris in (["nonsense"], ["api://" + "a" * 260], ["api://a b"], "api://a", ["api://x"] * 51):
        refused = graph.refused(
            "POST", "/applications", {"displayName": "a", "identifierUris": uris}, status=400
        )
        assert "identifierUris" in refused[2]


def test_an_application_has_one_service_principal_of_its_tenant(graph: Graph, stranger: Graph) -> None:
    robot = graph.service_principal("robot")
    again = graph.refused("POST", "/servicePrincipals", {"appId": robot["appId"]}, status=409)
    assert again[1] == "Request_MultipleObjectsWithSameKeyValue"
    for asking, app_id in ((stranger, robot["appId"]), (graph, "00000000-0000-0000-0000-000000000001")):
        missing = asking.refused("POST", "/servicePrincipals", {"appId": app_id}, status=400)
        assert "does not reference a valid application object" in missing[2]
    graph.delete(f"/servicePrincipals/{robot['id']}")
    made = graph.post("/servicePrincipals", {"appId": robot["appId"], "accountEnabled": False})
    assert made["id"] != robot["id"] and made["accountEnabled"] is False


def test_deleting_an_application_takes_everything_with_it(graph: Graph) -> None:
    robot = graph.service_principal("robot")
    app = graph.get(f"/applications(appId='{robot['appId']}')")
    group = graph.group("machines")
    graph.add(f"/groups/{group}/members", robot["id"])
    graph.add(f"/groups/{group}/owners", robot["id"])
    graph.post(f"/applications/{app['id']}/addPassword", {}, 200)
    graph.patch(f"/applications/{app['id']}", {"keyCredentials": [credential(certificate())]})
    token = graph.identity.tokens.issue(graph.seen_by(robot["id"]).principal, ENDPOINT).text
    graph.delete(f"/applications/{app['id']}")
    with pytest.raises(InvalidToken):
        graph.identity.tokens.validate(token)
    assert graph.ended == [robot["id"]]
    assert graph.refused("GET", f"/servicePrincipals/{robot['id']}", status=404)
    assert ids(graph.get(f"/groups/{group}/members")) == ids(graph.get(f"/groups/{group}/owners")) == set()
    with graph.identity.database.read() as connection:
        for table in (client_secrets, client_certificates):
            assert robot["appId"] not in connection.execute(select(table.c.app_id)).scalars().all()


def test_a_service_principal_is_described_disabled_and_enabled(graph: Graph) -> None:
    robot = graph.service_principal("robot")
    path = f"/servicePrincipals/{robot['id']}"
    token = graph.identity.tokens.issue(graph.seen_by(robot["id"]).principal, ENDPOINT).text
    graph.identity.tokens.validate(token)
    graph.patch(path, {"accountEnabled": False, "tags": ["a", "b"], "notes": "night shift"})
    with pytest.raises(InvalidToken):
        graph.identity.tokens.validate(token)
    shown = graph.get(f"/servicePrincipals(appId='{robot['appId']}')")
    assert (shown["accountEnabled"], shown["tags"], shown["notes"]) == (False, ["a", "b"], "night shift")
    assert shown["createdDateTime"] == robot["createdDateTime"]
    assert ids(graph.get("/servicePrincipals", _filter="accountEnabled eq false")) == {robot["id"]}
    assert "follows the application" in graph.refused("PATCH", path, {"displayName": "x"}, status=400)[2]
    app = graph.get(f"/applications(appId='{robot['appId']}')")
    graph.patch(f"/applications/{app['id']}", {"displayName": "Robot 2"})
    assert graph.get(path)["displayName"] == "Robot 2"
    made = graph.post(f"{path}/addPassword", {}, 200)
    assert made["keyId"] in str(graph.get(f"/applications/{app['id']}")["passwordCredentials"])
    graph.post(f"{path}/removePassword", {"keyId": made["keyId"]}, 204)


def test_an_owner_changes_the_credentials_and_nothing_else(graph: Graph) -> None:
    robot, bob = graph.service_principal("robot"), graph.user("bob")["id"]
    app = graph.get(f"/applications(appId='{robot['appId']}')")["id"]
    his = graph.seen_by(bob)
    paths = (f"/applications/{app}", f"/servicePrincipals/{robot['id']}")
    for path in paths:
        assert his.refused("POST", f"{path}/addPassword", {}, status=403)[1] == "Authorization_RequestDenied"
    graph.add(f"/applications/{app}/owners", bob)
    assert ids(graph.get(f"/applications/{app}/owners")) == {bob}
    assert ids(his.get("/me/ownedObjects")) == {app}
    for path in (*paths, f"/applications(appId='{robot['appId']}')"):
        made = his.post(f"{path}/addPassword", {}, 200)
        his.post(f"{path}/removePassword", {"keyId": made["keyId"]}, 204)
        his.patch(path, {"keyCredentials": []})
        assert his.refused("PATCH", path, {"keyCredentials": [], "notes": "x"}, status=403)
        assert his.refused("DELETE", path, status=403)


def test_what_describes_an_application_is_kept_and_bounded(graph: Graph) -> None:
    roles = [{"id": "1", "displayName": "reader"}]
    app = graph.application("app", appRoles=roles, web={"redirectUris": ["https://localhost"]})
    path = f"/applications/{app['id']}"
    graph.patch(path, {"description": "An app", "tags": ["x"], "appRoles": roles, "passwordCredentials": []})
    shown = graph.get(path)
    assert (shown["description"], shown["tags"], shown["appRoles"]) == ("An app", ["x"], roles)
    assert shown["web"]["redirectUris"] == ["https://localhost"]
    assert shown["signInAudience"] == "AzureADMyOrg"
    for body in (
        {"appRoles": [{"x": "y" * 40_000}]},
        {"signInAudience": "AzureADMultipleOrgs"},
        {"tags": ["x"] * 51},
        {"web": []},
        {"nonsense": 1},
        {"passwordCredentials": [{"displayName": "x"}]},
    ):
        assert graph.refused("PATCH", path, body, status=400)[1] == "Request_BadRequest"


def test_federated_credentials_and_consent_say_that_they_are_not_here(graph: Graph) -> None:
    path = f"/applications/{graph.application('app')['id']}/federatedIdentityCredentials"
    assert graph.get(path)["value"] == []
    assert "client secret or a certificate" in graph.refused("POST", path, {"name": "x"}, status=501)[2]
    assert graph.get("/oauth2PermissionGrants", _filter="clientId eq 'x'")["value"] == []
    assert graph.refused("POST", "/oauth2PermissionGrants", {}, status=501)
