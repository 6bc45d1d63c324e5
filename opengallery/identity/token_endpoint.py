"""The token endpoint: OAuth 2.0 client credentials, with the errors of Microsoft Entra ID.

`POST /{tenant}/oauth2/v2.0/token` takes `scope`, the older `POST /{tenant}/oauth2/token` takes
`resource`. The client authenticates by `client_secret` in the form or by HTTP Basic.
Source: RFC 6749; Microsoft identity platform, client credentials flow and AADSTS error codes.
"""

import asyncio
import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus
from uuid import UUID, uuid4

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from opengallery.database import Database, now
from opengallery.identity.applications import Application, find_application
from opengallery.identity.client_secrets import ExpiredSecret, SecretChecker, TooManyChecks, WrongSecret
from opengallery.identity.directory import list_tenants
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import IssuedToken, Tokens, TokenVersion, UnknownResource

BODY_SIZE_MAX_BYTES = 64 * 1024
ANY_TENANT = ("common", "organizations")
DEFAULT_SCOPE = "/.default"

log = structlog.get_logger()


@dataclass
class SignInError(Exception):
    """A refusal: OAuth's `error`, Entra's `code` (AADSTS) and a message that says what to do."""

    status: int
    error: str
    code: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a client asks for: a token for `resource`, proved by `client_secret`."""

    client_id: str
    client_secret: str
    resource: str


class TokenEndpoint:
    """Answers token requests, with the help of the directory."""

    def __init__(self, database: Database, tokens: Tokens, checker: SecretChecker) -> None:
        """Check secrets by `checker`, sign by `tokens`."""
        self._database = database
        self._tokens = tokens
        self._checker = checker

    async def version_2(self, request: Request) -> JSONResponse:
        """`POST /{tenant}/oauth2/v2.0/token`."""
        return await self._answer(request, "2.0")

    async def version_1(self, request: Request) -> JSONResponse:
        """`POST /{tenant}/oauth2/token`."""
        return await self._answer(request, "1.0")

    async def _answer(self, request: Request, version: TokenVersion) -> JSONResponse:
        try:
            asked = _parse(request, await read_form(request), version)
            tenant = request.path_params["tenant"]
            application = await run_in_threadpool(self._find, tenant, asked.client_id)
            await self._check(application, asked.client_secret)
            token = await run_in_threadpool(self._issue, application.principal, asked.resource, version)
        except SignInError as error:
            return error_response(error, request)
        return JSONResponse(
            _success(token, version), headers={"cache-control": "no-store", "pragma": "no-cache"}
        )

    def _find(self, tenant: str, client_id: str) -> Application:
        """The application that wants to sign in to `tenant`."""
        with self._database.read() as connection:
            tenant_ids = matching_tenants(list_tenants(connection), tenant)
            application = find_application(connection, client_id)
        if application is None or application.principal.tenant_id not in tenant_ids:
            raise SignInError(
                400,
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id[:64]}' was not found in the directory "
                f"'{tenant[:64]}'. Check client id and tenant; `gallery env` prints the administrator's.",
            )
        return application

    async def _check(self, application: Application, secret: str) -> None:
        """Return when the secret is right and the application may sign in."""
        app_id = application.principal.app_id or ""
        try:
            check = self._checker.submit(app_id, secret, application.secrets)
            # Shielded: other requests may wait for the same check when this client goes away.
            await asyncio.shield(asyncio.wrap_future(check))
        except WrongSecret:
            log.warning("sign-in refused: wrong secret", app_id=app_id)
            message = f"Invalid client secret provided. It is none of those of app '{app_id}'."
            raise SignInError(401, "invalid_client", 7000215, message) from None
        except ExpiredSecret as error:
            log.warning("sign-in refused: expired secret", app_id=app_id, key_id=error.key_id)
            message = f"The provided client secret keys for app '{app_id}' are expired. Make a new one."
            raise SignInError(401, "invalid_client", 7000222, message) from None
        except TooManyChecks as error:
            log.warning("sign-in refused: too many attempts", app_id=app_id)
            message = "Too many sign-ins failed or are waiting. Try again later."
            headers = {"retry-after": str(error.retry_after_s)}
            raise SignInError(429, "temporarily_unavailable", 90055, message, headers) from None
        if not application.is_enabled:
            log.warning("sign-in refused: disabled application", app_id=app_id)
            message = f"Application '{app_id}' is disabled. Ask an administrator to enable it."
            raise SignInError(400, "unauthorized_client", 7000112, message)

    def _issue(self, principal: Principal, resource: str, version: TokenVersion) -> IssuedToken:
        try:
            return self._tokens.issue(principal, resource, version)
        except UnknownResource:
            known = ", ".join(sorted(self._tokens.audiences))
            message = f"The resource principal named {resource[:256]} was not found. Known here: {known}."
            raise SignInError(400, "invalid_resource", 500011, message) from None


def matching_tenants(tenants: list[tuple[str, str]], name: str) -> list[str]:
    """Ids of the tenants that the tenant in a URL means. Raises `SignInError` when there is none."""
    ids = [tenant_id for tenant_id, _ in tenants]
    found = (
        ids if name.lower() in ANY_TENANT else [tenant_id for tenant_id in ids if tenant_id == name.lower()]
    )
    if not found:
        message = f"Tenant '{name[:64]}' not found. Check the tenant id; `gallery env` prints it."
        raise SignInError(400, "invalid_tenant", 90002, message)
    return found


def error_response(error: SignInError, request: Request) -> JSONResponse:
    """Entra's form of an error."""
    time = f"{now():%Y-%m-%d %H:%M:%SZ}"
    trace_id, correlation_id = str(uuid4()), _correlation_id(request)
    content = {
        "error": error.error,
        "error_description": (
            f"AADSTS{error.code}: {error.message} "
            f"Trace ID: {trace_id} Correlation ID: {correlation_id} Timestamp: {time}"
        ),
        "error_codes": [error.code],
        "timestamp": time,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
    }
    headers = {"cache-control": "no-store", **error.headers}
    return JSONResponse(content, status_code=error.status, headers=headers)


