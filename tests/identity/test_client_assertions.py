"""Applications sign in by a certificate; whatever else is shown as one is refused."""

import base64
import hashlib
import hmac
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import uuid4

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from sqlalchemy import func, insert, select

from opengallery.database import now
from opengallery.identity.applications import client_certificates
from opengallery.identity.assertion_uses import RETRY_S, assertion_uses
from opengallery.identity.tokens import CLOCK_SKEW_S

from .conftest import ENDPOINT, Identity
from .people import add_application, claims, post, refused

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)


@cache
def _key(number: int = 0, size_bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=size_bits)


def _certificate(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None, ends_in: timedelta = timedelta(days=1)
) -> x509.Certificate:
    key = key or _key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "robot")])
    end = now() + ends_in
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), end - timedelta(days=2), end
    )
    return builder.sign(key, hashes.SHA256())


@dataclass
class Robot:
    """An application with a certificate, and what it needs to sign an assertion."""

    identity: Identity
    app_id: str
    certificate: x509.Certificate

    def header(self, **changes: object) -> dict[str, object]:
        thumbprint = self.certificate.fingerprint(hashes.SHA256())
        return {"alg": "PS256", "typ": "JWT", "x5t#S256": _encode(thumbprint), **changes}

    def claims(self, **changes: object) -> dict[str, object]:
        time = int(self.identity.clock())
        claims = {
            "aud": f"{ENDPOINT}{self.identity.token_path}",
            "iss": self.app_id,
            "sub": self.app_id,
            "jti": str(uuid4()),
            "nbf": time,
            "exp": time + 600,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def post(self, assertion: str, **changes: str) -> httpx.Response:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self.app_id,
            "client_assertion_type": TYPE,
            "client_assertion": assertion,
            "scope": f"{ENDPOINT}/.default",
        }
        return post(self.identity, self.identity.first.tenant_id, **{**fields, **changes})


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _part(content: object) -> str:
    return _encode(json.dumps(content).encode())


def _sign(header: object, content: object, key: rsa.RSAPrivateKey | None = None) -> str:
    signed = f"{_part(header)}.{_part(content)}"
    return f"{signed}.{_encode((key or _key()).sign(signed.encode(), PSS, hashes.SHA256()))}"


def _add_certificate(identity: Identity, app_id: str, certificate: x509.Certificate) -> None:
    with identity.database.write() as connection:
        connection.execute(
            insert(client_certificates).values(
                app_id=app_id,
                key_id=str(uuid4()),
                thumbprint=certificate.fingerprint(hashes.SHA256()).hex(),
                pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
                starts_at=certificate.not_valid_before_utc,
                expires_at=certificate.not_valid_after_utc,
            )
        )


@pytest.fixture
def robot(identity: Identity) -> Robot:
    app_id = add_application(identity, {})
    certificate = _certificate()
    _add_certificate(identity, app_id, certificate)
    return Robot(identity, app_id, certificate)


def test_an_application_signs_in_by_its_certificate(robot: Robot) -> None:
    answer = robot.post(_sign(robot.header(), robot.claims())).json()
    assert robot.identity.tokens.validate(answer["access_token"]).app_id == robot.app_id
    assert claims(answer["access_token"])["azpacr"] == "2"


def test_the_older_thumbprint_and_signature_count_too(robot: Robot) -> None:
    header = {"alg": "RS256", "x5t": _encode(robot.certificate.fingerprint(hashes.SHA1()))}
    signed = f"{_part(header)}.{_part(robot.claims())}"
    signature = _key().sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    assert robot.post(f"{signed}.{_encode(signature)}").status_code == 200


def test_parts_may_be_padded(robot: Robot) -> None:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode()
        for part in (robot.header(), robot.claims())
    ]
    signed = ".".join(parts)
    signature = base64.urlsafe_b64encode(_key().sign(signed.encode(), PSS, hashes.SHA256())).decode()
    assert robot.post(f"{signed}.{signature}").status_code == 200


