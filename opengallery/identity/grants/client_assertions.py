"""Client assertions: a short token that an application signs with the key of one of its certificates.

The header names the certificate by its thumbprint, SHA-256 (`x5t#S256`) or SHA-1 (`x5t`). Only RSA
signatures count (RS256, PS256): a public key can't be taken for the secret of another algorithm.
Source: RFC 7523; RFC 8725; Microsoft identity platform, certificate credentials.
"""

import base64
import json
import re
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from joserfc import jwk, jws
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool

from opengallery.database import now
from opengallery.identity import assertion_uses
from opengallery.identity.applications import Application, ClientCertificate
from opengallery.identity.digests import digest_of
from opengallery.identity.grants.request import ANY_TENANT, Parts, TokenRequest
from opengallery.identity.refusals import SignInError, invalid_client, invalid_request
from opengallery.identity.tokens import CLOCK_SKEW_S

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_LENGTH_MAX = 16 * 1024  # the chain of certificates may be in the header
ALGORITHMS = ("RS256", "PS256")
KEY_SIZE_MIN_BITS = 2048
LIFETIME_MAX_S = 3600
TIME_MAX_S = 1e11
JTI_LENGTH_MAX = 256
BASE64URL = re.compile(r"[A-Za-z0-9_-]+")
UNREADABLE = b"unreadable"


async def check(parts: Parts, request: TokenRequest, application: Application, resource: str) -> None:
    """Return when the request's assertion was signed by the application. Raises `SignInError`."""
    if request.required("client_assertion_type") != ASSERTION_TYPE:
        raise invalid_request(900144, f"The only client_assertion_type is '{ASSERTION_TYPE}'.")
    await run_in_threadpool(_check, parts, request, application, resource)


def _check(parts: Parts, request: TokenRequest, application: Application, resource: str) -> None:
    text = request.required("client_assertion")
    claims = _signed_claims(text, application.certificates)
    app_id = application.principal.app_id or ""
    if not all(_is_id(claims.get(name), app_id) for name in ("iss", "sub")):
        raise invalid_client(
            700021,
            "The assertion's issuer and subject (iss, sub) are not the client id. Sign it for this one.",
        )
    audience = claims.get("aud")
    if not isinstance(audience, str) or audience not in _audiences(parts, request, application):
        raise invalid_client(
            700023, "The assertion's audience (aud) is not the token endpoint. Sign it for this endpoint."
        )
    expires_at_s = _check_times(claims, parts.clock())
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= JTI_LENGTH_MAX:
        raise _malformed("It has no id (jti).")
    use = assertion_uses.Use(app_id, digest_of(jti), digest_of(resource), digest_of(text))
    try:
        with parts.database.write() as connection:
            is_fresh = assertion_uses.note(connection, use, parts.clock(), expires_at_s + CLOCK_SKEW_S)
    except IntegrityError:
        is_fresh = True  # another thread of the client noted the very same use in this moment
    if not is_fresh:
        raise invalid_client(700027, "The client assertion was used before (jti). Sign a new one.")


def _signed_claims(text: str, certificates: tuple[ClientCertificate, ...]) -> dict[str, Any]:
    """The claims, when one of the certificates' keys signed them."""
    if len(text) > ASSERTION_LENGTH_MAX:
        raise _malformed("It is too long.")
    signed, _, last = text.rpartition(".")
    try:
        first, second = signed.split(".")
        header, claims = (json.loads(_base64url(part)) for part in (first, second))
        signature = _base64url(last)
    except (ValueError, RecursionError):
        header = claims = None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise _malformed("It is no signed JSON Web Token.")
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS or "crit" in header:
        raise _malformed(f"It has to be signed by {' or '.join(ALGORITHMS)}.")
    # Verified by hand, as the asynchronous SDK for Python pads the parts, which libraries for tokens refuse.
    verifier = jws.JWSRegistry(algorithms=list(ALGORITHMS)).get_alg(algorithm)
    if not verifier.verify(signed.encode(), signature, _key(header, certificates)):
        raise invalid_client(700027, "The signature of the client assertion is wrong.")
    return claims


