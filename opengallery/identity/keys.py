"""The keys that sign access tokens: RSA, RS256, kept in DIR/identity/token-keys.json (0600).

The file is a JSON Web Key Set with the private keys, each with the moment when it was `created` and, if
another one has followed, when it was `retired` (seconds since 1970). The first key signs; the others verify
until every token that they signed has ended. Every process notices another file within `LOOK_S`, and at
once when a token names a key that it doesn't know.
Source: RFC 7517 (JWK), RFC 7518 (RS256).
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from joserfc import jwk
from joserfc.errors import JoseError

from opengallery.identity.folder import IdentityFolder

FILE = "token-keys.json"
KEY_SIZE_BITS = 2048
LOOK_S = 1.0
VERIFIES_ON_S = 2 * 3600
"""How long a retired key verifies: longer than any token lives, and clocks may differ."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key, with the moments of its life. `retired` is `None` while it signs."""

    key: jwk.RSAKey
    created: int
    retired: int | None

    def verifies(self, time_s: float) -> bool:
        """Whether tokens that it signed may still be in use."""
        return self.retired is None or time_s < self.retired + VERIFIES_ON_S


class SigningKeys:
    """The keys of one gallery, as they are in its folder. The first signs. Safe to use from many threads."""

    def __init__(self, folder: IdentityFolder, clock: Callable[[], float] = time.time) -> None:
        """Follow the keys of `folder`, which are there. `clock` gives seconds since 1970."""
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._looked_at = 0.0
        self._keys: dict[str, SigningKey] = {}
        self._look()

    @classmethod
    def open(cls, folder: IdentityFolder, clock: Callable[[], float] = time.time) -> "SigningKeys":
        """Read the keys of `folder`; make the first one if there is none."""
        with folder.locked():
            if folder.read(FILE) is None:
                _write(folder, [_make_key(clock())])
        return cls(folder, clock)

    @property
    def current(self) -> tuple[str, jwk.RSAKey]:
        """The key that signs, behind its id."""
        kid, first = next(iter(self._known().items()))
        return kid, first.key

    def find(self, kid: object) -> jwk.RSAKey | None:
        """The key with the id `kid`, if it is one of ours that verifies."""
        if not isinstance(kid, str):
            return None
        found = self._known().get(kid)
        if found is None:
            self._look()
            found = self._keys.get(kid)
        return found.key if found and found.verifies(self._clock()) else None

    def public(self) -> list[dict[str, Any]]:
        """The public halves, as a JSON Web Key Set lists them."""
        return [
            {**entry.key.as_dict(private=False), "use": "sig", "alg": "RS256", "kid": kid}
            for kid, entry in self._known().items()
            if entry.verifies(self._clock())
        ]

    def _known(self) -> dict[str, SigningKey]:
        if not 0 <= time.monotonic() - self._looked_at < LOOK_S:
            self._look()
        return self._keys

    def _look(self) -> None:
        """Read the file again if it is another one."""
        with self._lock:
            self._looked_at = time.monotonic()
            try:
                state = (self._folder.path / FILE).stat()
            except FileNotFoundError:
                return  # somebody takes DIR away: what is known stays
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
            if stamp == self._stamp:
                return
            try:
                keys = read_keys(self._folder)
            except (ValueError, LookupError, TypeError, JoseError) as error:
                if not self._keys:
                    raise
                log.error(
                    "the file of token keys can't be read: the old keys stay", reason=type(error).__name__
                )
            else:
                self._keys = {str(entry.key.kid): entry for entry in keys}
            self._stamp = stamp


def read_keys(folder: IdentityFolder) -> list[SigningKey]:
    """All keys of the file, the one that signs first."""
    content = folder.read(FILE)
    if content is None:
        return []
    changed = int((folder.path / FILE).stat().st_mtime)
    keys = []
    for entry in json.loads(content)["keys"]:
        created, retired = entry.pop("created", changed), entry.pop("retired", None)
        keys.append(SigningKey(jwk.RSAKey.import_key(entry), created, retired))
    return keys


def rotate(folder: IdentityFolder, forgets_old: bool = False, clock: Callable[[], float] = time.time) -> str:
    """Put a new key in front; its id. The old ones verify until their tokens have ended.

    With `forgets_old` they are gone at once, and with them every token: for a key that others know.
    """
    made = _make_key(clock())
    with folder.locked():
        folder.sweep(FILE)
        _write(folder, [made, *([] if forgets_old else _retired(read_keys(folder), clock()))])
    return str(made.key.kid)


def tend(folder: IdentityFolder, age_max_s: float, clock: Callable[[], float] = time.time) -> str | None:
    """Rotate when the key that signs is old (never with an age of 0), drop those that are over.

    Returns the new key's id if there is one. Cheap when nothing is to be done.
    """
    keys, time_s = read_keys(folder), clock()
    if age_max_s and keys and time_s - keys[0].created >= age_max_s:
        return rotate(folder, clock=clock)
    if any(not entry.verifies(time_s) for entry in keys):
        with folder.locked():
            _write(folder, [entry for entry in read_keys(folder) if entry.verifies(time_s)])
    return None


def _retired(keys: list[SigningKey], time_s: float) -> list[SigningKey]:
    """These keys, none of which signs any more, without those that are over."""
    now = int(time_s)
    kept = [SigningKey(entry.key, entry.created, entry.retired or now) for entry in keys]
    return [entry for entry in kept if entry.verifies(time_s)]


def _make_key(time_s: float) -> SigningKey:
    return SigningKey(jwk.RSAKey.generate_key(KEY_SIZE_BITS, auto_kid=True), int(time_s), None)


def _write(folder: IdentityFolder, keys: list[SigningKey]) -> None:
    entries = [
        {
            **entry.key.as_dict(private=True),
            "created": entry.created,
            **({} if entry.retired is None else {"retired": entry.retired}),
        }
        for entry in keys
    ]
    folder.write(FILE, json.dumps({"keys": entries}).encode())
