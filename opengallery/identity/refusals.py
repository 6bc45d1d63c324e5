"""Refusals of a sign-in, in the form of Microsoft Entra ID: OAuth's `error`, and a code AADSTS.

Source: RFC 6749, section 5.2; Microsoft Entra authentication and authorization error codes.
"""

from dataclasses import dataclass, field
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse

from opengallery.database import now


@dataclass
class SignInError(Exception):
    """A refusal: OAuth's `error`, Entra's `code` (AADSTS) and a message that says what to do."""

    status: int
    error: str
    code: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


def invalid_request(code: int, message: str) -> SignInError:
    """The request itself can't be used."""
    return SignInError(400, "invalid_request", code, message)


def invalid_grant(code: int, message: str) -> SignInError:
    """What the client shows as a proof proves nothing (any more)."""
    return SignInError(400, "invalid_grant", code, message)


def invalid_client(code: int, message: str) -> SignInError:
    """The client did not prove who it is."""
    return SignInError(401, "invalid_client", code, message)


def too_many(retry_after_s: int) -> SignInError:
    """Too much fails or waits; another attempt may come after `retry_after_s` seconds."""
    message = "Too many sign-ins failed or are waiting. Try again later."
    return SignInError(429, "temporarily_unavailable", 90055, message, {"retry-after": str(retry_after_s)})


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
