"""Access tokens: JSON Web Tokens that this gallery signs, and the check of those that come in.

A token from the v2.0 endpoint has the issuer `ENDPOINT/TENANT/v2.0`, one from the older endpoint
`ENDPOINT/TENANT/`; both name the application in `appid` and `azp`, as Azure's tools look for either.
Source: Microsoft Entra access token claims reference; RFC 7519; RFC 8725 (best current practices).
"""

import hashlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from joserfc import jws, jwt
from joserfc.errors import JoseError

from opengallery.database import Database
from opengallery.identity.directory import find_enabled_principal
from opengallery.identity.keys import SigningKeys
from opengallery.identity.principal import Principal

LIFETIME_S = 3600
CLOCK_SKEW_S = 60
TOKEN_LENGTH_MAX = 16 * 1024
REMEMBER_MAX = 4096
REMEMBER_S = 300.0
PRINCIPAL_FRESH_S = 5.0
ALGORITHMS = ["RS256"]

# SDKs that are told only the endpoint ask for a token for the public cloud's resource manager.
PUBLIC_CLOUD_AUDIENCES = ("https://management.azure.com", "https://management.core.windows.net")

TokenVersion = Literal["1.0", "2.0"]


class InvalidToken(Exception):
    """The token proves nothing; `reason` says why, without a part of the token."""

    def __init__(self, reason: str) -> None:
        """Say why."""
        super().__init__(reason)
        self.reason = reason


class UnknownResource(Exception):
    """No token is given for this resource: it is none of this gallery's."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A signed token. `expires_at` and `not_before` are seconds since 1970."""

    text: str
    not_before: int
    expires_at: int
    resource: str


@dataclass(slots=True)
class _Seen:
    """A token whose signature and claims were found right, and its principal as it was lately."""

    key_id: str
    object_id: str
    tenant_id: str
    expires_at: float
    remember_until: float
    principal: Principal | None
    fresh_until: float


def proof_claim(version: TokenVersion) -> str:
    """The claim that says how the client proved itself."""
    return "appidacr" if version == "1.0" else "azpacr"


