"""Access tokens of an external issuer: checked by its keys, and turned into principals by their claims.

Who a token speaks for stands in the claim `identity.id_claim`, its groups in `identity.groups_claim`;
nothing else that the token says gives rights. A right token is remembered for a short while.
Source: RFC 9068 (JWT profile for access tokens); RFC 8725; Microsoft Entra access token claims reference.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from starlette.concurrency import run_in_threadpool

from opengallery.database import Database
from opengallery.identity import external_principals
from opengallery.identity.external_principals import Group, OtherKind, object_id
from opengallery.identity.issuer import ALGORITHMS, KEY_ID_LENGTH_MAX, Issuer, IssuerUnavailable
from opengallery.identity.principal import Principal, PrincipalKind
from opengallery.identity.tokens import CLOCK_SKEW_S, TOKEN_LENGTH_MAX, InvalidToken
from opengallery.settings import IdentitySettings

REMEMBER_S = 60.0
REMEMBER_MAX = 4096
FRESH_S = 5.0
GROUPS_MAX = 1000
VALUE_LENGTH_MAX = 256
TYPES = (None, "jwt", "at+jwt", "application/at+jwt")


@dataclass(slots=True)
class _Seen:
    """A right token: its principal and groups, and until when that is known."""

    principal: Principal
    groups: list[Group]
    expires_at: float
    remember_until: float
    generation: int
    fresh_until: float = 0.0
    is_enabled: bool = False


class ExternalTokens:
    """Validates the tokens of one issuer. Safe to use from many threads."""

    def __init__(
        self,
        database: Database,
        issuer: Issuer,
        settings: IdentitySettings,
        endpoint: str,
        tenant_id: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Principals belong to the tenant `tenant_id`. `clock` gives seconds since 1970."""
        self._database = database
        self._issuer = issuer
        self._settings = settings
        self._tenant_id = tenant_id
        self._clock = clock
        self._audiences = frozenset(settings.audiences or (endpoint, f"{endpoint}/"))
        self._administrators = external_principals.administrator_ids(settings)
        self._group = external_principals.administrators_group(settings)
        self._lock = threading.Lock()
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    async def authenticate(self, token: str) -> Principal:
        """Return who the token speaks for, without holding up others. Raises `InvalidToken`."""
        digest = _digest(token)
        seen = self._recall(digest)
        if seen is None or seen.fresh_until <= self._clock():
            return await run_in_threadpool(self.validate, token)
        return _enabled(seen)

    def validate(self, token: str) -> Principal:
        """Return who the token speaks for; may ask the issuer for its keys. Raises `InvalidToken`."""
        digest, time_s = _digest(token), self._clock()
        seen = self._recall(digest)
        if seen is None:
            seen = self._verify(token, time_s)
            with self._lock:
                self._seen[digest] = seen
                while len(self._seen) > REMEMBER_MAX:
                    self._seen.popitem(last=False)
        if seen.fresh_until <= time_s:
            try:
                seen.is_enabled = external_principals.register(self._database, seen.principal, seen.groups)
            except OtherKind:
                reason = (
                    "An id in the token belongs to a principal of another kind (a group's to a user, say)."
                )
                raise InvalidToken(reason) from None
            seen.fresh_until = time_s + FRESH_S
        return _enabled(seen)

    def _recall(self, digest: bytes) -> _Seen | None:
        time_s = self._clock()
        with self._lock:
            seen = self._seen.get(digest)
        if seen is None or seen.remember_until <= time_s or seen.generation != self._issuer.generation:
            return None
        if seen.expires_at + CLOCK_SKEW_S <= time_s:
            raise InvalidToken("The token has expired. Ask for a new one.")
        return seen

    def _verify(self, token: str, time_s: float) -> _Seen:
        """Check signature and claims."""
        generation = self._issuer.generation
        claims = self._signed_claims(token)
        expires_at = _time(claims, "exp")
        if expires_at is None:
            raise InvalidToken("The token doesn't say when it ends (exp).")
        if expires_at + CLOCK_SKEW_S <= time_s:
            raise InvalidToken("The token has expired. Ask for a new one.")
        if (_time(claims, "nbf") or 0.0) > time_s + CLOCK_SKEW_S:
            raise InvalidToken("The token is not valid yet (nbf). Compare the clocks.")
        if claims.get("iss") != self._issuer.url:
            raise InvalidToken("The token was issued by somebody else (iss).")
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if not any(isinstance(name, str) and name in self._audiences for name in audiences):
            raise InvalidToken("The token is for another resource (aud).")
        client = _client(claims)
        if self._settings.clients and client not in self._settings.clients:
            raise InvalidToken("The token was given to a client that isn't allowed here (azp, client_id).")
        for name, value in self._settings.required_claims.items():
            if claims.get(name) != value:
                raise InvalidToken(f"The token lacks a claim that is required here ({name}).")
        principal, groups = self._principal(claims, client)
        return _Seen(principal, groups, expires_at, time_s + REMEMBER_S, generation)

    def _signed_claims(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_LENGTH_MAX:
            raise InvalidToken("The token is too long.")
        try:
            header = jws.extract_compact(token.encode()).headers()
            algorithm, kid = header.get("alg"), header.get("kid")
            if algorithm not in ALGORITHMS:
                raise InvalidToken(f"The token is signed with none of {', '.join(ALGORITHMS)}.")
            typ = header.get("typ")
            if (typ.lower() if isinstance(typ, str) else typ) not in TYPES:
                raise InvalidToken("This is no access token (typ).")
            if not isinstance(kid, str) or not 0 < len(kid) <= KEY_ID_LENGTH_MAX:
                raise InvalidToken("The token doesn't name its key (kid).")
            key = self._issuer.find(kid, algorithm)
            if key is None:
                raise InvalidToken("The token is signed with a key that isn't the issuer's (kid).")
            claims = jwt.decode(token, key, algorithms=[algorithm]).claims
        except IssuerUnavailable as error:
            raise InvalidToken(str(error)) from error
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidToken("The token is malformed or its signature is wrong.") from error
        if not isinstance(claims, dict):
            raise InvalidToken("The token's claims are no JSON object.")
        return claims

    def _principal(self, claims: dict[str, Any], client: str | None) -> tuple[Principal, list[Group]]:
        """Who the claims speak for, and its groups."""
        settings = self._settings
        value = _text(claims.get(settings.id_claim))
        if value is None:
            raise InvalidToken(f"The token doesn't say for whom it speaks ({settings.id_claim}).")
        kind = self._kind(claims, client)
        own_id = object_id(settings, kind, value)
        name = _text(claims.get(settings.name_claim)) or (client if kind != "User" else None) or value
        groups = [
            Group(object_id(settings, "Group", group), group)
            for group in _groups(claims.get(settings.groups_claim))
        ]
        if self._administrators & {own_id, *(group.object_id for group in groups)}:
            groups.append(self._group)
        ids = tuple(dict.fromkeys(group.object_id for group in groups))
        app_id = client if kind == "ServicePrincipal" else None
        return Principal(own_id, self._tenant_id, kind, app_id, name, ids), groups

    def _kind(self, claims: dict[str, Any], client: str | None) -> PrincipalKind:
        """A service principal speaks for itself: its token says so, or names it as subject and client."""
        if self._settings.service_claim is not None:
            name, equals, value = self._settings.service_claim.partition("=")
            is_service = claims.get(name) == value if equals else name in claims
        else:
            is_service = claims.get("idtyp") == "app" or (client is not None and claims.get("sub") == client)
        return "ServicePrincipal" if is_service else "User"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _enabled(seen: _Seen) -> Principal:
    if not seen.is_enabled:
        raise InvalidToken("The principal of the token is disabled.")
    return seen.principal


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A moment in seconds since 1970; `None` when the claim is missing. Raises `InvalidToken`."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise InvalidToken(f"The token has a time that can't be read ({name}).")
    return float(value)


def _client(claims: dict[str, Any]) -> str | None:
    for name in ("azp", "client_id", "appid"):
        if name in claims:
            return _text(claims[name])
    return None


def _groups(claim: Any) -> list[str]:
    """The groups of a token. Raises `InvalidToken` for more than are followed: rights must not depend on luck."""
    names = claim if isinstance(claim, list) else [] if claim is None else [claim]
    if len(names) > GROUPS_MAX:
        raise InvalidToken(f"The token names more than {GROUPS_MAX} groups. Let the issuer name fewer.")
    return [name for name in map(_text, names) if name is not None]


def _text(value: Any) -> str | None:
    """A text of reasonable length that a database can keep; `None` for anything else."""
    if isinstance(value, str) and 0 < len(value) <= VALUE_LENGTH_MAX and value.isprintable():
        return value
    return None
