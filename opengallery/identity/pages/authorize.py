"""The authorize endpoint: the page on which a user signs in for a program with a browser (`az login`).

The page's form comes back to the same URL, and everything in it is checked again. Then the browser is
sent to the client with a code. Nobody stays signed in: each sign-in asks for name and password.
Source: RFC 6749, section 4.1; Microsoft identity platform, authorization code flow.
"""

import hashlib
from html import escape
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from opengallery.identity import authorization_codes
from opengallery.identity.accounts import Account
from opengallery.identity.clients import origin
from opengallery.identity.forms import fields_of, read_form
from opengallery.identity.grants.request import Parts
from opengallery.identity.pages.authorization_request import (
    AuthorizationRequest,
    Destination,
    read_destination,
    read_request,
)
from opengallery.identity.pages.page import Html, message_page, page, security_headers
from opengallery.identity.pages.page_tokens import PageTokens
from opengallery.identity.passwords import check_password
from opengallery.identity.refusals import SignInError
from opengallery.identity.refused_sign_ins import record_refusal
from opengallery.identity.token_endpoint import client_address
from opengallery.identity.tokens import TokenVersion

TITLE = "Sign in"


class AuthorizePage:
    """Answers the authorize endpoint, with the help of the directory."""

    def __init__(self, parts: Parts, page_tokens: PageTokens) -> None:
        """Sign in by `parts`; forms are proved by `page_tokens`."""
        self._parts = parts
        self._page_tokens = page_tokens

    async def version_2(self, request: Request) -> Response:
        """`GET` and `POST /{tenant}/oauth2/v2.0/authorize`."""
        return await self._answer(request, "2.0")

    async def version_1(self, request: Request) -> Response:
        """`GET` and `POST /{tenant}/oauth2/authorize`."""
        return await self._answer(request, "1.0")

    async def _answer(self, request: Request, version: TokenVersion) -> Response:
        tenant = request.path_params["tenant"]
        try:
            fields = fields_of(request.scope["query_string"])
            destination = await run_in_threadpool(read_destination, self._parts, tenant, fields)
        except SignInError as error:
            return message_page(
                "Can't sign in", f"AADSTS{error.code}: {error.message}", is_alarm=True, status=400
            )
        try:
            asked = await run_in_threadpool(read_request, self._parts, destination, version, fields)
        except SignInError as error:
            return _refused(destination, error)
        if request.method != "POST":
            return self._page(request, asked, username=asked.login_hint)
        return await self._sign_in(request, asked)

    async def _sign_in(self, request: Request, asked: AuthorizationRequest) -> Response:
        """Answer the form."""
        try:
            form = await read_form(request)
        except SignInError as error:
            return message_page("Can't sign in", error.message, is_alarm=True, status=400)
        if not self._page_tokens.is_good(request, form.get("page_token", ""), _purpose(request)):
            return self._page(request, asked, notice="This page was too old. Try again.", status=403)
        destination = asked.destination
        if form.get("action") == "cancel":
            message = "The user cancelled the sign-in."
            return _refused(destination, SignInError(400, "access_denied", 65004, message))
        username = form.get("username", "")
        try:
            account = await check_password(
                self._parts.database,
                self._parts.checker,
                username,
                form.get("password", ""),
                destination.tenant_ids,
                client_address(request),
            )
        except SignInError as error:
            record_refusal(request, error, destination.client.client_id)
            status = 429 if error.status == 429 else 400
            return self._page(request, asked, username=username[:256], notice=error.message, status=status)
        code = await run_in_threadpool(self._issue, asked, account)
        return _send(destination, {"code": code})

    def _issue(self, asked: AuthorizationRequest, account: Account) -> str:
        with self._parts.database.write() as connection:
            return authorization_codes.issue(
                connection,
                account,
                asked.destination.client.client_id,
                asked.destination.redirect_uri,
                asked.code_challenge,
                asked.scope,
                asked.nonce,
                self._parts.clock(),
            )

    def _page(
        self,
        request: Request,
        asked: AuthorizationRequest,
        *,
        username: str = "",
        notice: str = "",
        status: int = 200,
    ) -> Response:
        token = self._page_tokens.make(request, _purpose(request))
        response = page(
            TITLE,
            "credentials",
            notice=notice,
            status=status,
            form_targets=(origin(asked.destination.redirect_uri),),
            client=asked.destination.client.display_name,
            destination=origin(asked.destination.redirect_uri),
            action=f"?{request.scope['query_string'].decode('ascii')}",
            page_token=token.text,
            username=username,
        )
        return token.put(response)


def _purpose(request: Request) -> str:
    """A form is good for the very request that its page was shown for."""
    query = hashlib.sha256(request.scope["query_string"]).hexdigest()
    return f"authorize\n{request.url.path}\n{query}"


def _refused(destination: Destination, error: SignInError) -> Response:
    return _send(
        destination,
        {"error": error.error, "error_description": f"AADSTS{error.code}: {error.message}"},
    )


def _send(destination: Destination, answer: dict[str, str]) -> Response:
    """Send the browser to the client with an answer, in the way that the client wants."""
    if destination.state is not None:
        answer["state"] = destination.state
    uri = destination.redirect_uri
    if destination.response_mode == "form_post":
        fields = (
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
            for name, value in answer.items()
        )
        return page(
            "Signed in" if "code" in answer else "Not signed in",
            "continue",
            form_targets=(origin(uri),),
            client=destination.client.display_name,
            action=uri,
            fields=Html("\n".join(fields)),
        )
    separator = "#" if destination.response_mode == "fragment" else "&" if "?" in uri else "?"
    location = f"{uri}{separator}{urlencode(answer)}"
    return RedirectResponse(location, 303, security_headers((origin(uri),)))
