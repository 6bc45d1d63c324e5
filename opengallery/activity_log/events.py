"""Events: one row of the activity log for each write and for each refused request.

`record` writes an event in the transaction of what it tells of, so that neither is there without the other. A
trigger refuses to change a row; only `rotation` deletes some. No member of an event holds a body, a query, a
token or another secret: texts are names and ids, in bounded length.
"""

import uuid
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    Row,
    String,
    Table,
    event,
    insert,
)

from opengallery.database import Json, UtcDateTime, metadata, now

ACCEPTED, SUCCEEDED, FAILED, CANCELED = "Accepted", "Succeeded", "Failed", "Canceled"
"""How it stands: begun, and to be followed by another event with the same operation id; or how it ended."""

SCOPE_LENGTH_MAX = 2048
NAME_LENGTH_MAX = 256

activity_events = Table(
    "activity_events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False),
    Column("tenant_id", String(36), nullable=False),
    Column("subscription", String(36), nullable=True),
    Column("resource_group", String(NAME_LENGTH_MAX), nullable=True),
    Column("scope", String(SCOPE_LENGTH_MAX), nullable=False),
    Column("scope_key", String(SCOPE_LENGTH_MAX), nullable=False),
    Column("operation_name", String(NAME_LENGTH_MAX), nullable=False),
    Column("provider", String(NAME_LENGTH_MAX), nullable=False),
    Column("status", String(16), nullable=False),
    Column("correlation_id", String(36), nullable=False),
    Column("operation_id", String(36), nullable=False),
    Column("object_id", String(36), nullable=True),
    Column("app_id", String(36), nullable=True),
    Column("user_principal_name", String(NAME_LENGTH_MAX), nullable=True),
    Column("details", Json, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("happened_at", UtcDateTime, nullable=False),
    Index("ix_activity_events_log_time", "tenant_id", "subscription", "happened_at"),
    Index("ix_activity_events_time", "happened_at"),
    Index("ix_activity_events_correlation", "correlation_id"),
)

_REFUSAL = "the activity log is only appended to"
event.listen(
    activity_events,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "create trigger activity_events_stay before update on activity_events "
        f"begin select raise(abort, '{_REFUSAL}'); end"
    ).execute_if(dialect="sqlite"),
)
event.listen(
    activity_events,
    "after_create",
    DDL(  # type: ignore[no-untyped-call]
        "create or replace function activity_events_stay() returns trigger language plpgsql as "
        f"$$ begin raise exception '{_REFUSAL}'; end $$; "
        "create trigger activity_events_stay before update on activity_events "
        "for each row execute function activity_events_stay()"
    ).execute_if(dialect="postgresql"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asked, as far as it is known: of a request without a right token nothing is."""

    object_id: str | None = None
    app_id: str | None = None
    user_principal_name: str | None = None
    kind: str | None = None
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The request that something goes back to; what the server does by itself has no address.

    `correlation_id` is shared by all that one request leads to, `request_id` is this request's own.
    """

    correlation_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    client_request_id: str | None = None
    address: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. `operation_name` is that of Azure (`Microsoft.Compute/galleries/write`), `scope` a resource's id.

    `tenant_id` and `subscription` say in whose log it stands; without a subscription it is the tenant's own.
    `count` is above 1 where events like it were counted instead of kept.
    """

    operation_name: str
    scope: str
    status: str
    caller: Caller
    origin: Origin
    tenant_id: str = ""
    subscription: str | None = None
    method: str | None = None
    status_code: int | None = None
    error_code: str | None = None
    operation_id: str | None = None
    description: str = ""
    count: int = 1
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    happened_at: datetime = field(default_factory=now)


def record(connection: Connection, *events: Event) -> None:
    """Write events in the transaction of `connection`. Each has to name its tenant."""
    if events:
        connection.execute(insert(activity_events), [_values(one) for one in events])


def event_of(row: Row[Any]) -> Event:
    """The event of a row."""
    details = dict(row.details)
    caller = Caller(
        object_id=row.object_id,
        app_id=row.app_id,
        user_principal_name=row.user_principal_name,
        kind=details.pop("kind"),
        tenant_id=details.pop("caller_tenant_id"),
    )
    origin = Origin(correlation_id=row.correlation_id, **details.pop("origin"))
    return Event(
        operation_name=row.operation_name,
        scope=row.scope,
        status=row.status,
        caller=caller,
        origin=origin,
        tenant_id=row.tenant_id,
        subscription=row.subscription,
        operation_id=row.operation_id,
        id=row.id,
        happened_at=row.happened_at,
        **details,
    )


def _values(one: Event) -> dict[str, Any]:
    scope = shown(one.scope, SCOPE_LENGTH_MAX)
    origin = asdict(one.origin)
    correlation_id = origin.pop("correlation_id")
    details = {
        "caller_tenant_id": one.caller.tenant_id,
        "kind": one.caller.kind,
        "method": one.method,
        "status_code": one.status_code,
        "error_code": one.error_code,
        "description": one.description,
        "count": one.count,
        "origin": origin,
    }
    values = {
        "id": one.id,
        "tenant_id": one.tenant_id,
        "subscription": one.subscription.lower() if one.subscription else None,
        "resource_group": _resource_group(scope),
        "scope": scope,
        "scope_key": scope.lower()[:SCOPE_LENGTH_MAX],
        "operation_name": shown(one.operation_name, NAME_LENGTH_MAX),
        "provider": shown(one.operation_name, NAME_LENGTH_MAX).partition("/")[0].lower(),
        "status": one.status,
        "correlation_id": correlation_id,
        "operation_id": one.operation_id or one.origin.request_id,
        "object_id": one.caller.object_id,
        "app_id": one.caller.app_id,
        "user_principal_name": one.caller.user_principal_name,
        "details": details,
    }
    size_bytes = sum(len(str(value)) for value in values.values())
    return {**values, "size_bytes": size_bytes, "happened_at": one.happened_at}


def shown(text: str, length_max: int) -> str:
    """`text` as it can be kept and shown: without control characters, and not too long."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:length_max])


def _resource_group(scope: str) -> str | None:
    parts = scope.lower().split("/")
    if len(parts) > 4 and parts[3] == "resourcegroups":
        return parts[4][:NAME_LENGTH_MAX]
    return None
