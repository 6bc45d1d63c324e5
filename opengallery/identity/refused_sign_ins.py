"""Refused sign-ins, in the activity log: which application was named, from where, and why it was refused.

What a client sent is not kept, but for an application's id: not a name, which may be a password in the wrong field.
"""

from starlette.requests import Request

from opengallery.activity_log.events import FAILED, Caller, Event, Origin
from opengallery.identity.directory import as_id
from opengallery.identity.refusals import SignInError

OPERATION = "Microsoft.AadIam/signIns/action"


_STILL_WAITING = ("authorization_pending", "slow_down")


def record_refusal(request: Request, refusal: SignInError, client_id: str = "") -> None:
    """Tell the activity log that a sign-in was refused. Never waits; a device that asks again is no refusal."""
    activity_log = getattr(request.app.state, "activity_log", None)
    if activity_log is None or refusal.error in _STILL_WAITING:
        return
    app_id = as_id(client_id) or None
    activity_log.offer(
        Event(
            operation_name=OPERATION,
            scope="/",
            status=FAILED,
            caller=Caller(app_id=app_id),
            origin=Origin(
                client_request_id=as_id(request.headers.get("client-request-id", "")) or None,
                address=request.client.host if request.client else None,
            ),
            tenant_id=as_id(str(request.path_params.get("tenant", ""))),
            method=request.method,
            status_code=refusal.status,
            error_code=f"AADSTS{refusal.code}",
        )
    )
