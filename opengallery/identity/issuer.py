"""An external issuer's keys: its discovery document and JSON Web Key Set, fetched and kept.

Both are fetched by HTTPS, bounded in time and size, and no redirect is followed. A key id that is not
known has the keys fetched again, but not more often than every `REFETCH_S`: anybody can invent key ids.
While the issuer can't be reached, the keys that it had stay good for `KEEP_S`.
Source: OpenID Connect Discovery 1.0; RFC 7517 (JWK); RFC 8725 (best current practices).
"""

import json
import ssl
import threading
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any

import httpx
import structlog
from joserfc import jwk
from joserfc.errors import JoseError

ALGORITHMS = ("RS256", "PS256", "ES256")
FRESH_S = 3600.0
KEEP_S = 24 * 3600.0
REFETCH_S = 10.0
TIMEOUT_S = 5.0
TIME_MAX_S = 10.0
SIZE_MAX_BYTES = 512 * 1024
KEYS_MAX = 64
KEY_ID_LENGTH_MAX = 256
RSA_BITS_MIN = 2048
# Compressed, a small answer could grow beyond the limit before it is counted.
PLAIN = {"accept": "application/json", "accept-encoding": "identity"}
DISCOVERY_PATH = "/.well-known/openid-configuration"

Key = jwk.RSAKey | jwk.ECKey

log = structlog.get_logger()


class IssuerUnavailable(Exception):
    """The issuer can't be asked, or what it answers can't be used; the message says what to look at."""