class Tokens:
    """Issues and validates the tokens of one gallery. Safe to use from many threads."""

    def __init__(
        self,
        database: Database,
        keys: SigningKeys,
        endpoint: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Serve `endpoint`, a URL without a slash at its end. `clock` gives seconds since 1970."""
        self._database = database
        self._keys = keys
        self._endpoint = endpoint
        self.clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        names = (endpoint, *PUBLIC_CLOUD_AUDIENCES)
        self.audiences = frozenset(name + slash for name in names for slash in ("", "/"))

    def issuer(self, tenant_id: str, version: TokenVersion) -> str:
        """The issuer of a tenant's tokens."""
        return f"{self._endpoint}/{tenant_id}/" + ("v2.0" if version == "2.0" else "")

    def issue(
        self, principal: Principal, resource: str, version: TokenVersion = "2.0", proof: str = "1"
    ) -> IssuedToken:
        """Sign a token with which the application `principal` may call `resource`.

        `proof` says how it signed in: "1" by a secret, "2" by a certificate. Raises `UnknownResource`.
        """
        claims = {"appid": principal.app_id, "azp": principal.app_id, "idtyp": "app"}
        return self.issue_access(principal, resource, version, {**claims, proof_claim(version): proof})

    def issue_access(
        self, principal: Principal, resource: str, version: TokenVersion, claims: dict[str, Any]
    ) -> IssuedToken:
        """Sign a token with which `principal` may call `resource`; `claims` say the rest.

        Raises `UnknownResource`.
        """
        if resource not in self.audiences:
            raise UnknownResource(resource)
        return self.sign(principal, resource, version, claims)

    def sign(
        self, principal: Principal, audience: str, version: TokenVersion, claims: dict[str, Any]
    ) -> IssuedToken:
        """Sign what this gallery says of `principal` to `audience`.

        Only those for one of `audiences` are access tokens; others pass nowhere in this gallery.
        """
        issued_at = int(self.clock())
        expires_at = issued_at + LIFETIME_S
        issuer = self.issuer(principal.tenant_id, version)
        claims = {
            **claims,
            "aud": audience,
            "iss": issuer,
            "iat": issued_at,
            "nbf": issued_at,
            "exp": expires_at,
            "idp": issuer,
            "oid": principal.object_id,
            "sub": principal.object_id,
            "tid": principal.tenant_id,
            "uti": secrets.token_urlsafe(16),
            "ver": version,
        }
        kid, key = self._keys.current
        text = jwt.encode({"alg": "RS256", "kid": kid}, claims, key, algorithms=ALGORITHMS)
        return IssuedToken(text, issued_at, expires_at, audience)

    def validate(self, token: str) -> Principal:
        """Return who the token speaks for. Raises `InvalidToken`.

        A right token is remembered, so that the signature isn't checked at each request; that its
        principal is enabled is looked up again after `PRINCIPAL_FRESH_S`.
        """
        if len(token) > TOKEN_LENGTH_MAX:
            raise InvalidToken("The token is too long.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        time_s = self.clock()
        with self._lock:
            seen = self._seen.get(digest)
        if seen is None or seen.remember_until <= time_s or self._keys.find(seen.key_id) is None:
            seen = self._verify(token, time_s)
            self._remember(digest, seen)
        if seen.expires_at + CLOCK_SKEW_S <= time_s:
            raise InvalidToken("The token has expired. Ask for a new one.")
        if seen.fresh_until <= time_s:
            with self._database.read() as connection:
                seen.principal = find_enabled_principal(connection, seen.object_id)
            seen.fresh_until = time_s + PRINCIPAL_FRESH_S
        if seen.principal is None or seen.principal.tenant_id != seen.tenant_id:
            raise InvalidToken("The principal of the token doesn't exist or is disabled.")
        return seen.principal

    def forget(self, object_id: str) -> None:
        """Look this principal up again at its next request: it was changed."""
        with self._lock:
            for seen in self._seen.values():
                if seen.object_id == object_id:
                    seen.fresh_until = 0.0

    def _remember(self, digest: bytes, seen: _Seen) -> None:
        with self._lock:
            self._seen[digest] = seen
            self._seen.move_to_end(digest)
            while len(self._seen) > REMEMBER_MAX:
                self._seen.popitem(last=False)

    def _verify(self, token: str, time_s: float) -> _Seen:
        """Check signature and claims."""
        key_id, claims = self._signed_claims(token)
        not_before, expires_at = claims.get("nbf"), claims.get("exp")
        if type(not_before) is not int or type(expires_at) is not int:
            raise InvalidToken("The token doesn't say when it begins and ends (nbf, exp).")
        if expires_at + CLOCK_SKEW_S <= time_s:
            raise InvalidToken("The token has expired. Ask for a new one.")
        if not_before > time_s + CLOCK_SKEW_S:
            raise InvalidToken("The token is not valid yet (nbf). Compare the clocks.")
        tenant_id, object_id = claims.get("tid"), claims.get("oid")
        if not isinstance(tenant_id, str) or not isinstance(object_id, str):
            raise InvalidToken("The token doesn't name its tenant and principal (tid, oid).")
        if claims.get("iss") not in (self.issuer(tenant_id, "1.0"), self.issuer(tenant_id, "2.0")):
            raise InvalidToken("The token was issued by somebody else (iss).")
        audience = claims.get("aud")
        if not isinstance(audience, str) or audience not in self.audiences:
            raise InvalidToken("The token is for another resource (aud).")
        return _Seen(key_id, object_id, tenant_id, float(expires_at), time_s + REMEMBER_S, None, 0.0)

    def _signed_claims(self, token: str) -> tuple[str, dict[str, Any]]:
        """The id of the key that signed, and what the token says."""
        try:
            header = jws.extract_compact(token.encode()).headers()
            key = self._keys.find(header.get("kid"))
            if header.get("alg") not in ALGORITHMS:
                raise InvalidToken("The token is not signed with RS256.")
            if key is None:
                raise InvalidToken("The token is signed with a key that isn't ours (kid).")
            return str(header["kid"]), jwt.decode(token, key, algorithms=ALGORITHMS).claims
        except (JoseError, ValueError, TypeError) as error:
            raise InvalidToken("The token is malformed or its signature is wrong.") from error
