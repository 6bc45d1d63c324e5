"""Tokens of an external issuer: the right ones name principals and groups, every other one is refused."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jwt
from sqlalchemy import insert, select

from opengallery.arm import access
from opengallery.arm.resource_id import ResourceId
from opengallery.database import Database
from opengallery.identity import external_tokens, issuer
from opengallery.identity.directory import find_principal, principals, set_enabled, subscriptions, tenants
from opengallery.identity.external_principals import (
    administrators_group,
    object_id,
    register_administrators,
)
from opengallery.identity.external_tokens import ExternalTokens
from opengallery.identity.issuer import Issuer, IssuerUnavailable, read_keys
from opengallery.identity.tokens import InvalidToken
from opengallery.settings import IdentitySettings

from .conftest import ENDPOINT, Clock
from .stand_in_issuer import KEYS, StandInIssuer


@pytest.fixture
def database_kind(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test asks for another."""
    return str(getattr(request, "param", "sqlite"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandInIssuer]:
    with StandInIssuer(tmp_path_factory.mktemp("issuer")).serving() as stand_in:
        yield stand_in


@pytest.fixture
def stand_in(served: StandInIssuer) -> StandInIssuer:
    """The issuer as it is when nothing is wrong."""
    served.document = {
        "issuer": served.url,
        "jwks_uri": f"{served.url}/keys",
        "token_endpoint": f"{served.url}/token",
    }
    served.keys = [served.public("rsa"), served.public("ec")]
    served.status, served.padding, served.pause_s = 200, 0, 0.0
    served.requests.clear()
    return served


class Site:
    """A gallery that trusts the issuer, and clocks that a test puts forward."""

    def __init__(self, database: Database, tenant_id: str, stand_in: StandInIssuer, **changes: Any) -> None:
        self.database, self.tenant_id, self.stand_in = database, tenant_id, stand_in
        self.clock = Clock()
        self.settings = IdentitySettings(issuer=stand_in.url, ca_file=stand_in.ca_file, **changes)
        self.issuer = Issuer(stand_in.url, stand_in.ca_file, self.clock)
        self.tokens = ExternalTokens(database, self.issuer, self.settings, ENDPOINT, tenant_id, self.clock)

    def claims(self, **changes: Any) -> dict[str, Any]:
        time_s = int(self.clock())
        claims = {
            "iss": self.stand_in.url,
            "aud": ENDPOINT,
            "exp": time_s + 3600,
            "nbf": time_s,
            "sub": "alice",
            "client_id": "web",
            "preferred_username": "alice@example.com",
            "groups": ["readers"],
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, key: str = "rsa", header: dict[str, Any] | None = None, **changes: Any) -> str:
        algorithm = "ES256" if key == "ec" else "RS256"
        header = {"alg": algorithm, "kid": key, **(header or {})}
        header = {name: value for name, value in header.items() if value is not None}
        return jwt.encode(header, self.claims(**changes), KEYS[key], algorithms=[header["alg"]])

    def refused(self, token: str) -> str:
        with pytest.raises(InvalidToken) as refusal:
            self.tokens.validate(token)
        assert not any(part in refusal.value.reason for part in token.split(".") if len(part) > 10)
        return refusal.value.reason


@pytest.fixture
def site(database: Database, stand_in: StandInIssuer) -> Site:
    tenant = {"id": str(uuid4()), "display_name": "Tenant", "administrator_id": str(uuid4())}
    with database.write() as connection:
        connection.execute(insert(tenants).values(tenant))
    return Site(database, tenant["id"], stand_in)


def changed(site: Site, **changes: Any) -> Site:
    """The same gallery with other settings."""
    return Site(site.database, site.tenant_id, site.stand_in, **changes)


def encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("database_kind", ["sqlite", "postgresql"], indirect=True)
def test_a_token_names_a_user_and_its_groups(site: Site) -> None:
    found = site.tokens.validate(site.token())
    assert found.object_id == object_id(site.settings, "User", "alice")
    assert (found.kind, found.app_id, found.display_name) == ("User", None, "alice@example.com")
    assert found.tenant_id == site.tenant_id
    assert found.groups == (object_id(site.settings, "Group", "readers"),)
    with site.database.read() as connection:
        kept = find_principal(connection, found.object_id)
        group = find_principal(connection, found.groups[0])
    assert kept is not None and (kept.kind, kept.display_name) == ("User", "alice@example.com")
    assert group is not None and (group.kind, group.display_name) == ("Group", "readers")


def test_a_client_that_speaks_for_itself_is_a_service_principal(site: Site) -> None:
    found = site.tokens.validate(site.token(sub="web", preferred_username=None, groups=None))
    assert (found.kind, found.app_id, found.display_name, found.groups) == (
        "ServicePrincipal",
        "web",
        "web",
        (),
    )
    assert site.tokens.validate(site.token(idtyp="app")).kind == "ServicePrincipal"
    by_claim = changed(site, service_claim="account=robot")
    assert by_claim.tokens.validate(by_claim.token(account="robot")).kind == "ServicePrincipal"
    assert by_claim.tokens.validate(by_claim.token(account="x", idtyp="app")).kind == "User"


def test_ids_are_the_same_at_every_sign_in_and_never_those_of_another_kind(site: Site) -> None:
    settings = site.settings
    assert object_id(settings, "User", "alice") == object_id(settings, "User", "alice")
    assert len({object_id(settings, kind, "x") for kind in ("User", "Group", "ServicePrincipal")}) == 3
    given = str(uuid4()).upper()
    assert object_id(settings, "User", given) == given.lower()
    # Groups are named by people: one named like a user's id must not have that user's roles.
    assert object_id(settings, "Group", given) != given.lower()
    with_ids = IdentitySettings(issuer=settings.issuer, groups_are_ids=True)
    assert object_id(with_ids, "Group", given) == given.lower()
    other = IdentitySettings(issuer="https://other.example")
    assert object_id(other, "User", "alice") != object_id(settings, "User", "alice")
    assert UUID(object_id(settings, "User", "alice"))


def test_a_group_that_is_called_like_a_user_is_refused(site: Site) -> None:
    site = changed(site, groups_are_ids=True)
    victim = site.tokens.validate(site.token(sub=str(uuid4())))
    assert "another kind" in site.refused(site.token(sub="mallory", groups=[victim.object_id]))
    own = str(uuid4())
    assert "another kind" in site.refused(site.token(sub=own, groups=[own]))


def test_a_role_of_a_group_is_a_role_of_who_comes_with_it(site: Site) -> None:
    reader, stranger = (site.tokens.validate(site.token(groups=groups)) for groups in (["readers"], []))
    (group,), scope = reader.groups, ResourceId(str(uuid4()))
    with site.database.write() as connection:
        subscription = {"id": scope.subscription, "tenant_id": site.tenant_id, "display_name": "One"}
        connection.execute(insert(subscriptions).values(subscription))
        access.assign(connection, group, access.READER, scope.key)
    with site.database.read() as connection:
        assert access.Assigned(connection, reader).may("Microsoft.Compute/galleries/read", scope)
        assert not access.Assigned(connection, reader).may("Microsoft.Compute/galleries/write", scope)
        assert not access.Assigned(connection, stranger).may("Microsoft.Compute/galleries/read", scope)


@pytest.mark.parametrize(
    ("named", "claims"),
    [
        ("alice", {}),
        ("user:alice", {}),
        ("app:web", {"sub": "web"}),
        ("group:readers", {"sub": "bob"}),
        ("6F9619FF-8B86-4D01-B42D-00CF4FC964FF", {"sub": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"}),
    ],
)
def test_whom_the_settings_name_is_an_administrator_and_nobody_else(
    site: Site, named: str, claims: dict[str, Any]
) -> None:
    site = changed(site, administrators=[named])
    group = administrators_group(site.settings)
    with site.database.write() as connection:
        register_administrators(connection, site.settings, site.tenant_id)
    assert group.object_id in site.tokens.validate(site.token(**claims)).groups
    for others in ({"sub": "app:web"}, {"sub": "carol", "client_id": "alice"}, {"sub": "carol"}):
        others = {"groups": ["administrators", group.name, group.object_id], **others}
        assert group.object_id not in site.tokens.validate(site.token(**others)).groups
    # Out of the settings, out of office.
    site = changed(site)
    assert group.object_id not in site.tokens.validate(site.token(**claims)).groups


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256"])
def test_each_algorithm_of_the_list_is_taken(site: Site, algorithm: str) -> None:
    key = "ec" if algorithm == "ES256" else "rsa"
    site.tokens.validate(site.token(key, {"alg": algorithm}))


@pytest.mark.parametrize("typ", [None, "JWT", "at+jwt", "application/at+jwt", "AT+JWT"])
def test_each_type_of_an_access_token_is_taken(site: Site, typ: str | None) -> None:
    site.tokens.validate(site.token(header={"typ": typ}))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS384", "PS512"])
def test_an_algorithm_that_is_not_in_the_list_is_refused(site: Site, algorithm: str) -> None:
    assert "RS256" in site.refused(site.token(header={"alg": algorithm}))


def test_no_signature_is_no_token(site: Site) -> None:
    claims = site.token().split(".")[1]
    for algorithm in ("none", "None", "NONE", "", None, 7, []):
        for kid in ("rsa", None):
            header = encoded({"alg": algorithm, "kid": kid})
            for signature in ("", "AAAA"):
                site.refused(f"{header}.{claims}.{signature}")
    header, claims, _ = site.token().split(".")
    site.refused(f"{header}.{claims}.")


@pytest.mark.parametrize("form", ["pem", "der", "modulus", "jwk"])
def test_a_public_key_is_no_secret_for_hmac(site: Site, form: str) -> None:
    public = KEYS["rsa"].public_key
    encoding = serialization.Encoding.DER if form == "der" else serialization.Encoding.PEM
    secret = public.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    if form == "modulus":
        secret = site.stand_in.public("rsa")["n"].encode()
    if form == "jwk":
        secret = json.dumps(site.stand_in.public("rsa")).encode()
    for algorithm in ("HS256", "HS384", "HS512"):
        signed = f"{encoded({'alg': algorithm, 'kid': 'rsa'})}.{encoded(site.claims())}"
        digest = hmac.digest(secret, signed.encode(), getattr(hashlib, f"sha{algorithm[2:]}"))
        assert "RS256" in site.refused(f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")


def test_a_key_in_the_key_set_that_is_a_secret_is_left_out(site: Site) -> None:
    shared = {
        "kty": "oct",
        "kid": "shared",
        "k": base64.urlsafe_b64encode(b"x" * 32).decode(),
        "alg": "HS256",
    }
    site.stand_in.keys = [shared, site.stand_in.public("rsa")]
    signed = f"{encoded({'alg': 'HS256', 'kid': 'shared'})}.{encoded(site.claims())}"
    digest = hmac.digest(b"x" * 32, signed.encode(), hashlib.sha256)
    site.refused(f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}")


def test_a_key_of_another_kind_or_use_does_not_verify(site: Site) -> None:
    for entry in (
        site.stand_in.public("rsa", use="enc"),
        site.stand_in.public("rsa", alg="RS512"),
        site.stand_in.public("rsa", key_ops=["sign"]),
        site.stand_in.public("rsa", key_ops="verify"),
        site.stand_in.public("rsa", kty="EC"),
        site.stand_in.public("ec", kid="rsa"),
        {"kty": "RSA", "kid": "rsa"},
        {**jwk.RSAKey.generate_key(1024).as_dict(private=False), "kid": "rsa"},
        "rsa",
        None,
    ):
        site.stand_in.keys = [entry]
        assert "kid" in changed(site).refused(site.token())
    # PS256 with a key that is for RS256 only.
    site.stand_in.keys = [site.stand_in.public("rsa", alg="RS256")]
    assert "kid" in changed(site).refused(site.token(header={"alg": "PS256"}))


def test_a_stranger_s_key_is_refused_whatever_it_calls_itself(site: Site) -> None:
    stranger = KEYS["other"]
    embedded = stranger.as_dict(private=False)
    for header in (
        {"kid": "rsa"},
        {"kid": "other"},
        {"kid": None},
        {"kid": "rsa", "jwk": embedded},
        {"kid": "rsa", "jku": f"{site.stand_in.url}/keys"},
        {"kid": "../rsa"},
    ):
        site.refused(site.token("other", header))


def test_a_header_that_asks_for_more_than_is_known_is_refused(site: Site) -> None:
    header = {"alg": "RS256", "kid": "rsa", "crit": ["exp"], "exp": 1}
    signing = encoded(header), encoded(site.claims())
    token = site.token().split(".")[-1]
    site.refused(".".join((*signing, token)))
    for typ in ("id_token+jwt", "logout+jwt", "dpop+jwt", ""):
        assert "typ" in site.refused(site.token(header={"typ": typ}))
    site.refused(f"{encoded({'alg': 'RS256', 'kid': 'rsa', 'typ': 7})}.{signing[1]}.{token}")


def test_a_changed_token_is_refused_although_the_right_one_is_remembered(site: Site) -> None:
    token = site.token()
    site.tokens.validate(token)
    header, _, signature = token.split(".")
    site.refused(f"{header}.{encoded(site.claims(sub='root'))}.{signature}")
    site.refused(token[:-6] + ("A" if token[-6] != "A" else "B") + token[-5:])
    for text in ("", ".", "..", "a.b.c", "a.b.c.d.e", "é.é.é", "\ud800", "bnVsbA.e30.AA", "x" * 20_000):
        site.refused(text)


WRONG_CLAIMS: list[tuple[dict[str, Any], str]] = [
    ({"iss": "https://other.example"}, "iss"),
    ({"iss": None}, "iss"),
    ({"iss": []}, "iss"),
    ({"aud": None}, "aud"),
    ({"aud": "https://other.example"}, "aud"),
    ({"aud": f"{ENDPOINT}.evil.example"}, "aud"),
    ({"aud": f"{ENDPOINT}/more"}, "aud"),
    ({"aud": ["web", {}]}, "aud"),
    ({"aud": {ENDPOINT: 1}}, "aud"),
    ({"exp": None}, "exp"),
    ({"exp": "9999999999"}, "exp"),
    ({"exp": True}, "exp"),
    ({"exp": 1e300}, "exp"),
    ({"exp": 1_700_000_000}, "expired"),
    ({"nbf": 1_900_000_000}, "nbf"),
    ({"nbf": "soon"}, "nbf"),
    ({"sub": None}, "sub"),
    ({"sub": ""}, "sub"),
    ({"sub": 7}, "sub"),
    ({"sub": "a\u0000b"}, "sub"),
    ({"sub": "x" * 300}, "sub"),
    ({"groups": ["g"] * 1001}, "groups"),
]


def test_wrong_claims_are_refused_even_under_the_issuer_s_signature(site: Site) -> None:
    for changes, reason in WRONG_CLAIMS:
        assert reason in site.refused(site.token(**changes)), changes


def test_the_issuer_s_name_has_to_be_the_same_to_the_letter(site: Site) -> None:
    for name in (f"{site.stand_in.url}/", site.stand_in.url.upper(), site.stand_in.url[:-1]):
        assert "iss" in site.refused(site.token(iss=name))


def test_an_audience_among_several_is_enough(site: Site) -> None:
    site.tokens.validate(site.token(aud=["https://other.example", f"{ENDPOINT}/"]))
    own = changed(site, audiences=["api://gallery"])
    own.tokens.validate(own.token(aud="api://gallery"))
    assert "aud" in own.refused(own.token(aud=ENDPOINT))


def test_only_the_clients_of_the_settings_may_bring_tokens(site: Site) -> None:
    site = changed(site, clients=["gallery-cli"])
    site.tokens.validate(site.token(client_id="gallery-cli"))
    site.tokens.validate(site.token(client_id=None, azp="gallery-cli"))
    for claims in (
        {},
        {"client_id": None},
        {"azp": "web", "client_id": "gallery-cli"},
        {"azp": None, "client_id": 7},
    ):
        assert "azp" in site.refused(site.token(**claims))


def test_a_claim_that_is_required_has_to_be_there(site: Site) -> None:
    site = changed(site, required_claims={"tid": "tenant-1"})
    site.tokens.validate(site.token(tid="tenant-1"))
    for value in ("tenant-2", None, ["tenant-1"]):
        assert "tid" in site.refused(site.token(tid=value))


def test_groups_are_those_of_the_token_and_only_texts(site: Site) -> None:
    def names(groups: Any) -> tuple[str, ...]:
        return site.tokens.validate(site.token(groups=groups)).groups

    assert names("readers") == names(["readers", "readers", 7, None, {"a": 1}, "a\x00b"])
    assert names({"readers": 1}) == () == names([]) == names(None)


def test_a_disabled_principal_is_refused_within_seconds(site: Site) -> None:
    found = site.tokens.validate(site.token())
    with site.database.write() as connection:
        set_enabled(connection, found.object_id, False)
    site.clock.time_s += external_tokens.FRESH_S
    assert "disabled" in site.refused(site.token())


def test_a_token_ends_with_its_time_although_it_is_remembered(site: Site) -> None:
    token = site.token(exp=int(site.clock()) + 30)
    site.tokens.validate(token)
    site.clock.time_s += 80
    site.tokens.validate(token)
    site.clock.time_s += 20
    assert "expired" in site.refused(token)


def test_what_is_remembered_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert external_tokens.REMEMBER_MAX <= 10_000
    monkeypatch.setattr(external_tokens, "REMEMBER_MAX", 3)
    for number in range(6):
        site.tokens.validate(site.token(jti=str(number)))
    assert len(site.tokens._seen) == 3


def test_a_remembered_token_asks_nobody(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    token = site.token()
    site.tokens.validate(token)  # fetches the keys: what was found out before they changed isn't kept
    found = site.tokens.validate(token)
    monkeypatch.setattr(jwt, "decode", lambda *_: pytest.fail("the signature was checked again"))
    monkeypatch.setattr(external_tokens, "run_in_threadpool", lambda *_: pytest.fail("it waits"))
    assert asyncio.run(site.tokens.authenticate(token)) == found


def test_keys_are_fetched_once_and_again_for_an_id_that_is_not_known(site: Site) -> None:
    for _ in range(3):
        site.tokens.validate(site.token(jti=str(uuid4())))
    assert site.stand_in.requests == ["/.well-known/openid-configuration", "/keys"]
    site.stand_in.keys = [site.stand_in.public("other"), site.stand_in.public("rsa")]
    site.clock.time_s += issuer.REFETCH_S
    site.tokens.validate(site.token("other"))
    assert len(site.stand_in.requests) == 4


def test_invented_key_ids_do_not_make_the_server_ask_all_the_time(site: Site) -> None:
    site.tokens.validate(site.token())
    for _ in range(20):
        site.refused(site.token("other", {"kid": str(uuid4())}))
    assert len(site.stand_in.requests) == 2
    site.clock.time_s += issuer.REFETCH_S
    for _ in range(20):
        site.refused(site.token("other", {"kid": str(uuid4())}))
    assert len(site.stand_in.requests) == 4


def test_a_key_that_the_issuer_takes_back_ends_its_tokens(site: Site) -> None:
    token = site.token()
    site.tokens.validate(token)
    site.stand_in.keys = [site.stand_in.public("other")]
    site.clock.time_s += issuer.REFETCH_S
    site.tokens.validate(site.token("other"))
    assert "kid" in site.refused(token)


def test_old_keys_hold_while_the_issuer_is_away_but_not_for_ever(site: Site) -> None:
    site.tokens.validate(site.token())
    site.stand_in.status = 503
    site.clock.time_s += issuer.KEEP_S - 60
    site.tokens.validate(site.token())
    site.clock.time_s += 120
    assert "can't be asked" in site.refused(site.token())
    site.stand_in.status = 200
    site.clock.time_s += issuer.REFETCH_S
    site.tokens.validate(site.token())


def test_who_has_a_known_key_does_not_wait_for_who_fetches(site: Site) -> None:
    site.tokens.validate(site.token())
    site.clock.time_s += issuer.FRESH_S
    site.stand_in.pause_s = 0.3
    slow = threading.Thread(target=site.issuer.find, args=("unknown", "RS256"))
    slow.start()
    while len(site.stand_in.requests) < 3:
        time.sleep(0.01)
    assert site.issuer.find("rsa", "RS256") is not None
    assert slow.is_alive()
    slow.join()


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 302},
        {"padding": issuer.SIZE_MAX_BYTES},
        {"document": {"issuer": "https://other.example", "jwks_uri": "https://other.example/keys"}},
        {"document": {}},
        {"document": []},
        {"document": b"<html>"},
        {"document": b"[" * 100_000},
        {"keys": "none"},
        {"keys": [None] * 65},
    ],
    ids=str,
)
def test_an_issuer_that_answers_nonsense_gives_no_keys(site: Site, fault: dict[str, Any]) -> None:
    for name, value in fault.items():
        setattr(site.stand_in, name, value)
    assert "can't be asked" in site.refused(site.token())
    assert "/elsewhere" not in site.stand_in.requests


def test_keys_come_by_https_only(site: Site) -> None:
    site.stand_in.document["jwks_uri"] = site.stand_in.document["jwks_uri"].replace("https", "http")
    assert "can't be asked" in site.refused(site.token())


def test_an_issuer_whose_certificate_nobody_vouches_for_is_not_asked(site: Site) -> None:
    site.issuer = Issuer(site.stand_in.url, None, site.clock)
    site.tokens._issuer = site.issuer
    assert "can't be asked" in site.refused(site.token())
    assert site.stand_in.requests == []


def test_an_issuer_that_drips_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuer, "TIMEOUT_S", 0.2)
    site.stand_in.pause_s = 0.5
    began = time.monotonic()
    assert "can't be asked" in site.refused(site.token())
    monkeypatch.setattr(issuer, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(issuer, "TIME_MAX_S", 0.3)
    assert "can't be asked" in changed(site).refused(site.token())
    assert time.monotonic() - began < 5


def test_a_file_of_authorities_that_is_missing_is_told() -> None:
    with pytest.raises(IssuerUnavailable, match="ca_file"):
        Issuer("https://localhost:1", "/nowhere/ca.pem")


def test_a_key_set_has_a_bound_and_the_first_of_two_keys_counts(stand_in: StandInIssuer) -> None:
    first, second = stand_in.public("rsa"), stand_in.public("other", kid="rsa")
    found = read_keys({"keys": [first, second]})
    assert found["rsa", "RS256"].as_dict(private=False)["n"] == first["n"]
    with pytest.raises(IssuerUnavailable):
        read_keys({"keys": [first] * 65})


def test_nothing_is_kept_of_a_token_that_is_refused(site: Site) -> None:
    with site.database.read() as connection:
        before = len(connection.execute(select(principals)).all())
    site.refused(site.token(aud="https://other.example"))
    with site.database.read() as connection:
        assert len(connection.execute(select(principals)).all()) == before
