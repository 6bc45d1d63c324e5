"""Event data: an event of the activity log in the form in which Azure's clients read it.

Source: Azure Monitor REST API, Activity Logs - List, `EventData`, api-version 2015-04-01.
"""

from http import HTTPStatus
from typing import Any

from opengallery.activity_log.events import ACCEPTED, FAILED, Caller, Event

_CLAIMS = "http://schemas.microsoft.com/identity/claims"
_UPN = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/upn"

MEMBERS = frozenset(
    [
        "authorization",
        "caller",
        "category",
        "channels",
        "claims",
        "correlationId",
        "description",
        "eventDataId",
        "eventName",
        "eventTimestamp",
        "httpRequest",
        "id",
        "level",
        "operationId",
        "operationName",
        "properties",
        "resourceGroupName",
        "resourceId",
        "resourceProviderName",
        "resourceType",
        "status",
        "subStatus",
        "submissionTimestamp",
        "subscriptionId",
        "tenantId",
    ]
)


def view(event: Event) -> dict[str, Any]:
    """The event as `EventData`."""
    caller, origin = event.caller, event.origin
    name = event.operation_name
    group = event.scope.split("/")[4] if event.scope.lower().count("/resourcegroups/") else ""
    begun = event.status == ACCEPTED
    time = event.happened_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    request = {
        "clientRequestId": origin.client_request_id,
        "clientIpAddress": origin.address,
        "method": event.method,
        "uri": origin.url,
    }
    return {
        "authorization": {"action": name, "scope": event.scope},
        "caller": caller.user_principal_name or caller.app_id or caller.object_id,
        "category": _text("Administrative"),
        "channels": "Operation",
        "claims": _claims(caller),
        "correlationId": origin.correlation_id,
        "description": event.description,
        "eventDataId": event.id,
        "eventName": _text("BeginRequest", "Begin request") if begun else _text("EndRequest", "End request"),
        "eventTimestamp": time,
        "httpRequest": {member: value for member, value in request.items() if value is not None},
        "id": f"{event.scope.rstrip('/')}/events/{event.id}",
        "level": "Error" if event.status == FAILED else "Informational",
        "operationId": event.operation_id,
        "operationName": _text(name),
        "properties": _properties(event),
        "resourceGroupName": group,
        "resourceId": event.scope,
        "resourceProviderName": _text(name.partition("/")[0]),
        "resourceType": _text(_type(name)),
        "status": _text(event.status),
        "subStatus": _sub_status(event.status_code),
        "submissionTimestamp": time,
        "subscriptionId": event.subscription or "",
        "tenantId": event.tenant_id,
    }


def _text(value: str, shown: str | None = None) -> dict[str, str]:
    return {"value": value, "localizedValue": shown or value}


def _claims(caller: Caller) -> dict[str, str]:
    """What is known of the caller, under the names that a token's claims have in Azure's log."""
    kinds = {"User": "user", "ServicePrincipal": "app"}
    claims = {
        f"{_CLAIMS}/objectidentifier": caller.object_id,
        f"{_CLAIMS}/tenantid": caller.tenant_id,
        _UPN: caller.user_principal_name,
        "appid": caller.app_id,
        "idtyp": kinds.get(caller.kind or ""),
    }
    return {name: value for name, value in claims.items() if value is not None}


def _properties(event: Event) -> dict[str, str]:
    properties = {"entity": event.scope, "message": event.operation_name}
    if event.status_code is not None:
        properties["statusCode"] = _phrase(event.status_code)
    if event.error_code is not None:
        properties["errorCode"] = event.error_code
    if event.count > 1:
        properties["count"] = str(event.count)
    return properties


def _type(name: str) -> str:
    """The resource type that an operation is of."""
    parts = name.split("/")
    return "/".join(parts[: -2 if parts[-1] == "action" and len(parts) > 3 else -1])


def _sub_status(code: int | None) -> dict[str, str]:
    if code is None:
        return _text("")
    phrase = _phrase(code)
    return _text(phrase, f"{phrase} (HTTP Status Code: {code})")


def _phrase(code: int) -> str:
    return HTTPStatus(code).phrase.replace(" ", "") if code in set(HTTPStatus) else str(code)
