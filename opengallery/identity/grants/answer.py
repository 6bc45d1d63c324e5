"""The answers of the token endpoint: access token, id token, refresh token, `client_info`.

Source: Microsoft identity platform, token responses and claims references; OpenID Connect Core 1.0.
"""

import base64
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection

from opengallery.identity import refresh_tokens
from opengallery.identity.accounts import Account
from opengallery.identity.grants.client_authentication import ProvenClient
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.grants.scopes import DEFAULT_SCOPE, USER_SCOPE, Scopes
from opengallery.identity.tokens import IssuedToken, TokenVersion, proof_claim


@dataclass(frozen=True, slots=True)
class Granted:
    """What a user granted to a client: `scopes`, in a sign-in that `nonce` names."""

    account: Account
    proven: ProvenClient
    scopes: Scopes
    nonce: str | None = None


def application_answer(token: IssuedToken, version: TokenVersion) -> dict[str, object]:
    """The answer to an application; times are text at the older endpoint."""
    lifetime_s = token.expires_at - token.not_before - 1
    if version == "2.0":
        return {
            "token_type": "Bearer",
            "expires_in": lifetime_s,
            "ext_expires_in": lifetime_s,
            "access_token": token.text,
        }
    return {
        "token_type": "Bearer",
        "expires_in": str(lifetime_s),
        "ext_expires_in": str(lifetime_s),
        "expires_on": str(token.expires_at),
        "not_before": str(token.not_before),
        "resource": token.resource,
        "access_token": token.text,
    }


def user_answer(
    parts: Parts, request: TokenRequest, granted: Granted, refresh_token: str | None
) -> dict[str, object]:
    """The answer to a client in which a user signed in."""
    resource = granted.scopes.resource or f"{parts.endpoint}/"
    principal = granted.account.principal
    token = parts.tokens.issue_access(principal, resource, request.version, _claims(granted, request.version))
    content = application_answer(token, request.version)
    content["scope"] = (
        "user_impersonation"
        if request.version == "1.0"
        else f"{resource}{USER_SCOPE} {resource}{DEFAULT_SCOPE}"
    )
    if refresh_token is not None:
        content["refresh_token"] = refresh_token
    if "openid" in granted.scopes.openid:
        content["id_token"] = _id_token(parts, request.version, granted)
    if request.get("client_info") == "1":
        info = {"uid": principal.object_id, "utid": principal.tenant_id}
        content["client_info"] = base64.urlsafe_b64encode(msgspec.json.encode(info)).rstrip(b"=").decode()
    return content


def begin_family(parts: Parts, connection: Connection, granted: Granted) -> refresh_tokens.Begun | None:
    """The first refresh token of a sign-in, when the client asked for one (`offline_access`)."""
    if "offline_access" not in granted.scopes.openid:
        return None
    client_id = granted.proven.client.client_id
    return refresh_tokens.begin(connection, granted.account, client_id, granted.scopes.text, parts.clock())


def _claims(granted: Granted, version: TokenVersion) -> dict[str, Any]:
    client_id = granted.proven.client.client_id
    return {
        "appid": client_id,
        "azp": client_id,
        proof_claim(version): granted.proven.proof,
        "idtyp": "user",
        "scp": "user_impersonation",
        **_names(granted.account),
    }


def _id_token(parts: Parts, version: TokenVersion, granted: Granted) -> str:
    claims: dict[str, Any] = dict(_names(granted.account))
    if granted.nonce is not None:
        claims["nonce"] = granted.nonce
    audience = granted.proven.client.client_id
    return parts.tokens.sign(granted.account.principal, audience, version, claims).text


def _names(account: Account) -> dict[str, Any]:
    """What the user is called, for people and for tools that show it."""
    name = account.user_principal_name
    return {
        "name": account.principal.display_name,
        "preferred_username": name,
        "unique_name": name,
        "upn": name,
    }
