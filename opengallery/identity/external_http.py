"""What clients ask before they have a token, when an external issuer gives the tokens.

The own token endpoints and the directory's Graph are off and say so. With `identity.token_proxy` the token
endpoint hands client credentials on to the issuer's: that is how az signs a service principal in, which
knows only Entra's form of a token request. Nobody but the issuer learns or checks what it hands on.
Source: RFC 6749, 4.4; Azure `metadata/endpoints`.
"""

import json
from typing import Any

import httpx
import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from opengallery.identity.forms import read_form
from opengallery.identity.http import Discovery
from opengallery.identity.issuer import Issuer, IssuerUnavailable, https_url
from opengallery.identity.refusals import SignInError, error_response
from opengallery.identity.refused_sign_ins import record_refusal
from opengallery.settings import IdentitySettings

ANSWER_SIZE_MAX_BYTES = 64 * 1024
ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]
PASSED_ON = ("grant_type", "client_id", "client_secret")
"""Of a token request; `scope` is Entra's form, and what the issuer wants instead stands in the settings."""
ANSWERED = ("access_token", "token_type", "expires_in", "error", "error_description")

log = structlog.get_logger()


def external_routes(
    endpoint: str, discovery: Discovery, issuer: Issuer, settings: IdentitySettings
) -> list[Route]:
    """The routes, for the server that clients reach as `endpoint`."""
    elsewhere = Elsewhere(endpoint, issuer, settings)
    openid = elsewhere.openid if settings.token_proxy else elsewhere.refuse
    token = elsewhere.token if settings.token_proxy else elsewhere.refuse
    return [
        Route("/metadata/endpoints", discovery.cloud),
        Route("/common/discovery/instance", discovery.instance),
        Route("/{tenant}/v2.0/.well-known/openid-configuration", openid),
        Route("/{tenant}/oauth2/v2.0/token", token, methods=["POST"]),
        Route("/{tenant}/.well-known/openid-configuration", elsewhere.refuse),
        Route("/{tenant}/oauth2/{rest:path}", elsewhere.refuse, methods=ANY_METHOD),
        Route("/{tenant}/discovery/{rest:path}", elsewhere.refuse),
        Route("/v1.0/{rest:path}", elsewhere.no_graph, methods=ANY_METHOD),
        Route("/beta/{rest:path}", elsewhere.no_graph, methods=ANY_METHOD),
    ]


class Elsewhere:
    """Answers that lead to the issuer."""

    def __init__(self, endpoint: str, issuer: Issuer, settings: IdentitySettings) -> None:
        self._endpoint = endpoint
        self._issuer = issuer
        self._settings = settings

    def refuse(self, request: Request) -> Response:
        """Say where tokens come from."""
        message = (
            f"This gallery has no sign-in of its own. Get a token from {self._issuer.url} and send it as a bearer "
            "token; the gallery command takes it from GALLERY_ACCESS_TOKEN."
        )
        return error_response(SignInError(400, "unsupported_grant_type", 700054, message), request)

    def no_graph(self, _request: Request) -> Response:
        """Say where people are kept."""
        message = (
            f"This gallery has no directory: users and groups are those of {self._issuer.url}. "
            "Give roles to object ids (--assignee-object-id); `gallery principal add` tells them."
        )
        return JSONResponse({"error": {"code": "Request_UnsupportedQuery", "message": message}}, 501)

    def openid(self, request: Request) -> Response:
        """The configuration that az's library wants: this server's token endpoint, which hands on."""
        tenant = request.path_params["tenant"]
        base = f"{self._endpoint}/{tenant}"
        return JSONResponse(
            {
                "issuer": f"{base}/v2.0",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "grant_types_supported": ["client_credentials"],
            }
        )

    async def token(self, request: Request) -> Response:
        """`POST /{tenant}/oauth2/v2.0/token`: client credentials, handed on to the issuer."""
        try:
            form = await read_form(request)
            if form.get("grant_type") != "client_credentials":
                raise SignInError(
                    400,
                    "unsupported_grant_type",
                    70003,
                    "Only client credentials are handed on to the issuer. Users get their tokens from it directly.",
                )
            asked = {name: form[name] for name in PASSED_ON if name in form}
            status, content = await run_in_threadpool(
                self._ask, {**asked, **self._settings.token_proxy_fields}
            )
        except SignInError as error:
            return error_response(error, request)
        if status != 200:
            told = content.get("error_description") or content.get("error") or "no reason"
            message = f"The issuer {self._issuer.url} refused: {str(told)[:500]}"
            refusal = SignInError(
                status if 400 <= status < 500 else 502, str(content.get("error"))[:64], 7000215, message
            )
            record_refusal(request, refusal, asked.get("client_id", ""))
            return error_response(refusal, request)
        return JSONResponse(content, headers={"cache-control": "no-store", "pragma": "no-cache"})

    def _ask(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Send a token request to the issuer. Raises `SignInError` when it can't be asked."""
        try:
            url = https_url(self._issuer.document(), "token_endpoint")
            with self._issuer.client() as client, client.stream("POST", url, data=form) as answer:
                content = bytearray()
                for piece in answer.iter_raw(16 * 1024):
                    content += piece
                    if len(content) > ANSWER_SIZE_MAX_BYTES:
                        raise IssuerUnavailable(f"{url} answers too much.")
            found = json.loads(content)
            if not isinstance(found, dict):
                raise IssuerUnavailable(f"{url} answers no JSON object.")
            return answer.status_code, {name: found[name] for name in ANSWERED if name in found}
        except (IssuerUnavailable, httpx.HTTPError, ValueError) as error:
            # The exception holds no part of the form.
            log.warning("a token request can't be handed on", issuer=self._issuer.url, reason=str(error))
            message = f"The issuer {self._issuer.url} can't be asked. Try again; the server's log says why."
            raise SignInError(503, "temporarily_unavailable", 90033, message) from error
