"""Auditing: what a request, or a part of an operation, becomes in the activity log.

Whoever calls `handling` to write in somebody's name says so here: `http` for each request, `nested` and the
providers for what operations do. How an operation ended is recorded with the operation's row.
"""

import uuid
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy import Connection, select
from starlette.requests import Request

from opengallery.activity_log import events
from opengallery.activity_log.events import Caller, Event, Origin, shown
from opengallery.arm.errors import ArmError
from opengallery.arm.operation_names import Named
from opengallery.arm.resource_id import ResourceId
from opengallery.identity.directory import find_subscription, list_tenants
from opengallery.identity.first_start import read_first_start
from opengallery.identity.principal import Principal
from opengallery.identity.users import users

if TYPE_CHECKING:
    from opengallery.arm.call import Call
    from opengallery.arm.operations import Operation
    from opengallery.arm.resource_type import Registry

READS = ("GET", "HEAD")
_URL_LENGTH_MAX = 2048


class Placement:
    """Finds out in whose log an event stands: that of its subscription's tenant, else that of its caller's.

    What belongs to no tenant, such as a request without a token for no subscription of ours, stands in the log
    of the first one.
    """

    def __init__(self, data: Path) -> None:
        """`data` is the data folder, which knows the first tenant."""
        self._data = data

    def __call__(self, connection: Connection, event: Event) -> Event:
        """The event with its tenant, its subscription if there is such, and its caller's name."""
        caller = event.caller
        if caller.kind == "User" and caller.user_principal_name is None:
            name = connection.scalar(
                select(users.c.user_principal_name).where(users.c.object_id == caller.object_id)
            )
            caller = replace(caller, user_principal_name=name)
        subscription = find_subscription(connection, event.subscription) if event.subscription else None
        is_known = event.tenant_id in dict(list_tenants(connection))
        tenant_id = event.tenant_id if is_known else caller.tenant_id or self._first_tenant_id
        return replace(
            event,
            caller=caller,
            tenant_id=subscription.tenant_id if subscription else tenant_id,
            subscription=subscription.subscription_id if subscription else None,
        )

    @cached_property
    def _first_tenant_id(self) -> str:
        first = read_first_start(self._data)
        return first.tenant_id if first else ""


def caller_of(principal: Principal | None) -> Caller:
    """The caller as the log keeps it."""
    if principal is None:
        return Caller()
    return Caller(
        object_id=principal.object_id,
        app_id=principal.app_id,
        kind=principal.kind,
        tenant_id=principal.tenant_id,
    )


def origin_of(request: Request) -> Origin:
    """Where a request comes from. Of its ids only UUIDs are taken, and of its URL not the query."""
    request_id = str(uuid.uuid4())
    url = f"{str(request.base_url).rstrip('/')}{request.url.path}"
    return Origin(
        correlation_id=_uuid(request.headers.get("x-ms-correlation-request-id")) or request_id,
        request_id=request_id,
        client_request_id=_uuid(request.headers.get("x-ms-client-request-id")),
        address=request.client.host if request.client else None,
        url=shown(url, _URL_LENGTH_MAX),
    )


def record(
    call: "Call", what: Named, method: str, status_code: int, operation: "Operation | str | None" = None
) -> None:
    """Record a write in its own transaction. `operation` is what goes on after it, or that one's id."""
    operation_id = operation if operation is None or isinstance(operation, str) else operation.id
    call.services.activity_log.record(
        call.connection,
        Event(
            operation_name=what.operation,
            scope=what.scope,
            subscription=what.subscription,
            status=events.ACCEPTED if operation is not None or status_code == 202 else events.SUCCEEDED,
            caller=caller_of(call.principal),
            origin=call.origin,
            method=method,
            status_code=status_code,
            operation_id=operation_id,
        ),
    )


def failure(what: Named, method: str, principal: Principal | None, origin: Origin, error: ArmError) -> Event:
    """The event of a request, or a part of an operation, that was refused or failed."""
    return Event(
        operation_name=what.operation,
        scope=what.scope,
        subscription=what.subscription,
        status=events.FAILED,
        caller=caller_of(principal),
        origin=origin,
        method=method,
        status_code=error.status,
        error_code=error.code,
    )


def ended(operation: "Operation", registry: "Registry") -> Event:
    """The event of an operation that has ended, as its row says."""
    resource_id = ResourceId.parse(operation.resource_id)
    return Event(
        operation_name=_name(operation, resource_id, registry),
        scope=operation.resource_id,
        subscription=resource_id.subscription,
        status=operation.status,
        caller=caller_of(msgspec.convert(operation.principal, Principal)),
        origin=msgspec.convert(operation.origin, Origin) if operation.origin else Origin(),
        error_code=operation.error["code"] if operation.error else None,
        operation_id=operation.id,
    )


def _name(operation: "Operation", resource_id: ResourceId, registry: "Registry") -> str:
    declared = registry.find(resource_id.type)
    if operation.verb in ("PUT", "DELETE"):
        return f"{resource_id.type}/{'write' if operation.verb == 'PUT' else 'delete'}"
    if declared is not None and operation.verb in declared.actions:
        return declared.actions[operation.verb].permission
    return f"{resource_id.type}/{operation.verb}/action"


def _uuid(text: str | None) -> str | None:
    try:
        return str(uuid.UUID(text)) if text and len(text) <= 64 else None
    except ValueError:
        return None