def _correlation_id(request: Request) -> str:
    try:
        return str(UUID(request.headers.get("client-request-id", "")))
    except ValueError:
        return str(uuid4())


async def read_form(request: Request) -> dict[str, str]:
    """The fields of the request's form. Raises `SignInError`."""
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/x-www-form-urlencoded":
        raise _invalid_request(900561, "Send the parameters as application/x-www-form-urlencoded.")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_SIZE_MAX_BYTES:
            raise _invalid_request(90100, f"The request is longer than {BODY_SIZE_MAX_BYTES} bytes.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise _invalid_request(90100, "The request's form can't be read.") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _invalid_request(90100, "A parameter stands in the form twice.")
    return fields


def _parse(request: Request, fields: dict[str, str], version: TokenVersion) -> TokenRequest:
    """What the form asks for. Raises `SignInError`."""
    grant_type = _required(fields, "grant_type")
    if grant_type != "client_credentials":
        message = f"The grant type '{grant_type[:64]}' is not supported; only 'client_credentials' is."
        raise SignInError(400, "unsupported_grant_type", 70003, message)
    basic = _basic_credentials(request)
    client_id = basic[0] if basic else _required(fields, "client_id")
    client_secret = basic[1] if basic else fields.get("client_secret", "")
    if not client_secret:
        message = "The request body must contain the following parameter: 'client_secret'."
        raise SignInError(401, "invalid_client", 7000218, message)
    if version == "1.0":
        return TokenRequest(client_id, client_secret, _required(fields, "resource"))
    scope = _required(fields, "scope")
    if not scope.endswith(DEFAULT_SCOPE) or " " in scope:
        message = (
            f"The scope '{scope[:256]}' is not valid: it must be one resource with {DEFAULT_SCOPE} behind."
        )
        raise SignInError(400, "invalid_scope", 1002012, message)
    return TokenRequest(client_id, client_secret, scope.removesuffix(DEFAULT_SCOPE))


def _basic_credentials(request: Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        colon = client_id = secret = ""
    if not colon:
        raise _invalid_request(90100, "The Authorization header can't be read.")
    return unquote_plus(client_id), unquote_plus(secret)


def _required(fields: dict[str, str], name: str) -> str:
    if value := fields.get(name):
        return value
    raise _invalid_request(900144, f"The request body must contain the following parameter: '{name}'.")


def _invalid_request(code: int, message: str) -> SignInError:
    return SignInError(400, "invalid_request", code, message)


def _success(token: IssuedToken, version: TokenVersion) -> dict[str, object]:
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
