"""Tokens: ours pass, everything that was forged, changed, too old or meant for others does not."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jwt
from sqlalchemy import delete, event

from opengallery.identity.applications import client_secrets
from opengallery.identity.directory import find_principal, principals, set_enabled
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import (
    LIFETIME_S,
    PRINCIPAL_FRESH_S,
    REMEMBER_MAX,
    InvalidToken,
    Tokens,
    UnknownResource,
)

from .conftest import ENDPOINT, Identity


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test asks for another: tokens know nothing of the database's kind."""
    return str(getattr(request, "param", "sqlite"))


def _administrator(identity: Identity) -> Principal:
    with identity.database.read() as connection:
        principal = find_principal(connection, identity.first.object_id)
    assert principal is not None
    return principal


def _token(identity: Identity) -> str:
    return identity.tokens.issue(_administrator(identity), f"{ENDPOINT}/").text


def _encode(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def _decode(token: str, part: int) -> dict[str, Any]:
    text = token.split(".")[part]
    content: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return content


def _signed(identity: Identity, **changes: object) -> str:
    """A token that our own key signed, with other claims."""
    claims = {**_decode(_token(identity), 1), **changes}
    kid, key = identity.keys.current
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode({"alg": "RS256", "kid": kid}, claims, key)


@pytest.mark.parametrize(
    ("version", "resource"),
    [
        ("2.0", ENDPOINT),
        ("1.0", f"{ENDPOINT}/"),
        ("2.0", "https://management.azure.com"),
        ("1.0", "https://management.core.windows.net/"),
    ],
)
def test_a_token_of_ours_names_its_principal(identity: Identity, version: Any, resource: str) -> None:
    issued = identity.tokens.issue(_administrator(identity), resource, version)
    principal = identity.tokens.validate(issued.text)
    assert principal == Principal(
        identity.first.object_id,
        identity.first.tenant_id,
        "ServicePrincipal",
        identity.first.app_id,
        "Administrator",
    )
    claims = _decode(issued.text, 1)
    assert (claims["aud"], claims["ver"], claims["idtyp"]) == (resource, version, "app")
    assert claims["oid"] == claims["sub"] == identity.first.object_id
    assert claims["appid"] == claims["azp"] == identity.first.app_id
    assert claims["exp"] - claims["iat"] == LIFETIME_S


def test_no_token_is_issued_for_a_stranger(identity: Identity) -> None:
    with pytest.raises(UnknownResource):
        identity.tokens.issue(_administrator(identity), "https://vault.azure.net")


def test_a_token_without_signature_is_refused(identity: Identity) -> None:
    claims = _token(identity).split(".")[1]
    kid, _ = identity.keys.current
    for algorithm in ("none", "None", "NONE", ""):
        header = _encode({"alg": algorithm, "typ": "JWT", "kid": kid})
        for signature in ("", "AAAA"):
            with pytest.raises(InvalidToken):
                identity.tokens.validate(f"{header}.{claims}.{signature}")


@pytest.mark.parametrize("form", ["pem", "der", "modulus"])
def test_a_token_signed_by_hmac_with_the_public_key_is_refused(identity: Identity, form: str) -> None:
    kid, key = identity.keys.current
    public = key.raw_value.public_key() if hasattr(key.raw_value, "public_key") else key.raw_value
    encoding = serialization.Encoding.DER if form == "der" else serialization.Encoding.PEM
    secret = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    if form == "modulus":
        secret = identity.keys.public()[0]["n"].encode()
    signed = _encode({"alg": "HS256", "typ": "JWT", "kid": kid}) + "." + _token(identity).split(".")[1]
    digest = hmac.digest(secret, signed.encode(), hashlib.sha256)
    signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    with pytest.raises(InvalidToken, match="RS256"):
        identity.tokens.validate(f"{signed}.{signature}")


@pytest.mark.parametrize("algorithm", ["RS384", "PS256"])
def test_another_algorithm_with_our_own_key_is_refused(identity: Identity, algorithm: str) -> None:
    kid, key = identity.keys.current
    claims = _decode(_token(identity), 1)
    token = jwt.encode({"alg": algorithm, "kid": kid}, claims, key, algorithms=[algorithm])
    with pytest.raises(InvalidToken, match="RS256"):
        identity.tokens.validate(token)


def test_a_key_that_is_not_ours_is_refused_whatever_it_calls_itself(identity: Identity) -> None:
    stranger = jwk.RSAKey.generate_key(2048, auto_kid=True)
    kid, _ = identity.keys.current
    claims = _decode(_token(identity), 1)
    embedded = {"alg": "RS256", "kid": kid, "jwk": stranger.as_dict(private=False)}
    for header in (
        {"alg": "RS256", "kid": stranger.kid},
        {"alg": "RS256"},
        {"alg": "RS256", "kid": kid},
        embedded,
    ):
        with pytest.raises(InvalidToken):
            identity.tokens.validate(jwt.encode(header, claims, stranger))


def test_a_key_id_that_is_not_ours_is_refused(identity: Identity) -> None:
    _, claims, signature = _token(identity).split(".")
    kids: list[object] = [None, 7, [], {}, "", "../token-keys", "x" * 100]
    for kid in kids:
        with pytest.raises(InvalidToken):
            identity.tokens.validate(f"{_encode({'alg': 'RS256', 'kid': kid})}.{claims}.{signature}")


def test_a_changed_token_is_refused(identity: Identity) -> None:
    token = _token(identity)
    identity.tokens.validate(token)
    header, _, signature = token.split(".")
    claims = _encode({**_decode(token, 1), "oid": "00000000-0000-0000-0000-000000000001"})
    with pytest.raises(InvalidToken):
        identity.tokens.validate(f"{header}.{claims}.{signature}")
    with pytest.raises(InvalidToken):
        identity.tokens.validate(token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:])


