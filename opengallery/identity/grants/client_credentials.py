"""Client credentials: an application signs in as itself, by a secret or a certificate.

Source: RFC 6749, section 4.4; Microsoft identity platform, client credentials flow.
"""

from starlette.concurrency import run_in_threadpool

from opengallery.identity.grants.answer import application_answer
from opengallery.identity.grants.client_authentication import authenticate
from opengallery.identity.grants.request import Parts, TokenRequest
from opengallery.identity.grants.scopes import application_resource, unknown_resource
from opengallery.identity.refusals import invalid_client
from opengallery.identity.tokens import UnknownResource


async def answer(parts: Parts, request: TokenRequest) -> dict[str, object]:
    """A token for the application itself. Raises `SignInError`."""
    resource = application_resource(request.fields, request.version)
    proven = await authenticate(parts, request, resource)
    application = proven.client.application
    if application is None or proven.proof == "0":
        message = (
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
        )
        raise invalid_client(7000218, message)
    try:
        token = await run_in_threadpool(
            parts.tokens.issue, application.principal, resource, request.version, proven.proof
        )
    except UnknownResource:
        raise unknown_resource(resource, parts.tokens) from None
    return application_answer(token, request.version)
