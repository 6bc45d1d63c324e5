"""Signing in: a token by client credentials or a user's password, or the one in GALLERY_ACCESS_TOKEN.

The token endpoint is found as az finds it: the endpoint's `/metadata/endpoints` names the authority and
the audience, the authority's OpenID configuration names the token endpoint. Tokens are kept in
AZURE_CONFIG_DIR/gallery-tokens.json, readable for the user alone.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from opengallery.cli.failure import CommandFailed

# A token that ends sooner than this is not used: the command it is for may take a while.
MARGIN_S = 120

# Who signs in with a name and a password does so by the client of the Azure CLI, as with az.
CLI_CLIENT = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"

# Sends a request without a token, and answers the body: (method, url, form) -> JSON.
Ask = Callable[[str, str, dict[str, str] | None], Any]


@dataclass(frozen=True)
class Credentials:
    """What `gallery env` puts into the environment, or a user with AZURE_USERNAME and AZURE_PASSWORD.

    `secret` is the application's, or the password of `username`.
    """

    endpoint: str
    tenant: str
    client: str
    secret: str = field(repr=False)
    username: str | None = None
    authority: str | None = None
    access_token: str | None = field(default=None, repr=False)
    config: Path = Path.home() / ".azure"

    @classmethod
    def from_environment(cls) -> "Credentials":
        """Read the environment. Raises `CommandFailed` that says how to set it.

        A client secret goes before a password, as in the SDKs' EnvironmentCredential.
        """
        access_token = os.environ.get("GALLERY_ACCESS_TOKEN", "").strip() or None
        is_user = bool(os.environ.get("AZURE_USERNAME")) and not os.environ.get("AZURE_CLIENT_SECRET")
        proof = (
            ["AZURE_USERNAME", "AZURE_PASSWORD"] if is_user else ["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"]
        )
        names = ["GALLERY_ENDPOINT", "AZURE_TENANT_ID", *proof]
        needed = names[:1] if access_token else names
        if missing := [name for name in needed if not os.environ.get(name)]:
            raise CommandFailed(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set. "
                'Run: eval "$(gallery env --data DIR)"'
            )
        endpoint, tenant, name, secret = (os.environ.get(name, "") for name in names)
        config = os.environ.get("AZURE_CONFIG_DIR")
        return cls(
            endpoint=_checked_endpoint(endpoint),
            tenant=tenant,
            client=CLI_CLIENT if is_user else name,
            secret=secret,
            username=name if is_user else None,
            authority=_url(os.environ.get("AZURE_AUTHORITY_HOST")),
            access_token=access_token,
            config=Path(config) if config else Path.home() / ".azure",
        )

    @property
    def key(self) -> str:
        """What a kept token is found by. It holds the secret's digest: a wrong secret finds nothing."""
        parts = [self.endpoint, self.tenant, self.client, self.secret]
        if self.username is not None:
            parts.append(self.username)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def form(self) -> dict[str, str]:
        """What proves to the token endpoint who signs in."""
        if self.username is None:
            return {
                "grant_type": "client_credentials",
                "client_id": self.client,
                "client_secret": self.secret,
            }
        return {
            "grant_type": "password",
            "client_id": self.client,
            "username": self.username,
            "password": self.secret,
        }


class SignIn:
    """Tokens for one caller at one endpoint."""

    def __init__(self, credentials: Credentials, ask: Ask) -> None:
        """`ask` sends the requests that need no token."""
        self._credentials = credentials
        self._ask = ask
        self._file = credentials.config / "gallery-tokens.json"
        self._token: str | None = None

    def token(self) -> str:
        """A token that is good for a while. Raises `CommandFailed` when the credentials are refused."""
        if self._credentials.access_token is not None:
            return self._credentials.access_token
        if self._token is None:
            kept = self._kept().get(self._credentials.key)
            self._token = kept["token"] if kept else self._fetch()
        return self._token

    def forget(self) -> None:
        """The server did not take the token: fetch another next time."""
        self._token = None
        if self._credentials.access_token is None:
            self._keep(None)

    def _fetch(self) -> str:
        credentials = self._credentials
        login = self._login()
        authority = (credentials.authority or login["loginEndpoint"]).rstrip("/")
        issuer = self._ask(
            "GET", f"{authority}/{credentials.tenant}/v2.0/.well-known/openid-configuration", None
        )
        answer = self._ask(
            "POST",
            issuer["token_endpoint"],
            {**credentials.form, "scope": f"{login['audiences'][0].rstrip('/')}/.default"},
        )
        token = str(answer["access_token"])
        self._keep({"token": token, "ends": time.time() + int(answer.get("expires_in", 300))})
        return token

    def _login(self) -> dict[str, Any]:
        """What the endpoint says of signing in. Raises `CommandFailed` when it is no gallery."""
        endpoint = self._credentials.endpoint
        try:
            cloud = self._ask("GET", f"{endpoint}/metadata/endpoints?api-version=2022-09-01", None)
            login = cloud["authentication"]
            if not (login["loginEndpoint"] and login["audiences"][0]):
                raise ValueError
        except CommandFailed as failure:
            if failure.__cause__ is not None or (failure.status or 0) >= 500:
                raise
            raise CommandFailed(f"GALLERY_ENDPOINT ({endpoint}) leads to no gallery: {failure}") from failure
        except (LookupError, TypeError, ValueError):
            raise CommandFailed(f"GALLERY_ENDPOINT ({endpoint}) leads to no gallery.") from None
        return dict(login)

    def _kept(self) -> dict[str, Any]:
        """The kept tokens that are still good; none when the file is missing or unreadable."""
        try:
            kept = json.loads(self._file.read_bytes())
            return {key: entry for key, entry in kept.items() if entry["ends"] > time.time() + MARGIN_S}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _keep(self, entry: dict[str, Any] | None) -> None:
        kept = self._kept()
        kept.pop(self._credentials.key, None)
        if entry is not None:
            kept[self._credentials.key] = entry
        # A folder that can't be written costs a sign-in a command, no more.
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=self._file.parent, prefix=".gallery-tokens-")
            with os.fdopen(descriptor, "w") as file:
                json.dump(kept, file)
            Path(name).replace(self._file)


def _checked_endpoint(text: str) -> str:
    """The endpoint without a slash at its end. Raises `CommandFailed` when it is no URL of a server."""
    try:
        parts = urlsplit(text)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or "?" in text or "#" in text or not text.isprintable() or " " in text:
        raise CommandFailed(
            f"GALLERY_ENDPOINT is '{text}', which is no URL like https://localhost:8443. "
            'Run: eval "$(gallery env --data DIR)"'
        )
    return text.rstrip("/")


def _url(host: str | None) -> str | None:
    """AZURE_AUTHORITY_HOST may leave the scheme out."""
    if not host:
        return None
    return host if "://" in host else f"https://{host}"