@pytest.mark.parametrize("tenant", ["common", "organizations", "own"])
@pytest.mark.parametrize("path", ["oauth2/v2.0/token", "oauth2/token", "v2.0"])
def test_every_name_of_the_token_endpoint_is_its_audience(robot: Robot, tenant: str, path: str) -> None:
    tenant = robot.identity.first.tenant_id if tenant == "own" else tenant
    assertion = _sign(robot.header(), robot.claims(aud=f"{ENDPOINT}/{tenant}/{path}"))
    assert robot.post(assertion).status_code == 200


WRONG_CLAIMS: list[tuple[dict[str, Any], int]] = [
    ({"aud": "https://login.microsoftonline.com/common/oauth2/v2.0/token"}, 700023),
    ({"aud": ENDPOINT}, 700023),
    ({"aud": [f"{ENDPOINT}/common/oauth2/v2.0/token"]}, 700023),
    ({"aud": {}}, 700023),
    ({"aud": None}, 700023),
    ({"iss": str(uuid4())}, 700021),
    ({"sub": str(uuid4())}, 700021),
    ({"iss": None}, 700021),
    ({"sub": 7}, 700021),
    ({"jti": None}, 50027),
    ({"jti": ""}, 50027),
    ({"jti": "x" * 1000}, 50027),
    ({"exp": None}, 50027),
    ({"exp": "1900000000"}, 50027),
    ({"exp": True}, 50027),
    ({"exp": math.nan}, 50027),
    ({"exp": math.inf}, 50027),
    ({"exp": 10**400}, 50027),
    ({"nbf": "now"}, 50027),
    ({"exp": 1_800_000_000 - CLOCK_SKEW_S}, 700024),
    ({"exp": 1_800_000_000 + 86_400}, 700024),
    ({"nbf": 1_800_000_000 + 300}, 700024),
    ({"iat": 1_800_000_000 + 300}, 700024),
]


def test_wrong_claims_are_refused(robot: Robot) -> None:
    for changes, code in WRONG_CLAIMS:
        response = robot.post(_sign(robot.header(), robot.claims(**changes)))
        refused(response, "invalid_client", code, 401)


def _unsigned(robot: Robot) -> str:
    return f"{_part(robot.header(alg='none'))}.{_part(robot.claims())}."


def _public_key_as_secret(robot: Robot) -> str:
    signed = f"{_part(robot.header(alg='HS256'))}.{_part(robot.claims())}"
    public = _key().public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"{signed}.{_encode(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def _changed(robot: Robot) -> str:
    header, _, signature = _sign(robot.header(), robot.claims()).split(".")
    return f"{header}.{_part(robot.claims(jti='another'))}.{signature}"


FORGED: list[tuple[Callable[[Robot], str], int]] = [
    (_unsigned, 50027),
    (_public_key_as_secret, 50027),
    (_changed, 700027),
    (lambda robot: _sign(robot.header(alg="RS256"), robot.claims()), 700027),
    (lambda robot: _sign(robot.header(), robot.claims(), _key(1)), 700027),
    (lambda robot: _sign(robot.header(alg="ES256"), robot.claims()), 50027),
    (lambda robot: _sign(robot.header(alg=["PS256"]), robot.claims()), 50027),
    (lambda robot: _sign(robot.header(crit=["exp"]), robot.claims()), 50027),
    (lambda robot: _sign({"alg": "PS256"}, robot.claims()), 50027),
    (lambda robot: _sign(robot.header(**{"x5t#S256": "!"}), robot.claims()), 700027),
    (lambda robot: _sign(robot.header(**{"x5t#S256": _encode(b"x" * 32)}), robot.claims()), 700027),
    (lambda robot: _sign(robot.header(x5t=_encode(b"x" * 20)), robot.claims()), 700027),
    (lambda robot: _sign([], robot.claims()), 50027),
    (lambda robot: _sign(robot.header(), []), 50027),
    (lambda _: "a.b.c", 50027),
    (lambda _: "not a token", 50027),
    (lambda _: f"{_part('[' * 9000)}.x.y", 50027),
    (lambda robot: _sign(robot.header(x5c="x" * 20_000), robot.claims()), 50027),
]


def test_what_was_not_signed_by_the_certificate_is_refused(robot: Robot) -> None:
    for forge, code in FORGED:
        refused(robot.post(forge(robot)), "invalid_client", code, 401)


