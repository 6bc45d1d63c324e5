"""Client secrets and passwords: hash them, and check what was sent against the hashes.

A check costs tens of milliseconds and 64 MiB by design (Argon2id). So only a few run at once, the
queue before them is short, a success is remembered for some minutes (as a digest under a key that
lives in this process), and an account that fails too often has to wait, as has an address.
"""

import hashlib
import hmac
import secrets
import string
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from opengallery.identity.failures import Failures

CHECKS_AT_ONCE = 2
CHECKS_WAITING_MAX = 32
REMEMBER_S = 300.0
REMEMBER_MAX = 1024
FAILURES_MAX = 20
ADDRESS_FAILURES_MAX = 200
FAILURES_WINDOW_S = 60.0
SECRET_LENGTH_MAX = 1024

# az takes a secret that begins with `-` for an option, so it has letters and digits only (238 bits).
SECRET_LETTERS = string.ascii_letters + string.digits
SECRET_LENGTH = 40

_hasher = PasswordHasher()
# Each hash takes 64 MiB: a crowd that makes secrets waits its turn.
_hashing = threading.BoundedSemaphore(CHECKS_AT_ONCE)


class KeptSecret(Protocol):
    """A secret as it is kept: its Argon2 hash."""

    @property
    def key_id(self) -> str:
        """Which of the account's secrets it is."""

    @property
    def hash(self) -> str:
        """The Argon2 hash."""

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""


@dataclass(frozen=True, slots=True)
class Password:
    """A user's password as it is kept. It does not expire."""

    key_id: str
    hash: str
    has_expired: bool = False


class WrongSecret(Exception):
    """The secret is none of the account's."""


class ExpiredSecret(Exception):
    """The secret was right once; its time is over. `key_id` says which one it was."""

    def __init__(self, key_id: str) -> None:
        """Name the secret that has expired."""
        super().__init__(key_id)
        self.key_id = key_id


@dataclass
class TooManyChecks(Exception):
    """Checks have to wait for `retry_after_s` seconds: this account's if `is_locked`, else all."""

    retry_after_s: int
    is_locked: bool = False


def hash_secret(secret: str) -> str:
    """The hash under which a secret is kept."""
    with _hashing:
        return _hasher.hash(secret)


def generate_secret() -> str:
    """A new secret that nobody guesses."""
    return "".join(secrets.choice(SECRET_LETTERS) for _ in range(SECRET_LENGTH))


@cache
def nobodys_password() -> Password:
    """A password that nobody knows: checking it takes as long as checking a user's."""
    return Password("", hash_secret(secrets.token_urlsafe(32)))


class SecretChecker:
    """Checks secrets for one server process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing remembered. `clock` gives seconds."""
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._right: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._failures = Failures(clock)
        self._running: dict[bytes, Future[None]] = {}
        self._checked_accounts: dict[bytes, str] = {}
        self._threads = ThreadPoolExecutor(CHECKS_AT_ONCE, thread_name_prefix="client-secret")

    def submit(
        self, account: str, secret: str, kept: Sequence[KeptSecret], address: str | None = None
    ) -> "Future[None]":
        """Check `secret`, which came from `address`, against what is kept for `account`.

        The future ends well, or with `WrongSecret` or `ExpiredSecret`; it may be shared with others
        who sent the same, so don't cancel it. Raises `TooManyChecks`.
        """
        digest = self._digest(account, secret)
        if self._remembers(digest, kept):
            done: Future[None] = Future()
            done.set_result(None)
            return done
        with self._lock:
            if digest in self._running:
                return self._running[digest]
            self._refuse_too_many(account, address)
            future = self._threads.submit(self._check, account, secret, kept, digest, address)
            self._running[digest] = future
            self._checked_accounts[digest] = account
        future.add_done_callback(lambda _: self._forget(digest))
        return future

    def refuse_address(self, address: str) -> None:
        """Raise `TooManyChecks` when too much failed from this address."""
        if wait_s := self._failures.wait_s(_address_key(address), ADDRESS_FAILURES_MAX, FAILURES_WINDOW_S):
            raise TooManyChecks(wait_s)

    def count_failure(self, address: str) -> None:
        """Count a failure that is no account's, such as a guessed code."""
        self._failures.add(_address_key(address))

    def close(self) -> None:
        """End the threads; checks that wait are dropped."""
        self._threads.shutdown(cancel_futures=True)

    def _check(
        self, account: str, secret: str, kept: Sequence[KeptSecret], digest: bytes, address: str | None
    ) -> None:
        matching = self._matching(secret, kept)
        if matching is None:
            self._failures.add(account)
            if address is not None:
                self.count_failure(address)
            raise WrongSecret
        if matching.has_expired:
            raise ExpiredSecret(matching.key_id)
        with self._lock:
            self._right[digest] = (matching.hash, self._clock() + REMEMBER_S)
            while len(self._right) > REMEMBER_MAX:
                self._right.popitem(last=False)

    def _matching(self, secret: str, kept: Sequence[KeptSecret]) -> KeptSecret | None:
        if len(secret) > SECRET_LENGTH_MAX:
            return None
        for entry in kept:
            try:
                _hasher.verify(entry.hash, secret)
            except (VerificationError, InvalidHashError):
                continue
            return entry
        return None

    def _remembers(self, digest: bytes, kept: Sequence[KeptSecret]) -> bool:
        """Whether this very secret was right lately, and is still kept and in time."""
        with self._lock:
            hash_, until = self._right.get(digest, ("", 0.0))
        if self._clock() >= until:
            return False
        return any(hmac.compare_digest(entry.hash, hash_) and not entry.has_expired for entry in kept)

    def _refuse_too_many(self, account: str, address: str | None) -> None:
        if len(self._running) >= CHECKS_AT_ONCE + CHECKS_WAITING_MAX:
            raise TooManyChecks(retry_after_s=5)
        if wait_s := self._failures.wait_s(account, FAILURES_MAX, FAILURES_WINDOW_S):
            raise TooManyChecks(wait_s, is_locked=True)
        # Each of those under way may fail: guesses sent side by side get no more tries than one after the other.
        under_way = sum(checked == account for checked in self._checked_accounts.values())
        left = FAILURES_MAX - under_way
        if left <= 0 or (under_way and self._failures.wait_s(account, left, FAILURES_WINDOW_S)):
            raise TooManyChecks(retry_after_s=1)
        if address is not None:
            self.refuse_address(address)

    def _digest(self, account: str, secret: str) -> bytes:
        return hmac.digest(self._key, f"{account}\0{secret}".encode("utf-8", "surrogatepass"), hashlib.sha256)

    def _forget(self, digest: bytes) -> None:
        with self._lock:
            self._running.pop(digest, None)
            self._checked_accounts.pop(digest, None)


def _address_key(address: str) -> str:
    return f"address:{address}"
