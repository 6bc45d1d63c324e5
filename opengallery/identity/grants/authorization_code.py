"""The grant `authorization_code`: the code that the browser brought, and the proof that it was asked for here.

A public client proves by PKCE (S256) that it began the sign-in. Whatever is wrong with the request, the
code is used up; when it comes again, the refresh tokens that came of it end.
Source: RFC 6749, section 4.1.3; RFC 7636.
"""

import base64
import hashlib
import hmac
import re

import structlog
from sqlalchemy import Connection
from starlette.concurrency import run_in_threadpool

from opengallery.identity import authorization_codes, refresh_tokens
from opengallery.identity.accounts import read_account
from opengallery.identity.authorization_codes import AuthorizationCode
from opengallery.identity.grants.answer import Granted, begin_family, user_answer
from opengallery.identity.grants.client_authentication import ProvenClient, authenticate
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.grants.scopes import Scopes, read_scopes, user_scopes
from opengallery.identity.refusals import SignInError, invalid_grant

log = structlog.get_logger()

VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


async def answer(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """Tokens for the user who signed in in the browser. Raises `SignInError`."""
    request.required("code")
    proven = await authenticate(parts, request)
    scopes = user_scopes(request.fields, request.version, parts.tokens)
    return await run_in_threadpool(_answer, parts, request, proven, scopes)


def _answer(parts: Parts, request: TokenRequest, proven: ProvenClient, scopes: Scopes) -> dict[str, object]:
    with parts.database.write() as connection:
        redeemed = _redeem(parts, connection, request, proven, scopes)
    # Refused only now: that the code is used up has to be committed.
    if isinstance(redeemed, SignInError):
        log.warning("code refused", code=redeemed.code, client_id=proven.client.client_id)
        raise redeemed
    granted, begun = redeemed
    return user_answer(parts, request, granted, begun.token if begun else None)


def _redeem(
    parts: Parts, connection: Connection, request: TokenRequest, proven: ProvenClient, scopes: Scopes
) -> tuple[Granted, refresh_tokens.Begun | None] | SignInError:
    text = request.required("code")
    code = authorization_codes.take(connection, text, proven.client.client_id, parts.clock())
    if code is None:
        return invalid_grant(70000, "The authorization code is not valid for this client. Sign in again.")
    if code.was_used:
        if code.family_digest is not None:
            refresh_tokens.end_family(connection, code.family_digest)
        return invalid_grant(54005, "The authorization code was already redeemed. Sign in again.")
    if refusal := _refusal(code, request, proven):
        return refusal
    account = read_account(connection, code.object_id)
    if account is None or account.principal.tenant_id not in proven.tenant_ids:
        return invalid_grant(70000, "The authorization code is not valid in this tenant. Sign in again.")
    if not account.is_enabled:
        return invalid_grant(50057, "The user account is disabled. Ask an administrator to enable it.")
    if account.password_stamp != code.password_stamp:
        return invalid_grant(50173, "The password was changed since the code was issued. Sign in again.")
    kept = read_scopes(code.scope, parts.tokens)
    granted = Granted(account, proven, Scopes(scopes.resource or kept.resource, kept.openid), code.nonce)
    begun = begin_family(parts, connection, granted)
    if begun is not None:
        authorization_codes.note_family(connection, text, begun.family_digest)
    return granted, begun


def _refusal(code: AuthorizationCode, request: TokenRequest, proven: ProvenClient) -> SignInError | None:
    """What is wrong with the request, if something is."""
    if code.has_expired:
        return invalid_grant(70008, "The authorization code has expired. Sign in again.")
    if request.get("redirect_uri") != code.redirect_uri:
        return invalid_grant(50011, "The redirect_uri is another than the one the code was sent to.")
    verifier = request.get("code_verifier")
    if code.code_challenge is None:
        # A code that was asked for without PKCE must not pass as one that was (RFC 9700, 2.1.1).
        if verifier or proven.proof == "0":
            return invalid_grant(501481, "The code_verifier has no code_challenge. Send one to authorize.")
        return None
    if not VERIFIER.fullmatch(verifier):
        return invalid_grant(
            501481, "The code_verifier is missing or malformed (43 to 128 letters, RFC 7636)."
        )
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    if not hmac.compare_digest(challenge, code.code_challenge):
        return invalid_grant(501481, "The code_verifier does not match the code_challenge.")
    return None
