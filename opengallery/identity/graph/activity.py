"""Changes of the directory, and refusals, in the tenant's activity log: `Microsoft.Graph/users/write`."""

from starlette.requests import Request

from opengallery.activity_log.events import FAILED, SUCCEEDED, Caller, Event, Origin
from opengallery.identity.principal import Principal

SCOPE_LENGTH_MAX = 512
_SUFFIXES = {"GET": "read", "HEAD": "read", "PUT": "write", "PATCH": "write", "DELETE": "delete"}


def event_of(
    request: Request,
    request_id: str,
    client_request_id: str,
    principal: Principal | None,
    status_code: int,
    error_code: str | None = None,
) -> Event:
    """The event of a request: of what it names only the path is kept, and of who asked only ids."""
    caller = Caller()
    if principal is not None:
        caller = Caller(
            object_id=principal.object_id,
            app_id=principal.app_id,
            kind=principal.kind,
            tenant_id=principal.tenant_id,
        )
    return Event(
        operation_name=_name(request.method, request.url.path),
        scope=request.url.path[:SCOPE_LENGTH_MAX],
        status=FAILED if error_code else SUCCEEDED,
        caller=caller,
        origin=Origin(
            correlation_id=request_id,
            request_id=request_id,
            client_request_id=client_request_id,
            address=request.client.host if request.client else None,
        ),
        method=request.method,
        status_code=status_code,
        error_code=error_code,
    )


def _name(method: str, path: str) -> str:
    """`POST /v1.0/users` writes one, `POST /v1.0/applications/ID/addPassword` is an action."""
    segments = path.split("/")[2:]
    kinds = [segment for segment in segments[::2] if segment != "$ref"]
    is_write = len(segments) == 1 or segments[-1:] == ["$ref"]
    suffix = _SUFFIXES.get(method, "write" if is_write else "action")
    return "/".join(("Microsoft.Graph", *kinds[:3], suffix))
