"""Who the client is, and its proof: a secret, a signed assertion, or none for a public client.

Source: RFC 6749, sections 2.3 and 3.2.1; RFC 7523, section 2.2.
"""

import asyncio
from dataclasses import dataclass
from typing import Literal

import structlog
from starlette.concurrency import run_in_threadpool

from opengallery.identity.applications import Application
from opengallery.identity.client_secrets import ExpiredSecret, TooManyChecks, WrongSecret
from opengallery.identity.clients import Client, find_client
from opengallery.identity.grants import client_assertions
from opengallery.identity.grants.request import Parts, TokenRequest, tenant_ids
from opengallery.identity.refusals import SignInError, invalid_client, too_many

log = structlog.get_logger()

Proof = Literal["0", "1", "2"]
"""How the client proved itself, as the claim `azpacr` says it: not at all, by a secret, by a certificate."""


@dataclass(frozen=True, slots=True)
class ProvenClient:
    """A client, how it proved itself, and the tenants that it wants to sign in to."""

    client: Client
    proof: Proof
    tenant_ids: tuple[str, ...]


async def authenticate(parts: Parts, request: TokenRequest, resource: str = "") -> ProvenClient:
    """The client that sent the request. Raises `SignInError` when it is unknown or proves nothing.

    `resource` is what it wants a token for.
    """
    basic = request.basic_credentials()
    client_id = basic[0] if basic else request.required("client_id")
    secret = basic[1] if basic else request.get("client_secret")
    client, tenants = await run_in_threadpool(find_in_tenant, parts, request.tenant, client_id)
    has_assertion = bool(request.get("client_assertion"))
    if secret and has_assertion:
        raise invalid_client(700025, "Send a client_secret or a client_assertion, not both.")
    if client.application is None and (secret or has_assertion):
        message = "Client is public so neither 'client_assertion' nor 'client_secret' should be presented."
        raise invalid_client(700025, message)
    proof: Proof = "0"
    if secret and client.application:
        await _check_secret(parts, client.application, secret)
        proof = "1"
    elif has_assertion and client.application:
        await client_assertions.check(parts, request, client.application, resource)
        proof = "2"
    elif not client.is_public:
        message = (
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
        )
        raise invalid_client(7000218, message)
    require_enabled(client)
    return ProvenClient(client, proof, tenants)


def find_in_tenant(parts: Parts, tenant: str, client_id: str) -> tuple[Client, tuple[str, ...]]:
    """The client that wants to sign in to `tenant`, and the tenants meant. Raises `SignInError`."""
    with parts.database.read() as connection:
        tenants = tenant_ids(connection, tenant)
        client = find_client(connection, client_id)
    if client is None or not any(client.is_of_tenant(tenant_id) for tenant_id in tenants):
        raise SignInError(
            400,
            "unauthorized_client",
            700016,
            f"Application with identifier '{client_id[:64]}' was not found in the directory "
            f"'{tenant[:64]}'. Check client id and tenant; `gallery env` prints the administrator's.",
        )
    return client, tuple(tenant_id for tenant_id in tenants if client.is_of_tenant(tenant_id))


def require_enabled(client: Client) -> None:
    """Raise `SignInError` when nobody may sign in by the client now."""
    if client.application is not None and not client.application.is_enabled:
        log.warning("sign-in refused: disabled application", app_id=client.client_id)
        message = f"Application '{client.client_id}' is disabled. Ask an administrator to enable it."
        raise SignInError(400, "unauthorized_client", 7000112, message)


async def _check_secret(parts: Parts, application: Application, secret: str) -> None:
    """Return when the secret is right."""
    app_id = application.principal.app_id or ""
    try:
        check = parts.checker.submit(app_id, secret, application.secrets)
        # Shielded: other requests may wait for the same check when this client goes away.
        await asyncio.shield(asyncio.wrap_future(check))
    except WrongSecret:
        log.warning("sign-in refused: wrong secret", app_id=app_id)
        message = f"Invalid client secret provided. It is none of those of app '{app_id}'."
        raise invalid_client(7000215, message) from None
    except ExpiredSecret as error:
        log.warning("sign-in refused: expired secret", app_id=app_id, key_id=error.key_id)
        message = f"The provided client secret keys for app '{app_id}' are expired. Make a new one."
        raise invalid_client(7000222, message) from None
    except TooManyChecks as error:
        log.warning("sign-in refused: too many attempts", app_id=app_id)
        raise too_many(error.retry_after_s) from None
