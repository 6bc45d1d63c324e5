"""The grant `refresh_token`: new tokens without a new sign-in, for any resource of this gallery.

Source: RFC 6749, section 6; Microsoft identity platform, refresh tokens.
"""

import structlog
from starlette.concurrency import run_in_threadpool

from opengallery.identity import refresh_tokens
from opengallery.identity.grants.answer import Granted, user_answer
from opengallery.identity.grants.client_authentication import ProvenClient, authenticate
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.grants.scopes import Scopes, read_scopes, user_scopes
from opengallery.identity.refusals import invalid_grant

log = structlog.get_logger()

REFUSALS: dict[refresh_tokens.Refusal, tuple[int, str]] = {
    "unknown": (70000, "The refresh token is not valid. Sign in again."),
    "other client": (70000, "The refresh token was issued to another client. Sign in again."),
    "expired": (700082, "The refresh token has expired. Sign in again."),
    "reused": (
        70000,
        "The refresh token was used before; all that followed from it have ended. Sign in again.",
    ),
    "password changed": (
        50173,
        "The password was changed since the refresh token was issued. Sign in again.",
    ),
    "disabled": (50057, "The user account is disabled. Ask an administrator to enable it."),
}


async def answer(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """New tokens, a new refresh token among them. Raises `SignInError`."""
    token = request.required("refresh_token")
    proven = await authenticate(parts, request)
    scopes = user_scopes(request.fields, request.version, parts.tokens)
    return await run_in_threadpool(_answer, parts, request, token, proven, scopes)


def _answer(
    parts: Parts, request: TokenRequest, token: str, proven: ProvenClient, scopes: Scopes
) -> dict[str, object]:
    with parts.database.write() as connection:
        refreshed = refresh_tokens.use(
            connection, token, proven.client.client_id, proven.tenant_ids, parts.clock()
        )
    # Refused only now: what a refusal did to the token's family has to be committed.
    if not isinstance(refreshed, refresh_tokens.Refreshed):
        code, message = REFUSALS[refreshed]
        log.warning("refresh refused", reason=refreshed, client_id=proven.client.client_id)
        raise invalid_grant(code, message)
    if scopes.resource is None:
        first = read_scopes(refreshed.scope, parts.tokens)
        scopes = Scopes(first.resource, scopes.openid or first.openid)
    return user_answer(parts, request, Granted(refreshed.account, proven, scopes), refreshed.token)