class Issuer:
    """One issuer and the keys that it signs with. Safe to use from many threads; look-ups may fetch."""

    def __init__(
        self, url: str, ca_file: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Name the issuer just as its tokens do. `ca_file` holds the authorities that may vouch for it."""
        self.url = url
        self.generation = 0  # raised when the keys change
        self._clock = clock
        try:
            self._trust = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            reason = error.strerror or str(error)
            raise IssuerUnavailable(f"identity.ca_file: '{ca_file}' can't be read: {reason}.") from error
        self._fetching = threading.Lock()
        self._keys: dict[tuple[str, str], Key] = {}
        self._fetched_at = self._tried_at = float("-inf")

    def find(self, key_id: str, algorithm: str) -> Key | None:
        """The key of this id that signs by `algorithm`; `None` when the issuer has none.

        Raises `IssuerUnavailable` when the issuer can't be reached and no key of it is still good.
        """
        wanted = (key_id, algorithm)
        known = self._keys.get(wanted)
        if known is not None and self._age_s < FRESH_S:
            return known
        # Who finds a key at hand doesn't wait while another fetches.
        if self._fetching.acquire(blocking=known is None or self._age_s >= KEEP_S):
            try:
                if wanted not in self._keys or self._age_s >= FRESH_S:
                    self._refetch()
            finally:
                self._fetching.release()
        if self._age_s >= KEEP_S:
            raise IssuerUnavailable(
                f"The issuer {self.url} can't be asked for its keys. Try again; the server's log says why."
            )
        return self._keys.get(wanted)

    def document(self) -> dict[str, Any]:
        """The issuer's discovery document. Raises `IssuerUnavailable`."""
        with self.client() as client:
            document = _get(client, self.url.rstrip("/") + DISCOVERY_PATH)
        if document.get("issuer") != self.url:
            raise IssuerUnavailable(
                f"The discovery document of {self.url} names another issuer. Set identity.issuer to just its name."
            )
        return document

    def client(self) -> httpx.Client:
        """A client for requests to the issuer."""
        return httpx.Client(verify=self._trust, timeout=TIMEOUT_S, follow_redirects=False)

    @property
    def _age_s(self) -> float:
        return self._clock() - self._fetched_at

    def _refetch(self) -> None:
        """Fetch the keys, unless that was tried a moment ago."""
        time_s = self._clock()
        if time_s - self._tried_at < REFETCH_S:
            return
        self._tried_at = time_s
        try:
            uri = https_url(self.document(), "jwks_uri")
            with self.client() as client:
                keys = read_keys(_get(client, uri))
        except IssuerUnavailable as error:
            log.warning("the issuer's keys can't be fetched", issuer=self.url, reason=str(error))
            return
        if keys != self._keys:
            self.generation += 1
        self._keys, self._fetched_at = keys, self._clock()


def https_url(document: dict[str, Any], name: str) -> str:
    """The URL that a discovery document gives by `name`. Raises `IssuerUnavailable` for any but https."""
    url = document.get(name)
    if not isinstance(url, str) or not url.startswith("https://"):
        raise IssuerUnavailable(f"The issuer's discovery document has no https URL '{name}'.")
    return url


def read_keys(key_set: dict[str, Any]) -> dict[tuple[str, str], Key]:
    """The keys of a JSON Web Key Set by id and algorithm; those that can't sign our tokens are left out."""
    entries = key_set.get("keys")
    if not isinstance(entries, list) or len(entries) > KEYS_MAX:
        raise IssuerUnavailable(f"The issuer's key set has no list of at most {KEYS_MAX} keys.")
    found: dict[tuple[str, str], Key] = {}
    for entry in entries:
        if isinstance(entry, dict) and (key := _read_key(entry)) is not None:
            for algorithm in _algorithms(entry):
                # Two keys of one id: the first, as whoever signs would say.
                found.setdefault((str(entry["kid"]), algorithm), key)
    return found


def _algorithms(entry: dict[str, Any]) -> tuple[str, ...]:
    own = ("ES256",) if entry["kty"] == "EC" else ("RS256", "PS256")
    return tuple(name for name in own if entry.get("alg") in (None, name))


def _read_key(entry: dict[str, Any]) -> Key | None:
    kid, operations = entry.get("kid"), entry.get("key_ops", ["verify"])
    if not isinstance(kid, str) or not 0 < len(kid) <= KEY_ID_LENGTH_MAX:
        return None
    if (
        entry.get("use") not in (None, "sig")
        or not isinstance(operations, list)
        or "verify" not in operations
    ):
        return None
    try:
        if entry.get("kty") == "RSA":
            modulus = int.from_bytes(urlsafe_b64decode(entry["n"] + "=="))
            is_strong = modulus.bit_length() >= RSA_BITS_MIN
            return (
                jwk.RSAKey.import_key({name: entry[name] for name in ("kty", "n", "e")})
                if is_strong
                else None
            )
        if entry.get("kty") == "EC" and entry.get("crv") == "P-256":
            return jwk.ECKey.import_key({name: entry[name] for name in ("kty", "crv", "x", "y")})
    except (JoseError, LookupError, ValueError, TypeError):
        return None
    return None


def _get(client: httpx.Client, url: str) -> dict[str, Any]:
    """A JSON object by GET. Raises `IssuerUnavailable`."""
    ends_at = time.monotonic() + TIME_MAX_S
    content = bytearray()
    try:
        with client.stream("GET", url, headers=PLAIN) as answer:
            if answer.status_code != 200:
                raise IssuerUnavailable(f"{url} answers {answer.status_code}.")
            for piece in answer.iter_raw(16 * 1024):
                content += piece
                if len(content) > SIZE_MAX_BYTES or time.monotonic() > ends_at:
                    raise IssuerUnavailable(
                        f"{url} answers more than {SIZE_MAX_BYTES} bytes, or for more than {TIME_MAX_S:.0f} s."
                    )
        document = json.loads(content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise IssuerUnavailable(f"{url} can't be reached: {error or type(error).__name__}.") from error
    except (ValueError, RecursionError) as error:
        raise IssuerUnavailable(f"{url} answers no JSON.") from error
    if not isinstance(document, dict):
        raise IssuerUnavailable(f"{url} answers no JSON object.")
    return document
