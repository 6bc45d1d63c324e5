"""What a client asks the authorize endpoint for, checked: by whom, where to, with which proof.

Source: RFC 6749, section 4.1.1; RFC 7636; OpenID Connect Core 1.0, section 3.1.2; OAuth 2.0 Multiple
Response Types and Form Post Response Mode.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from opengallery.identity.clients import Client
from opengallery.identity.grants.client_authentication import find_in_tenant, require_enabled
from opengallery.identity.grants.request import Parts
from opengallery.identity.grants.scopes import user_scopes
from opengallery.identity.refusals import SignInError, invalid_request
from opengallery.identity.tokens import TokenVersion

RESPONSE_MODES = ("query", "fragment", "form_post")
PROMPTS = ("login", "select_account", "consent", "none")
CODE_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
STATE_LENGTH_MAX = 8192
NONCE_LENGTH_MAX = 1024


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the answer goes: the client's redirect URI and the way it wants to get it."""

    client: Client
    tenant_ids: tuple[str, ...]
    redirect_uri: str
    response_mode: str
    state: str | None


@dataclass(frozen=True, slots=True)
class AuthorizationRequest:
    """What the client wants: `scope`, in a sign-in that `nonce` names, redeemed by PKCE's proof."""

    destination: Destination
    scope: str
    nonce: str | None
    code_challenge: str | None
    login_hint: str


def read_destination(parts: Parts, tenant: str, fields: Mapping[str, str]) -> Destination:
    """Where to send the answer. Raises `SignInError`, which must be shown here and sent nowhere."""
    client, tenant_ids = find_in_tenant(parts, tenant, _required(fields, "client_id"))
    redirect_uri = _required(fields, "redirect_uri")
    if not client.takes_redirect(redirect_uri):
        raise invalid_request(
            50011,
            f"The redirect URI '{redirect_uri[:256]}' is not one of the application '{client.client_id}'. "
            "Register it, or use http://localhost for a public client.",
        )
    mode = fields.get("response_mode") or "query"
    if mode not in RESPONSE_MODES:
        raise invalid_request(70007, f"response_mode has to be one of {', '.join(RESPONSE_MODES)}.")
    state = fields.get("state")
    if state is not None and len(state) > STATE_LENGTH_MAX:
        raise invalid_request(90100, f"state is longer than {STATE_LENGTH_MAX} letters.")
    return Destination(client, tenant_ids, redirect_uri, mode, state)


def read_request(
    parts: Parts, destination: Destination, version: TokenVersion, fields: Mapping[str, str]
) -> AuthorizationRequest:
    """What the client wants. Raises `SignInError`, to be sent to the client."""
    if _required(fields, "response_type") != "code":
        message = "The only response_type is 'code'."
        raise SignInError(400, "unsupported_response_type", 700054, message)
    if "request" in fields or "request_uri" in fields:
        raise SignInError(400, "request_not_supported", 90100, "Send the parameters in the query itself.")
    require_enabled(destination.client)
    prompts = fields.get("prompt", "").split()
    if unknown := [prompt for prompt in prompts if prompt not in PROMPTS]:
        raise invalid_request(90023, f"prompt '{unknown[0][:64]}' is none of {', '.join(PROMPTS)}.")
    scopes = user_scopes(fields, version, parts.tokens)
    nonce = fields.get("nonce")
    if nonce is not None and len(nonce) > NONCE_LENGTH_MAX:
        raise invalid_request(90100, f"nonce is longer than {NONCE_LENGTH_MAX} letters.")
    challenge = _code_challenge(destination.client, fields)
    if "none" in prompts:
        # Nobody stays signed in here, so there is always something to ask.
        raise SignInError(400, "login_required", 50058, "Nobody is signed in. Ask without prompt=none.")
    return AuthorizationRequest(
        destination, scopes.text, nonce, challenge, fields.get("login_hint", "")[:256]
    )


def _code_challenge(client: Client, fields: Mapping[str, str]) -> str | None:
    challenge = fields.get("code_challenge")
    if not challenge:
        if client.is_public or "code_challenge_method" in fields:
            raise invalid_request(
                9002325, "Proof Key for Code Exchange is required: send a code_challenge (S256)."
            )
        return None
    if fields.get("code_challenge_method") != "S256" or not CODE_CHALLENGE.fullmatch(challenge):
        raise invalid_request(501481, "The code_challenge has to be made by code_challenge_method S256.")
    return challenge


def _required(fields: Mapping[str, str], name: str) -> str:
    if value := fields.get(name):
        return value
    raise invalid_request(900144, f"The request must contain the following parameter: '{name}'.")
