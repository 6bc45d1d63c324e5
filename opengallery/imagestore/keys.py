"""Data keys: one secret a tenant, and the keys that are derived from it.

Every use has a key of its own, derived by BLAKE3's key derivation with a context string that is part
of the format (docs/store-format.md). Stores that share blocks share the data key, so a sealed frame
can be copied from one to the other as it is.
"""

import hmac
import os

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SECRET_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
SEAL_OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES


class NotAuthentic(Exception):
    """Sealed bytes were changed, cut or sealed under another key."""


class DataKey:
    """The secret of one tenant. Immutable; safe to share between threads."""

    def __init__(self, secret: bytes) -> None:
        """Derive the keys of every use from the 32 bytes of `secret`."""
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"A data key has {SECRET_BYTES} bytes, not {len(secret)}.")
        self.secret = bytes(secret)
        self.block_key = self._derive("block digest")
        self.segment_key = self._derive("segment digest")
        self.image_key = self._derive("image id")
        self.check = blake3(b"opengallery", key=self._derive("key check")).hexdigest()
        self.frame = Seal(self._derive("frame"), b"opengallery frame 1")
        self.footer = Seal(self._derive("footer"), b"opengallery footer 1")
        self.manifest = Seal(self._derive("manifest"), b"opengallery manifest 1")

    @classmethod
    def generate(cls) -> "DataKey":
        """Make a new random key."""
        return cls(os.urandom(SECRET_BYTES))

    def _derive(self, use: str) -> bytes:
        return blake3(self.secret, derive_key_context=f"opengallery imagestore 1 {use}").digest()

    def __eq__(self, other: object) -> bool:
        """Two data keys are equal when their secrets are; compared in constant time."""
        return isinstance(other, DataKey) and hmac.compare_digest(self.secret, other.secret)

    def __hash__(self) -> int:
        """Hash by the key check, which is no secret."""
        return hash(self.check)

    def __repr__(self) -> str:
        """Name the key without showing it."""
        return f"DataKey(check={self.check[:8]})"


class Seal:
    """AES-256-GCM for one use: nonce (12 bytes, random), ciphertext, tag (16 bytes)."""

    def __init__(self, key: bytes, tag: bytes) -> None:
        """`tag` names the use and its format version; it is authenticated with every message."""
        self._cipher = AESGCM(key)
        self._tag = tag

    def seal(self, plain: bytes, context: bytes = b"") -> bytes:
        """Encrypt and authenticate `plain`; `context` must be given again to open it."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, self._tag + context)

    def open(self, sealed: bytes | memoryview, context: bytes = b"") -> bytes:
        """Decrypt `sealed`. Raises `NotAuthentic`."""
        if len(sealed) < SEAL_OVERHEAD_BYTES:
            raise NotAuthentic
        try:
            return self._cipher.decrypt(
                bytes(sealed[:NONCE_BYTES]), bytes(sealed[NONCE_BYTES:]), self._tag + context
            )
        except InvalidTag:
            raise NotAuthentic from None
