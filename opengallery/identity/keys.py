"""The keys that sign access tokens: RSA, RS256, kept in DIR/identity/token-keys.json (0600).

The file is a JSON Web Key Set with the private keys. The first key signs; all of them verify, so a
new key can be put in front while tokens of the old one are still in use.
Source: RFC 7517 (JWK), RFC 7518 (RS256).
"""

import json
from typing import Any

from joserfc import jwk

from opengallery.identity.folder import IdentityFolder

FILE = "token-keys.json"
KEY_SIZE_BITS = 2048


class SigningKeys:
    """The keys of one gallery. The first signs."""

    def __init__(self, keys: list[jwk.RSAKey]) -> None:
        """Hold `keys`, at least one."""
        self._keys = {str(key.kid): key for key in keys}

    @classmethod
    def open(cls, folder: IdentityFolder) -> "SigningKeys":
        """Read the keys of `folder`; make the first one if there is none."""
        with folder.locked():
            content = folder.read(FILE)
            if content is None:
                key = jwk.RSAKey.generate_key(KEY_SIZE_BITS, auto_kid=True)
                content = json.dumps({"keys": [key.as_dict(private=True)]}).encode()
                folder.write(FILE, content)
        return cls([jwk.RSAKey.import_key(entry) for entry in json.loads(content)["keys"]])

    @property
    def current(self) -> tuple[str, jwk.RSAKey]:
        """The key that signs, behind its id."""
        return next(iter(self._keys.items()))

    def find(self, kid: object) -> jwk.RSAKey | None:
        """The key with the id `kid`, if it is one of ours."""
        return self._keys.get(kid) if isinstance(kid, str) else None

    def public(self) -> list[dict[str, Any]]:
        """The public halves, as a JSON Web Key Set lists them."""
        return [
            {**key.as_dict(private=False), "use": "sig", "alg": "RS256", "kid": kid}
            for kid, key in self._keys.items()
        ]