NO_TOKENS = [
    "",
    ".",
    "..",
    "...",
    "a.b.c",
    "a.b.c.d.e",
    "é.é.é",
    "\ud800",
    "W10.W10.W10",
    "bnVsbA.e30.AA",
    "x" * 20_000,
]


def test_what_is_no_token_is_refused(identity: Identity) -> None:
    for token in NO_TOKENS:
        with pytest.raises(InvalidToken):
            identity.tokens.validate(token)


WRONG_CLAIMS: list[tuple[dict[str, object], str]] = [
    ({"aud": "https://graph.microsoft.com"}, "aud"),
    ({"aud": f"{ENDPOINT}.evil.example"}, "aud"),
    ({"aud": [ENDPOINT]}, "aud"),
    ({"aud": None}, "aud"),
    ({"iss": "https://sts.windows.net/x/"}, "iss"),
    ({"iss": f"{ENDPOINT}/00000000-0000-0000-0000-000000000001/v2.0"}, "iss"),
    ({"iss": None}, "iss"),
    ({"tid": "00000000-0000-0000-0000-000000000001"}, "iss"),
    ({"tid": None}, "tid"),
    ({"oid": None}, "oid"),
    ({"oid": 7}, "oid"),
    ({"oid": "00000000-0000-0000-0000-000000000001"}, "principal"),
    ({"exp": None}, "exp"),
    ({"exp": "9999999999"}, "exp"),
    ({"exp": True}, "exp"),
    ({"nbf": None}, "nbf"),
    ({"exp": 1_700_000_000}, "expired"),
    ({"nbf": 1_900_000_000}, "nbf"),
]


def test_wrong_claims_are_refused_even_under_our_signature(identity: Identity) -> None:
    for changes, reason in WRONG_CLAIMS:
        with pytest.raises(InvalidToken) as refusal:
            identity.tokens.validate(_signed(identity, **changes))
        assert reason in refusal.value.reason, changes


def test_a_token_of_another_server_is_refused(identity: Identity) -> None:
    other = Tokens(identity.database, identity.keys, "https://localhost:9443", identity.clock)
    token = other.issue(_administrator(identity), "https://management.azure.com").text
    with pytest.raises(InvalidToken, match="iss"):
        identity.tokens.validate(token)


def test_a_token_ends_with_its_time_although_it_is_remembered(identity: Identity) -> None:
    token = _token(identity)
    identity.tokens.validate(token)
    identity.clock.time_s += LIFETIME_S - 10
    identity.tokens.validate(token)
    identity.clock.time_s += 120
    with pytest.raises(InvalidToken, match="expired"):
        identity.tokens.validate(token)


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_a_disabled_principal_is_refused(identity: Identity) -> None:
    token = _token(identity)
    identity.tokens.validate(token)
    with identity.database.write() as connection:
        set_enabled(connection, identity.first.object_id, False)
    identity.clock.time_s += PRINCIPAL_FRESH_S
    with pytest.raises(InvalidToken, match="disabled"):
        identity.tokens.validate(token)
    with identity.database.write() as connection:
        set_enabled(connection, identity.first.object_id, True)
    identity.tokens.forget(identity.first.object_id)
    identity.tokens.validate(token)


def test_a_forgotten_principal_is_looked_up_at_once(identity: Identity) -> None:
    token = _token(identity)
    identity.tokens.validate(token)
    with identity.database.write() as connection:
        connection.execute(delete(client_secrets))
        connection.execute(delete(principals))
    identity.tokens.forget(identity.first.object_id)
    with pytest.raises(InvalidToken, match="principal"):
        identity.tokens.validate(token)


def test_a_remembered_token_costs_neither_signature_nor_query(
    identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = _token(identity)
    principal = identity.tokens.validate(token)
    statements: list[str] = []
    event.listen(identity.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the signature was checked again")

    monkeypatch.setattr(jwt, "decode", fail)
    assert identity.tokens.validate(token) == principal
    assert statements == []


def test_what_is_remembered_is_bounded(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    assert REMEMBER_MAX <= 10_000
    monkeypatch.setattr("opengallery.identity.tokens.REMEMBER_MAX", 3)
    tokens = [_token(identity) for _ in range(6)]
    for token in tokens + tokens:
        identity.tokens.validate(token)
    assert len(identity.tokens._seen) == 3


def test_a_second_process_accepts_the_first_one_s_tokens(identity: Identity) -> None:
    from opengallery.identity.folder import IdentityFolder
    from opengallery.identity.keys import SigningKeys

    keys = SigningKeys.open(IdentityFolder(identity.data))
    assert Tokens(identity.database, keys, ENDPOINT, identity.clock).validate(_token(identity))
