"""What a token request says, and the parts of the server that answer it."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_plus

from sqlalchemy import Connection

from opengallery.database import Database
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.directory import list_tenants
from opengallery.identity.refusals import SignInError, invalid_request
from opengallery.identity.tokens import Tokens, TokenVersion

ANY_TENANT = ("common", "organizations")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the grants work with. `endpoint` is the server's URL, `clock` gives seconds since 1970."""

    endpoint: str
    database: Database
    tokens: Tokens
    checker: SecretChecker

    @property
    def clock(self) -> Callable[[], float]:
        """The clock of the tokens."""
        return self.tokens.clock


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """The form that a client sent to the token endpoint of `tenant`, from `address`."""

    tenant: str
    version: TokenVersion
    fields: dict[str, str]
    address: str
    authorization: str = ""

    def __repr__(self) -> str:
        """Without the fields, which hold secrets."""
        return f"TokenRequest({self.tenant!r}, {self.version!r})"

    def get(self, name: str) -> str:
        """A field of the form, empty when it is missing."""
        return self.fields.get(name, "")

    def required(self, name: str) -> str:
        """A field of the form. Raises `SignInError` when it is missing."""
        if value := self.fields.get(name):
            return value
        raise invalid_request(900144, f"The request body must contain the following parameter: '{name}'.")

    def basic_credentials(self) -> tuple[str, str] | None:
        """Client id and secret of the header Authorization. Raises `SignInError` when it can't be read."""
        scheme, _, encoded = self.authorization.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = client_id = secret = ""
        if not colon:
            raise invalid_request(90100, "The Authorization header can't be read.")
        return unquote_plus(client_id), unquote_plus(secret)


def tenant_ids(connection: Connection, tenant: str) -> list[str]:
    """Ids of the tenants that the tenant in a URL means. Raises `SignInError` when there is none."""
    ids = [tenant_id for tenant_id, _ in list_tenants(connection)]
    if tenant.lower() not in ANY_TENANT:
        ids = [tenant_id for tenant_id in ids if tenant_id == tenant.lower()]
    if not ids:
        message = f"Tenant '{tenant[:64]}' not found. Check the tenant id; `gallery env` prints it."
        raise SignInError(400, "invalid_tenant", 90002, message)
    return ids
