"""Sealed values: what the database may hold only encrypted, such as a template with a password in it.

A deleted row can live on in a database's free pages and logs; a sealed one tells nothing there.
AES-256-GCM under a key that BLAKE3 derives from the server's master key.
"""

import base64
import os
from typing import Any

import msgspec
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from opengallery.replication.keys import master_key
from opengallery.settings import Settings

_CONTEXT = "opengallery arm 1 sealed values"
_NONCE_BYTES = 12


def seal(settings: Settings, value: Any) -> str:
    """`value` (JSON) as text that only `unseal` can read."""
    nonce = os.urandom(_NONCE_BYTES)
    sealed = nonce + _cipher(settings).encrypt(nonce, msgspec.json.encode(value), None)
    return base64.b64encode(sealed).decode()


def unseal(settings: Settings, text: str) -> Any:
    """What was given to `seal`. Raises `InvalidTag` when the master key is another one."""
    sealed = base64.b64decode(text)
    return msgspec.json.decode(_cipher(settings).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))


def _cipher(settings: Settings) -> AESGCM:
    return AESGCM(blake3(master_key(settings.data), derive_key_context=_CONTEXT).digest())