def _base64url(part: str) -> bytes:
    """The bytes of a part of a token, padded or not. Raises `ValueError`."""
    bare = part.rstrip("=")
    if len(part) - len(bare) > 2 or not BASE64URL.fullmatch(bare):
        raise ValueError(part[:8])
    return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))


def _key(header: dict[str, Any], certificates: tuple[ClientCertificate, ...]) -> jwk.RSAKey:
    """The key of the certificate that the header names by its thumbprint."""
    named = (_thumbprint(header.get("x5t#S256"), 32), _thumbprint(header.get("x5t"), 20))
    if not any(named):
        raise _malformed("Its header names no certificate (x5t#S256 or x5t).")
    for entry in certificates:
        certificate = x509.load_pem_x509_certificate(entry.pem.encode())
        thumbprints = (certificate.fingerprint(hashes.SHA256()), certificate.fingerprint(hashes.SHA1()))  # noqa: S303
        if any(name is not None and name != own for name, own in zip(named, thumbprints, strict=True)):
            continue
        time = now()
        if (
            not max(entry.starts_at, certificate.not_valid_before_utc)
            <= time
            < min(entry.expires_at, certificate.not_valid_after_utc)
        ):
            raise invalid_client(
                7000222,
                f"The certificate '{entry.key_id}' is not valid now. Add a new one to the application.",
            )
        public = certificate.public_key()
        if not isinstance(public, rsa.RSAPublicKey) or public.key_size < KEY_SIZE_MIN_BITS:
            raise invalid_client(
                700027, f"The certificate's key has to be RSA of {KEY_SIZE_MIN_BITS} bits or more."
            )
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return jwk.RSAKey.import_key(pem)
    raise invalid_client(
        700027, "The certificate of the client assertion is not registered on the application. Add it."
    )


def _thumbprint(value: object, length: int) -> bytes | None:
    """The thumbprint that a header names; one that no certificate has when it can't be read."""
    if not isinstance(value, str):
        return None
    try:
        thumbprint = _base64url(value)
    except ValueError:
        return UNREADABLE
    return thumbprint if len(thumbprint) == length else UNREADABLE


def _audiences(parts: Parts, request: TokenRequest, application: Application) -> set[str]:
    """What a client may take for the name of the token endpoint, with each name of the tenant."""
    tenants = {*ANY_TENANT, application.principal.tenant_id, request.tenant}
    paths = ("oauth2/v2.0/token", "oauth2/token", "v2.0", "")
    return {f"{parts.endpoint}/{tenant}/{path}" for tenant in tenants for path in paths}


def _check_times(claims: dict[str, Any], time_s: float) -> float:
    """When the assertion ends. Raises `SignInError` when that is past or far away, or it has not begun."""
    expires_at_s = claims.get("exp")
    begins = [claims[name] for name in ("nbf", "iat") if name in claims]
    if not all(_is_time(value) for value in (expires_at_s, *begins)):
        raise _malformed("It doesn't say when it ends (exp), or its times are no numbers.")
    assert isinstance(expires_at_s, int | float)
    if expires_at_s + CLOCK_SKEW_S <= time_s or any(value > time_s + CLOCK_SKEW_S for value in begins):
        raise invalid_client(
            700024,
            "The client assertion is not within its valid time range. Sign a new one; compare the clocks.",
        )
    if expires_at_s > time_s + LIFETIME_MAX_S + CLOCK_SKEW_S:
        raise invalid_client(
            700024, f"The client assertion is valid for too long; sign it for {LIFETIME_MAX_S} s at most."
        )
    return float(expires_at_s)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < TIME_MAX_S


def _is_id(value: object, app_id: str) -> bool:
    return isinstance(value, str) and value.lower() == app_id


def _malformed(reason: str) -> SignInError:
    return invalid_client(50027, f"The client assertion can't be used. {reason}")
