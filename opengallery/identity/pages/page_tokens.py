"""Proof that a form comes from a page of ours that this very browser was shown (against forged requests).

A page holds a token, signed for the cookie of its browser, for what the form is about and for a while. The
cookie is sent by requests from our own pages only. Browsers also say which site a form comes from.
Source: OWASP Cross-Site Request Forgery Prevention; RFC 6265bis (SameSite, __Host-); Fetch Metadata.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from opengallery.identity.folder import IdentityFolder

FILE = "page-key"
KEY_SIZE_BYTES = 32
COOKIE = "__Host-gallery-page"
COOKIE_FORM = re.compile(r"[A-Za-z0-9_-]{43}")
LIFETIME_S = 1800


@dataclass(frozen=True, slots=True)
class PageToken:
    """The token for a page, and the cookie that its browser has to have."""

    text: str
    cookie: str

    def put(self, response: Response) -> Response:
        """`response` with the cookie."""
        response.set_cookie(COOKIE, self.cookie, path="/", secure=True, httponly=True, samesite="strict")
        return response


class PageTokens:
    """Makes and checks the tokens of pages."""

    def __init__(self, key: bytes, endpoint: str, clock: Callable[[], float]) -> None:
        """Sign with `key`, for pages of the server `endpoint`. `clock` gives seconds."""
        self._key = key
        self._endpoint = endpoint
        self._clock = clock

    @classmethod
    def open(cls, folder: IdentityFolder, endpoint: str, clock: Callable[[], float]) -> "PageTokens":
        """With the key in `folder`, made at the first time."""
        with folder.locked():
            key = folder.read(FILE)
            if key is None:
                key = secrets.token_bytes(KEY_SIZE_BYTES)
                folder.write(FILE, key)
        return cls(key, endpoint, clock)

    def make(self, request: Request, purpose: str) -> PageToken:
        """A token for a page that answers `request`; its form is good for `purpose` only."""
        cookie = _cookie(request) or secrets.token_urlsafe(32)
        until = int(self._clock()) + LIFETIME_S
        return PageToken(f"{until}.{self._sign(cookie, purpose, str(until))}", cookie)

    def is_good(self, request: Request, token: str, purpose: str) -> bool:
        """Whether the form in `request` comes from such a page in the same browser."""
        if not self._is_same_origin(request):
            return False
        cookie = _cookie(request)
        until, _, signature = token.partition(".")
        if cookie is None or not until.isascii() or not until.isdigit() or len(until) > 16:
            return False
        expected = self._sign(cookie, purpose, until)
        is_signed = hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected.encode())
        return is_signed and int(until) > self._clock()

    def _is_same_origin(self, request: Request) -> bool:
        origin = request.headers.get("origin")
        if origin == self._endpoint:
            return True
        # A page that sends no referrer makes browsers send the origin `null`; then they say it in this header.
        return origin in (None, "null") and request.headers.get("sec-fetch-site") == "same-origin"

    def _sign(self, cookie: str, purpose: str, until: str) -> str:
        return hmac.digest(self._key, f"{cookie}\0{until}\0{purpose}".encode(), hashlib.sha256).hex()


def _cookie(request: Request) -> str | None:
    cookie = request.cookies.get(COOKIE, "")
    return cookie if COOKIE_FORM.fullmatch(cookie) else None
