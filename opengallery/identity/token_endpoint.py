"""The token endpoint: OAuth 2.0, with the errors of Microsoft Entra ID. Each grant is a file of `grants`.

`POST /{tenant}/oauth2/v2.0/token` takes `scope`, the older `POST /{tenant}/oauth2/token` takes
`resource`. Beside it stands the endpoint that gives device codes, which is asked in the same way.
Source: RFC 6749; Microsoft identity platform, OAuth 2.0 flows and AADSTS error codes.
"""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse

from opengallery.identity.forms import read_form
from opengallery.identity.grants import (
    authorization_code,
    client_credentials,
    device_code,
    password,
    refresh_token,
)
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.refusals import SignInError, error_response
from opengallery.identity.refused_sign_ins import record_refusal
from opengallery.identity.tokens import TokenVersion

Grant = Callable[[Parts, TokenRequest], Awaitable[dict[str, object]]]

GRANTS: dict[str, Grant] = {
    "authorization_code": authorization_code.answer,
    "client_credentials": client_credentials.answer,
    "password": password.answer,
    "refresh_token": refresh_token.answer,
    device_code.GRANT_TYPE: device_code.answer,
}
OLD_GRANTS = {**GRANTS, device_code.OLD_GRANT_TYPE: device_code.answer}


class TokenEndpoint:
    """Answers token requests, with the help of the directory."""

    def __init__(self, parts: Parts) -> None:
        """Answer by `parts`."""
        self._parts = parts

    async def version_2(self, request: Request) -> JSONResponse:
        """`POST /{tenant}/oauth2/v2.0/token`."""
        return await self._answer(request, "2.0", _granted)

    async def version_1(self, request: Request) -> JSONResponse:
        """`POST /{tenant}/oauth2/token`."""
        return await self._answer(request, "1.0", _granted)

    async def device_code_2(self, request: Request) -> JSONResponse:
        """`POST /{tenant}/oauth2/v2.0/devicecode`."""
        return await self._answer(request, "2.0", device_code.begin)

    async def device_code_1(self, request: Request) -> JSONResponse:
        """`POST /{tenant}/oauth2/devicecode`."""
        return await self._answer(request, "1.0", device_code.begin)

    async def _answer(self, request: Request, version: TokenVersion, grant: Grant) -> JSONResponse:
        fields: dict[str, str] = {}
        try:
            fields = await read_form(request)
            asked = TokenRequest(
                tenant=request.path_params["tenant"],
                version=version,
                fields=fields,
                address=client_address(request),
                authorization=request.headers.get("authorization", ""),
            )
            content = await grant(self._parts, asked)
        except SignInError as error:
            record_refusal(request, error, fields.get("client_id", ""))
            return error_response(error, request)
        return JSONResponse(content, headers={"cache-control": "no-store", "pragma": "no-cache"})


def client_address(request: Request) -> str:
    """The address that the request came from, as the server sees it."""
    return request.client.host if request.client else ""


async def _granted(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """What the grant answers that the form asks for."""
    name = request.required("grant_type")
    grant = (OLD_GRANTS if request.version == "1.0" else GRANTS).get(name)
    if grant is None:
        message = f"The grant type '{name[:64]}' is not supported. Use one of {', '.join(sorted(GRANTS))}."
        raise SignInError(400, "unsupported_grant_type", 70003, message)
    return await grant(parts, request)
