"""GraphError: a refused request in Graph's form, with Graph's codes.

Source: Microsoft Graph error responses and resource types.
"""

from typing import Any

from opengallery.database import now
from opengallery.identity.directory_errors import (
    AlreadyTaken,
    DirectoryError,
    InvalidValue,
    NotAllowed,
    TooMany,
)

SHOWN_LENGTH_MAX = 128


class GraphError(Exception):
    """A refusal: the status, Graph's `code` and a message that says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        details: tuple[dict[str, str], ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        """`details` are `{"code", "message", "target"}`."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = headers or {}

    def content(self, request_id: str, client_request_id: str) -> dict[str, Any]:
        """The body of the answer."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.details:
            error["details"] = list(self.details)
        error["innerError"] = {
            "date": f"{now():%Y-%m-%dT%H:%M:%S}",
            "request-id": request_id,
            "client-request-id": client_request_id,
        }
        return {"error": error}


def bad_request(message: str) -> GraphError:
    """400: the request makes no sense as it is."""
    return GraphError(400, "Request_BadRequest", message)


def unsupported_query(message: str) -> GraphError:
    """400: Graph may know such a query, this server doesn't."""
    return GraphError(400, "Request_UnsupportedQuery", message)


def not_found(name: str) -> GraphError:
    """404: no such object in the caller's tenant."""
    return GraphError(
        404,
        "Request_ResourceNotFound",
        f"Resource '{name[:SHOWN_LENGTH_MAX]}' does not exist or one of its queried reference-property "
        "objects are not present.",
    )


def denied(needed: str) -> GraphError:
    """403: the caller lacks a right; `needed` says which."""
    return GraphError(
        403, "Authorization_RequestDenied", f"Insufficient privileges to complete the operation. {needed}"
    )


def no_owner_left() -> GraphError:
    """409: the change would leave a tenant that nobody can administer."""
    return GraphError(
        409,
        "Request_BadRequest",
        "Nobody who can sign in would be Owner of the tenant's root (/) any more. Make somebody else Owner there "
        "first: az role assignment create --role Owner --scope /.",
    )


def refusal(error: DirectoryError) -> GraphError:
    """What the directory refuses, as Graph says it."""
    if isinstance(error, AlreadyTaken):
        code = "Request_BadRequest"
        if error.property == "identifierUris":
            code = "Request_MultipleObjectsWithSameKeyValue"
        detail = {"code": "ObjectConflict", "message": error.message, "target": error.property}
        return GraphError(400, code, error.message, (detail,))
    if isinstance(error, InvalidValue):
        detail = {"code": "InvalidValue", "message": error.message, "target": error.property}
        return GraphError(400, "Request_BadRequest", error.message, (detail,))
    if isinstance(error, TooMany):
        return GraphError(403, "Directory_QuotaExceeded", error.message)
    if isinstance(error, NotAllowed):
        return GraphError(403, "Authorization_RequestDenied", error.message)
    return bad_request(error.message)
