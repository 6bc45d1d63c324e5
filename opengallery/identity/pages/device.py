"""The page `/devicelogin`: a user types in the code of a program that waits, and signs in for it.

First comes the code alone. Then the page says which program asks, and from where: whoever was sent a
code by somebody else must see that it is not theirs before they give their password.
Source: RFC 8628, sections 3.3 and 5.4 (remote phishing).
"""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from opengallery.identity import device_codes
from opengallery.identity.accounts import Account
from opengallery.identity.client_secrets import TooManyChecks
from opengallery.identity.clients import Client
from opengallery.identity.device_codes import Waiting
from opengallery.identity.forms import read_form
from opengallery.identity.grants.client_authentication import find_in_tenant, require_enabled
from opengallery.identity.grants.request import Parts
from opengallery.identity.pages.page import message_page, page
from opengallery.identity.pages.page_tokens import PageTokens
from opengallery.identity.passwords import check_password
from opengallery.identity.refusals import SignInError
from opengallery.identity.refused_sign_ins import record_refusal
from opengallery.identity.token_endpoint import client_address

TITLE = "Enter code"
CONFIRM_TITLE = "Did you start this?"
FIRST_PURPOSE = "device"
TOO_OLD = "This page was too old. Try again."
UNKNOWN_CODE = "That code is not known, or its time is over. Compare it with the one on your device."


class DevicePage:
    """Answers `/devicelogin`, with the help of the directory."""

    def __init__(self, parts: Parts, page_tokens: PageTokens) -> None:
        """Sign in by `parts`; forms are proved by `page_tokens`."""
        self._parts = parts
        self._page_tokens = page_tokens

    async def answer(self, request: Request) -> Response:
        """`GET` and `POST /devicelogin`."""
        if request.method != "POST":
            return self._code_page(request)
        try:
            form = await read_form(request)
        except SignInError as error:
            return message_page("Can't sign in", error.message, is_alarm=True, status=400)
        user_code = form.get("user_code", "")
        has_confirmed = "action" in form
        purpose = _purpose(user_code) if has_confirmed else FIRST_PURPOSE
        if not self._page_tokens.is_good(request, form.get("page_token", ""), purpose):
            return self._code_page(request, TOO_OLD, 403)
        try:
            waiting, client, tenant_ids = await run_in_threadpool(
                self._find, user_code, client_address(request)
            )
        except TooManyChecks:
            return self._code_page(request, "Too many wrong codes. Try again in a minute.", 429)
        except SignInError as error:
            return self._code_page(request, error.message, 400)
        if not has_confirmed:
            return self._confirm_page(request, waiting, client)
        if form["action"] != "continue":
            await run_in_threadpool(self._deny, waiting)
            return message_page("Refused", "The program was refused. You can close this page.")
        return await self._sign_in(request, form, waiting, client, tenant_ids)

    async def _sign_in(
        self,
        request: Request,
        form: dict[str, str],
        waiting: Waiting,
        client: Client,
        tenant_ids: tuple[str, ...],
    ) -> Response:
        username = form.get("username", "")
        try:
            account = await check_password(
                self._parts.database,
                self._parts.checker,
                username,
                form.get("password", ""),
                tenant_ids,
                client_address(request),
            )
        except SignInError as error:
            record_refusal(request, error, client.client_id)
            status = 429 if error.status == 429 else 400
            return self._confirm_page(request, waiting, client, username[:256], error.message, status)
        if not await run_in_threadpool(self._approve, waiting, account):
            return self._code_page(request, UNKNOWN_CODE, 400)
        return message_page(
            "Signed in",
            f"You have signed in to {client.display_name} on your device. You can close this page.",
        )

    def _find(self, user_code: str, address: str) -> tuple[Waiting, Client, tuple[str, ...]]:
        """Who waits with this code. Raises `SignInError` or `TooManyChecks`."""
        # Asked before the look-up: whoever guessed too often must not learn of a code that is right.
        self._parts.checker.refuse_address(address)
        with self._parts.database.read() as connection:
            waiting = device_codes.find_waiting(connection, user_code, self._parts.clock())
        if waiting is None:
            self._parts.checker.count_failure(address)
            raise SignInError(400, "invalid_grant", 70018, UNKNOWN_CODE)
        client, tenant_ids = find_in_tenant(self._parts, waiting.tenant, waiting.client_id)
        require_enabled(client)
        return waiting, client, tenant_ids

    def _approve(self, waiting: Waiting, account: Account) -> bool:
        with self._parts.database.write() as connection:
            return device_codes.approve(connection, waiting, account)

    def _deny(self, waiting: Waiting) -> bool:
        with self._parts.database.write() as connection:
            return device_codes.deny(connection, waiting)

    def _code_page(self, request: Request, notice: str = "", status: int = 200) -> Response:
        token = self._page_tokens.make(request, FIRST_PURPOSE)
        response = page(
            TITLE, "code", notice=notice, status=status, action=request.url.path, page_token=token.text
        )
        return token.put(response)

    def _confirm_page(
        self,
        request: Request,
        waiting: Waiting,
        client: Client,
        username: str = "",
        notice: str = "",
        status: int = 200,
    ) -> Response:
        token = self._page_tokens.make(request, _purpose(waiting.user_code))
        response = page(
            CONFIRM_TITLE,
            "device",
            notice=notice,
            status=status,
            action=request.url.path,
            page_token=token.text,
            client=client.display_name,
            address=waiting.address or "unknown",
            asked_at=f"{waiting.asked_at:%H:%M} UTC",
            user_code=waiting.user_code,
            username=username,
        )
        return token.put(response)


def _purpose(user_code: str) -> str:
    """A confirmation is good for the code that the page showed."""
    return f"device\n{user_code}"
