"""Clients: the programs in which somebody signs in.

A client is one of the well-known tools that every tenant has (the Azure CLI and its like), or an
application of the directory with a service principal. A public client can keep no secret: it is
recognised by its redirect URI alone, which has to be on the user's own machine.
Source: RFC 6749, section 2.1; RFC 8252; Microsoft Graph REST API v1.0, application.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Connection, select

from opengallery.identity.applications import Application, applications, find_application

# The SDKs sign a developer in as the Azure CLI.
WELL_KNOWN_CLIENTS = {
    "04b07795-8ddb-461a-bbee-02f9e1bf7b46": "Microsoft Azure CLI",
    "1950a258-227b-4e31-a9cf-717495945fc2": "Microsoft Azure PowerShell",
}
REDIRECT_URI_LENGTH_MAX = 2048
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+")


@dataclass(frozen=True, slots=True)
class Client:
    """One client. `application` is `None` for a well-known one, which is at home in every tenant."""

    client_id: str
    display_name: str
    is_public: bool
    redirect_uris: tuple[str, ...] = ()
    application: Application | None = None

    def is_of_tenant(self, tenant_id: str) -> bool:
        """Whether users of this tenant may sign in by the client."""
        return self.application is None or self.application.principal.tenant_id == tenant_id

    def takes_redirect(self, uri: str) -> bool:
        """Whether an answer may be sent to `uri`: registered, or this machine's for a public client."""
        return is_usable_redirect(uri) and (
            uri in self.redirect_uris
            or (is_loopback(uri) and (self.is_public or _without_port(uri) in self._registered_loopback()))
        )

    def _registered_loopback(self) -> set[str]:
        # The port of a program that runs on the user's machine is chosen at each sign-in (RFC 8252, 7.3).
        return {_without_port(uri) for uri in self.redirect_uris if is_loopback(uri)}


def find_client(connection: Connection, client_id: str) -> Client | None:
    """The client with this id, if there is one."""
    client_id = client_id.lower()
    if client_id in WELL_KNOWN_CLIENTS:
        return Client(client_id, WELL_KNOWN_CLIENTS[client_id], is_public=True)
    application = find_application(connection, client_id)
    if application is None:
        return None
    details = (
        connection.scalar(select(applications.c.details).where(applications.c.app_id == client_id)) or {}
    )
    public, web = (_uris(details, kind) for kind in ("publicClient", "web"))
    is_public = bool(public) or details.get("isFallbackPublicClient") is True
    name = application.principal.display_name
    return Client(client_id, name, is_public, (*public, *web), application)


def is_usable_redirect(uri: str) -> bool:
    """Whether `uri` is one to send a browser to: https, or http on the user's machine, no fragment."""
    if len(uri) > REDIRECT_URI_LENGTH_MAX or not uri.isascii() or not uri.isprintable():
        return False
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or "#" in uri or "\\" in uri or " " in uri:
        return False
    if not HOST.fullmatch(parts.hostname or ""):
        return False
    return parts.scheme == "https" or is_loopback(uri)


def is_loopback(uri: str) -> bool:
    """Whether `uri` is http on the machine of the browser itself."""
    try:
        parts = urlsplit(uri)
        return parts.scheme == "http" and parts.hostname in LOOPBACK
    except ValueError:
        return False


def origin(uri: str) -> str:
    """Scheme, host and port of a usable redirect URI."""
    parts = urlsplit(uri)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def _without_port(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.hostname}{parts.path.rstrip('/')}?{parts.query}"


def _uris(details: dict[str, Any], kind: str) -> tuple[str, ...]:
    """The redirect URIs of an application's `publicClient` or `web`, as Graph names them."""
    member = details.get(kind)
    uris = member.get("redirectUris") if isinstance(member, dict) else None
    return tuple(uri for uri in uris if isinstance(uri, str)) if isinstance(uris, list) else ()
