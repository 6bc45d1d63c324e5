"""The digest under which a code or a token is kept: long and random, so that one round of SHA-256 is enough."""

import hashlib


def digest_of(text: str) -> str:
    """SHA-256 in hex, of whatever text a client sends, lone surrogates too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