def test_a_key_that_the_assertion_brings_itself_counts_for_nothing(robot: Robot) -> None:
    own = _certificate(_key(1))
    chain = [base64.b64encode(own.public_bytes(serialization.Encoding.DER)).decode()]
    for header in (
        robot.header(x5c=chain),
        robot.header(**{"x5t#S256": _encode(own.fingerprint(hashes.SHA256()))}),
    ):
        refused(robot.post(_sign(header, robot.claims(), _key(1))), "invalid_client", 700027, 401)


def test_another_application_s_certificate_is_refused(robot: Robot) -> None:
    other = add_application(robot.identity, {})
    _add_certificate(robot.identity, other, _certificate(_key(1)))
    assertion = _sign(robot.header(), robot.claims(iss=other, sub=other))
    refused(robot.post(assertion, client_id=other), "invalid_client", 700027, 401)


@pytest.mark.parametrize("ends_in", [timedelta(seconds=-1), timedelta(days=3)])
def test_a_certificate_counts_only_in_its_time(identity: Identity, ends_in: timedelta) -> None:
    app_id = add_application(identity, {})
    certificate = _certificate(ends_in=ends_in)
    _add_certificate(identity, app_id, certificate)
    robot = Robot(identity, app_id, certificate)
    refused(robot.post(_sign(robot.header(), robot.claims())), "invalid_client", 7000222, 401)


def test_a_weak_key_is_refused(identity: Identity) -> None:
    app_id = add_application(identity, {})
    for key in (_key(2, 1024), ec.generate_private_key(ec.SECP256R1())):
        certificate = _certificate(key)
        _add_certificate(identity, app_id, certificate)
        robot = Robot(identity, app_id, certificate)
        signer = key if isinstance(key, rsa.RSAPrivateKey) else _key()
        refused(robot.post(_sign(robot.header(), robot.claims(), signer)), "invalid_client", 700027, 401)


def test_a_second_certificate_works_beside_the_first(robot: Robot) -> None:
    second = _certificate(_key(1))
    _add_certificate(robot.identity, robot.app_id, second)
    for key, certificate in ((_key(), robot.certificate), (_key(1), second)):
        header = Robot(robot.identity, robot.app_id, certificate).header()
        assert robot.post(_sign(header, robot.claims(), key)).status_code == 200


def test_an_assertion_is_refused_when_it_comes_again_later(robot: Robot) -> None:
    assertion = _sign(robot.header(), robot.claims())
    other = "https://management.azure.com/.default"
    assert robot.post(assertion).status_code == 200
    robot.identity.clock.time_s += RETRY_S
    assert robot.post(assertion).status_code == 200  # a retry after a lost connection
    assert robot.post(assertion, scope=other).status_code == 200  # the SDKs reuse it for other resources
    robot.identity.clock.time_s += 1
    refused(robot.post(assertion), "invalid_client", 700027, 401)
    robot.identity.clock.time_s += RETRY_S
    refused(robot.post(assertion, scope=other), "invalid_client", 700027, 401)


def test_an_id_counts_for_one_assertion(robot: Robot) -> None:
    assert robot.post(_sign(robot.header(), robot.claims(jti="one"))).status_code == 200
    refused(robot.post(_sign(robot.header(), robot.claims(jti="one"))), "invalid_client", 700027, 401)


def test_uses_are_forgotten_when_their_assertion_has_expired(robot: Robot) -> None:
    robot.post(_sign(robot.header(), robot.claims()))
    robot.identity.clock.time_s += 600 + CLOCK_SKEW_S + 1
    robot.post(_sign(robot.header(), robot.claims()))
    with robot.identity.database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(assertion_uses)) == 1


def test_an_assertion_has_to_say_what_it_is(robot: Robot) -> None:
    assertion = _sign(robot.header(), robot.claims())
    refused(robot.post(assertion, client_assertion_type=""), "invalid_request", 900144)
    refused(robot.post(assertion, client_assertion_type="saml"), "invalid_request", 900144)
    refused(robot.post(assertion, client_secret="x"), "invalid_client", 700025, 401)
