"""Tokens that prove nothing: each differs from a right one in a single thing."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import serialization
from joserfc import jwk, jwt
from sqlalchemy import delete

from opengallery.identity.directory import principals, set_enabled
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.keys import SigningKeys
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import Tokens

from .walked import Walked


class Issuer:
    """Signs tokens with the server's own key, and with others."""

    def __init__(self, walked: Walked) -> None:
        self.walked = walked
        settings = walked.services.settings
        self.keys = SigningKeys.open(IdentityFolder(settings.data))
        self.tokens = Tokens(walked.services.database, self.keys, settings.endpoint)
        self.endpoint = settings.endpoint

    def right(self, principal: Principal) -> str:
        """A token that is right."""
        return self.tokens.issue(principal, f"{self.endpoint}/").text

    def administrator(self) -> Principal:
        """The first administrator, who may do everything."""
        first = self.walked.first
        return Principal(first.object_id, first.tenant_id, "ServicePrincipal", first.app_id, "Administrator")

    def claims(self, **changes: object) -> dict[str, Any]:
        """The administrator's claims, with changes; None takes one out."""
        part = self.right(self.administrator()).split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) | changes
        return {name: value for name, value in claims.items() if value is not None}

    def signed(self, kid: str | None = None, key: jwk.RSAKey | None = None, **changes: object) -> str:
        """A token with other claims, or of another key."""
        own_kid, own_key = self.keys.current
        return jwt.encode({"alg": "RS256", "kid": kid or own_kid}, self.claims(**changes), key or own_key)

    def _unsigned(self, algorithm: str, sign: Callable[[bytes], bytes]) -> str:
        header = {"typ": "JWT", "alg": algorithm, "kid": self.keys.current[0]}
        text = f"{_encoded(header)}.{_encoded(self.claims())}"
        return f"{text}.{base64.urlsafe_b64encode(sign(text.encode())).rstrip(b'=').decode()}"

    def _hmac_with_public_key(self) -> str:
        key: Any = serialization.load_pem_private_key(self.keys.current[1].as_pem(private=True), None)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return self._unsigned("HS256", lambda text: hmac.new(public, text, hashlib.sha256).digest())

    def _of_no_principal(self, *, is_deleted: bool) -> str:
        principal = self.walked.newcomer()
        token = self.right(principal)
        with self.walked.services.database.write() as connection:
            if is_deleted:
                connection.execute(delete(principals).where(principals.c.object_id == principal.object_id))
            else:
                set_enabled(connection, principal.object_id, False)
        return token

    def bad(self) -> dict[str, str | None]:
        """Tokens that have to be refused, by what is wrong with them. None: no token at all."""
        now, other = int(time.time()), jwk.RSAKey.generate_key(2048, auto_kid=True)
        endpoint, tenant_id = self.endpoint, self.walked.first.tenant_id
        body, signature = self.right(self.administrator()).rsplit(".", 1)
        return {
            "none": None,
            "an empty one": "",
            "no token": "gallery",
            "expired": self.signed(exp=now - 3600, nbf=now - 7200, iat=now - 7200),
            "not valid yet": self.signed(nbf=now + 3600, exp=now + 7200),
            "without an end": self.signed(exp=None),
            "alg none": self._unsigned("none", lambda _: b""),
            "alg None": self._unsigned("None", lambda _: b""),
            "signed with the public key": self._hmac_with_public_key(),
            "another key under our key id": self.signed(key=other),
            "an unknown key id": self.signed(kid=str(other.kid), key=other),
            "another key id for our key": self.signed(kid="x"),
            "no signature": f"{body}.",
            "a changed signature": f"{body}.{'A' * len(signature)}",
            "another audience": self.signed(aud="https://graph.example.com"),
            "no audience": self.signed(aud=None),
            "several audiences": self.signed(aud=[f"{endpoint}/", "https://graph.example.com"]),
            "another issuer": self.signed(iss=f"https://login.example.com/{tenant_id}/v2.0"),
            "a foreign tenant's issuer": self.signed(iss=f"{endpoint}/{uuid.uuid4()}/v2.0"),
            "a foreign tenant": self.signed(
                tid=self.walked.other_tenant(), iss=f"{endpoint}/{uuid.uuid4()}/v2.0"
            ),
            "our principal in a foreign tenant": self._in_a_foreign_tenant(),
            "a disabled principal": self._of_no_principal(is_deleted=False),
            "a deleted principal": self._of_no_principal(is_deleted=True),
        }

    def _in_a_foreign_tenant(self) -> str:
        tenant_id = self.walked.other_tenant()
        return self.signed(tid=tenant_id, iss=f"{self.endpoint}/{tenant_id}/v2.0")


def _encoded(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
