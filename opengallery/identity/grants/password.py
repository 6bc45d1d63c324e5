"""The grant `password`: a user's name and password, sent by the client (`az login -u NAME -p PASSWORD`).

Source: RFC 6749, section 4.3; Microsoft identity platform, resource owner password credentials.
"""

from starlette.concurrency import run_in_threadpool

from opengallery.identity.grants.answer import Granted, begin_family, user_answer
from opengallery.identity.grants.client_authentication import authenticate
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.grants.scopes import user_scopes
from opengallery.identity.passwords import check_password


async def answer(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """Tokens for the user who has this name and password. Raises `SignInError`."""
    name, password = request.required("username"), request.required("password")
    proven = await authenticate(parts, request)
    scopes = user_scopes(request.fields, request.version, parts.tokens)
    account = await check_password(
        parts.database, parts.checker, name, password, proven.tenant_ids, request.address
    )
    return await run_in_threadpool(_answer, parts, request, Granted(account, proven, scopes))


def _answer(parts: Parts, request: TokenRequest, granted: Granted) -> dict[str, object]:
    with parts.database.write() as connection:
        begun = begin_family(parts, connection, granted)
    return user_answer(parts, request, granted, begun.token if begun else None)
