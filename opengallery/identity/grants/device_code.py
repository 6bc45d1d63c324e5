"""Device codes: the endpoint that gives them, and the grant with which the client asks whether it may go on.

Source: RFC 8628; Microsoft identity platform, device authorization grant.
"""

from starlette.concurrency import run_in_threadpool

from opengallery.identity import device_codes
from opengallery.identity.accounts import read_account
from opengallery.identity.grants.answer import Granted, begin_family, user_answer
from opengallery.identity.grants.client_authentication import (
    ProvenClient,
    authenticate,
    find_in_tenant,
    require_enabled,
)
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.grants.scopes import read_scopes, user_scopes
from opengallery.identity.refusals import SignInError, invalid_client, invalid_grant, too_many

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
OLD_GRANT_TYPE = "device_code"
PAGE = "/devicelogin"

POLLS = {
    "pending": ("authorization_pending", 70016, "The user has not signed in yet. Ask again later."),
    "slow down": ("slow_down", 90055, "Asked too often. Wait five seconds longer between two requests."),
    "expired": ("expired_token", 70020, "The device code has expired. Start the sign-in again."),
    "denied": ("access_denied", 70019, "The user refused the sign-in."),
}


async def begin(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """Codes for a client that has no browser. Raises `SignInError`."""
    client, _ = await run_in_threadpool(find_in_tenant, parts, request.tenant, request.required("client_id"))
    if not client.is_public:
        message = (
            "The client is not a public one (isFallbackPublicClient), so it can't sign in by device code."
        )
        raise invalid_client(7000218, message)
    require_enabled(client)
    scopes = user_scopes(request.fields, request.version, parts.tokens)
    try:
        codes = await run_in_threadpool(_issue, parts, request, client.client_id, scopes.text)
    except device_codes.TooManyWait:
        raise too_many(60) from None
    page = parts.endpoint + PAGE
    content: dict[str, object] = {
        "user_code": codes.user_code,
        "device_code": codes.device_code,
        "verification_uri": page,
        "expires_in": int(device_codes.LIFETIME.total_seconds()),
        "interval": device_codes.INTERVAL_S,
        "message": (
            f"To sign in, use a web browser to open the page {page} "
            f"and enter the code {codes.user_code} to authenticate."
        ),
    }
    if request.version == "1.0":
        content["verification_url"] = content.pop("verification_uri")
        content |= {name: str(content[name]) for name in ("expires_in", "interval")}
    return content


async def answer(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """Tokens, once the user has signed in on the page. Raises `SignInError`."""
    # The older endpoint takes the device code in the field `code`.
    code = request.get("device_code") or request.required(
        "code" if request.version == "1.0" else "device_code"
    )
    proven = await authenticate(parts, request)
    return await run_in_threadpool(_answer, parts, request, code, proven)


def _issue(parts: Parts, request: TokenRequest, client_id: str, scope: str) -> device_codes.DeviceCodes:
    with parts.database.write() as connection:
        return device_codes.issue(
            connection, client_id, request.tenant, scope, request.address, parts.clock()
        )


def _answer(parts: Parts, request: TokenRequest, code: str, proven: ProvenClient) -> dict[str, object]:
    with parts.database.write() as connection:
        polled = device_codes.poll(connection, code, proven.client.client_id, parts.clock())
    if polled == "unknown":
        raise invalid_grant(
            70000, "The device code is not valid for this client, or was used. Sign in again."
        )
    if not isinstance(polled, device_codes.Approved):
        error, number, message = POLLS[polled]
        raise SignInError(400, error, number, message)
    with parts.database.write() as connection:
        account = read_account(connection, polled.object_id)
        if account is None or account.principal.tenant_id not in proven.tenant_ids:
            raise invalid_grant(70000, "The device code is not valid in this tenant. Sign in again.")
        if not account.is_enabled:
            raise invalid_grant(50057, "The user account is disabled. Ask an administrator to enable it.")
        if account.password_stamp != polled.password_stamp:
            raise invalid_grant(50173, "The password was changed since the sign-in. Sign in again.")
        granted = Granted(account, proven, read_scopes(polled.scope, parts.tokens))
        begun = begin_family(parts, connection, granted)
    return user_answer(parts, request, granted, begun.token if begun else None)
