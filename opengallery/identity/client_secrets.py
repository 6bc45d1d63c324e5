"""Client secrets: hash them, and check what an application sends against the hashes.

A check costs tens of milliseconds and 64 MiB by design (Argon2id). So only a few run at once, the
queue before them is short, a success is remembered for some minutes (as a digest under a key that
lives in this process), and an application that fails too often has to wait.
"""

import hashlib
import hmac
import secrets
import string
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from opengallery.identity.applications import ClientSecret

CHECKS_AT_ONCE = 2
CHECKS_WAITING_MAX = 32
REMEMBER_S = 300.0
REMEMBER_MAX = 1024
FAILURES_MAX = 20
FAILURES_WINDOW_S = 60.0
SECRET_LENGTH_MAX = 1024

# az takes a secret that begins with `-` for an option, so it has letters and digits only (238 bits).
SECRET_LETTERS = string.ascii_letters + string.digits
SECRET_LENGTH = 40

_hasher = PasswordHasher()
# Each hash takes 64 MiB: a crowd that makes secrets waits its turn.
_hashing = threading.BoundedSemaphore(CHECKS_AT_ONCE)


class WrongSecret(Exception):
    """The secret is none of the application's."""


class ExpiredSecret(Exception):
    """The secret was right once; its time is over. `key_id` says which one it was."""

    def __init__(self, key_id: str) -> None:
        """Name the secret that has expired."""
        super().__init__(key_id)
        self.key_id = key_id


@dataclass
class TooManyChecks(Exception):
    """Checks of this application, or of all, have to wait for `retry_after_s` seconds."""

    retry_after_s: int


def hash_secret(secret: str) -> str:
    """The hash under which a secret is kept."""
    with _hashing:
        return _hasher.hash(secret)


def generate_secret() -> str:
    """A new secret that nobody guesses."""
    return "".join(secrets.choice(SECRET_LETTERS) for _ in range(SECRET_LENGTH))


class SecretChecker:
    """Checks secrets for one server process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing remembered. `clock` gives seconds."""
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._right: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._failures: dict[str, deque[float]] = {}
        self._running: dict[bytes, Future[None]] = {}
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix="client-secret")

    def submit(self, app_id: str, secret: str, kept: tuple[ClientSecret, ...]) -> "Future[None]":
        """Check `secret` against what is kept for the application `app_id`.

        The future ends well, or with `WrongSecret` or `ExpiredSecret`; it may be shared with others
        who sent the same, so don't cancel it. Raises `TooManyChecks`.
        """
        digest = self._digest(app_id, secret)
        if self._remembers(digest, kept):
            done: Future[None] = Future()
            done.set_result(None)
            return done
        with self._lock:
            if digest in self._running:
                return self._running[digest]
            self._refuse_too_many(app_id)
            future = self._threads.submit(self._check, app_id, secret, kept, digest)
            self._running[digest] = future
        future.add_done_callback(lambda _: self._forget(digest))
        return future

    def close(self) -> None:
        """End the threads; checks that wait are dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _check(self, app_id: str, secret: str, kept: tuple[ClientSecret, ...], digest: bytes) -> None:
        matching = self._matching(secret, kept)
        if matching is None:
            with self._lock:
                self._failures.setdefault(app_id, deque(maxlen=FAILURES_MAX)).append(self._clock())
            raise WrongSecret
        if matching.has_expired:
            raise ExpiredSecret(matching.key_id)
        with self._lock:
            self._right[digest] = (matching.hash, self._clock() + REMEMBER_S)
            while len(self._right) > REMEMBER_MAX:
                self._right.popitem(last=False)

    def _matching(self, secret: str, kept: tuple[ClientSecret, ...]) -> ClientSecret | None:
        if len(secret) > SECRET_LENGTH_MAX:
            return None
        for entry in kept:
            try:
                _hasher.verify(entry.hash, secret)
            except (VerificationError, InvalidHashError):
                continue
            return entry
        return None

    def _remembers(self, digest: bytes, kept: tuple[ClientSecret, ...]) -> bool:
        """Whether this very secret was right lately, and is still kept and in time."""
        with self._lock:
            hash_, until = self._right.get(digest, ("", 0.0))
        if self._clock() >= until:
            return False
        return any(hmac.compare_digest(entry.hash, hash_) and not entry.has_expired for entry in kept)

    def _refuse_too_many(self, app_id: str) -> None:
        if len(self._running) >= CHECKS_AT_ONCE + CHECKS_WAITING_MAX:
            raise TooManyChecks(retry_after_s=5)
        failures = self._failures.get(app_id)
        if failures is None:
            return
        window_s = self._clock() - FAILURES_WINDOW_S
        while failures and failures[0] <= window_s:
            failures.popleft()
        if not failures:
            del self._failures[app_id]
        elif len(failures) >= FAILURES_MAX:
            raise TooManyChecks(retry_after_s=max(1, round(failures[0] - window_s)))

    def _digest(self, app_id: str, secret: str) -> bytes:
        return hmac.digest(self._key, f"{app_id}\0{secret}".encode("utf-8", "surrogatepass"), hashlib.sha256)

    def _forget(self, digest: bytes) -> None:
        with self._lock:
            self._running.pop(digest, None)
