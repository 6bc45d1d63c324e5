"""Long-running operations: a row that clients poll, and the durable workflow that does the work.

The row is written in the transaction that writes the resource; the workflow starts after it, under
the operation's id. DBOS answers an id it knows with the old run, so starting twice does no harm:
`resume` starts every unfinished operation again when a server starts.
Source: Azure Resource Manager, asynchronous operations.
"""

import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import structlog
from dbos import DBOS, SetWorkflowID
from sqlalchemy import Column, Connection, Index, String, Table, insert, select, update

from opengallery.activity_log.events import Origin
from opengallery.arm import auditing, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Registry, ResourceType
from opengallery.arm.resources import Resource
from opengallery.arm.sealed import seal, unseal
from opengallery.arm.services import Services
from opengallery.database import Json, UtcDateTime, metadata, now
from opengallery.identity.principal import Principal

log = structlog.get_logger()
T = TypeVar("T")

IN_PROGRESS, SUCCEEDED, FAILED, CANCELED = "InProgress", "Succeeded", "Failed", "Canceled"
_SEALED = "$sealed"

operations = Table(
    "operations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("resource_id", String, nullable=False),
    Column("resource_key", String, nullable=False),
    Column("verb", String, nullable=False),
    Column("input", Json, nullable=False),
    Column("principal", Json, nullable=False),
    Column("base_url", String, nullable=False),
    Column("status", String, nullable=False),
    Column("output", Json, nullable=True),
    Column("error", Json, nullable=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime, nullable=True),
    Column("origin", Json, nullable=True),
    Index("ix_operations_resource_status", "resource_key", "status"),
    Index("ix_operations_status", "status"),
)


@dataclass
class Operation:
    """One long-running operation. `verb` is PUT, DELETE, or an action's name; `origin` the request it goes back to."""

    resource_id: str
    resource_key: str
    verb: str
    input: dict[str, Any]
    principal: dict[str, Any]
    base_url: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = IN_PROGRESS
    output: Any = None
    error: dict[str, Any] | None = None
    started_at: datetime = field(default_factory=now)
    ended_at: datetime | None = None
    origin: dict[str, Any] | None = None

    def view(self) -> dict[str, Any]:
        """The operation as `Azure-AsyncOperation` answers it."""
        body: dict[str, Any] = {
            "id": self.id,
            "name": self.id,
            "status": self.status,
            "startTime": self.started_at.isoformat(),
        }
        if self.ended_at:
            body["endTime"] = self.ended_at.isoformat()
        if self.error:
            body["error"] = self.error
        if self.output is not None:
            body["properties"] = {"output": self.output}
        return body


@dataclass(frozen=True)
class _Runtime:
    services: Services
    registry: Registry


_runtime: _Runtime | None = None


def bind(services: Services, registry: Registry) -> None:
    """Give the workflows what they work with; before `DBOS.launch()`."""
    global _runtime
    _runtime = _Runtime(services, registry)


class Work:
    """What `fulfil` and `remove` of a resource type get: one operation, and durable steps."""

    def __init__(self, operation: Operation, runtime: _Runtime) -> None:
        self.operation = operation
        self.services = runtime.services
        self.registry = runtime.registry
        self.id = ResourceId.parse(operation.resource_id)
        self.key = operation.resource_key
        self.principal = msgspec.convert(operation.principal, Principal)
        self.origin = msgspec.convert(operation.origin, Origin) if operation.origin else Origin()

    def step(self, name: str, function: Callable[..., T], *arguments: Any) -> T:
        """Run `function` as one durable step: its result is kept, and not computed again after a crash.

        What fails while the server ends is not kept: the next server does the step again.
        """

        def attempt() -> T:
            try:
                return function(*arguments)
            except Exception:
                if self.services.closing.is_set():
                    _park()
                raise

        return DBOS.run_step({"name": name}, attempt)

    def sealed_step(self, name: str, function: Callable[..., Any], *arguments: Any) -> dict[str, str]:
        """Run `function` as one durable step whose result is a secret, such as a URL to write to.

        What comes is sealed, for an operation's output: `get` opens it, and no database holds it in clear.
        """
        settings = self.services.settings
        return self.step(name, lambda: {_SEALED: seal(settings, function(*arguments))})

    def is_canceled(self) -> bool:
        """Whether the resource is being deleted, so that this work is for nothing."""
        with self.services.database.read() as connection:
            return not is_running(connection, self.operation.id)

    def resource(self) -> Resource:
        """The resource as it stands. Raises `ArmError` when it has been deleted meanwhile."""
        with self.services.database.read() as connection:
            found = resources.get(connection, self.key)
        if found is None:
            raise ArmError("OperationPreempted", f"'{self.id}' was deleted meanwhile.", status=409)
        return found

    def change(self, **properties: Any) -> None:
        """Set members of the resource's properties, in a transaction of its own."""
        with self.services.database.write() as connection:
            resources.change_properties(connection, self.key, **properties)

    def change_private(self, **members: Any) -> None:
        """Set members of what the resource keeps and never shows, in a transaction of its own."""
        with self.services.database.write() as connection:
            resources.change_private(connection, self.key, **members)

    def call(self, connection: Connection) -> Call:
        """A call in the name of who started the operation."""
        return Call(
            connection,
            self.principal,
            self.services,
            self.registry,
            base_url=self.operation.base_url,
            origin=self.origin,
        )


def call_as(connection: Connection, principal: Principal) -> Call:
    """A call in the name of `principal` that no request asks for: the server does it by itself."""
    assert _runtime is not None, "operations.bind was not called"
    services = _runtime.services
    return Call(connection, principal, services, _runtime.registry, base_url=services.settings.endpoint)


def begin(call: Call, resource_id: ResourceId, verb: str, body: dict[str, Any] | None = None) -> Operation:
    """Write the row of a new operation in the call's transaction; `launch` it after the commit."""
    operation = Operation(
        str(resource_id),
        resource_id.key,
        verb,
        body or {},
        msgspec.to_builtins(call.principal),
        call.base_url,
        origin=asdict(call.origin),
    )
    call.connection.execute(insert(operations).values(operation.__dict__))
    return operation


def launch(operation_id: str) -> None:
    """Start the operation's workflow, unless it has been started before."""
    with SetWorkflowID(operation_id):
        DBOS.start_workflow(carry_out, operation_id)


def resume(services: Services) -> None:
    """Start what was left unfinished by a server that ended; after `DBOS.launch()`."""
    with services.database.read() as connection:
        unfinished = select(operations.c.id).where(operations.c.status == IN_PROGRESS)
        for operation_id in connection.execute(unfinished).scalars().all():
            launch(operation_id)


def get(connection: Connection, operation_id: str) -> Operation | None:
    """The operation with this id, or None."""
    row = connection.execute(select(operations).where(operations.c.id == operation_id.lower())).first()
    if row is None:
        return None
    operation = Operation(**row._asdict())
    if _runtime is not None and isinstance(operation.output, dict) and operation.output.keys() == {_SEALED}:
        operation.output = unseal(_runtime.services.settings, operation.output[_SEALED])
    return operation


def is_running(connection: Connection, operation_id: str) -> bool:
    """Whether an operation has neither ended nor been canceled."""
    query = select(operations.c.status).where(operations.c.id == operation_id)
    return bool(connection.execute(query).scalar() == IN_PROGRESS)


def running(connection: Connection, key: str) -> Operation | None:
    """The unfinished PUT or DELETE of a resource, if there is one."""
    row = connection.execute(
        select(operations).where(operations.c.resource_key == key, operations.c.status == IN_PROGRESS)
    ).first()
    return Operation(**row._asdict()) if row else None


def last_error(connection: Connection, key: str) -> dict[str, Any] | None:
    """Return why the last operation on a resource failed; None when it did not."""
    query = (
        select(operations.c.error)
        .where(operations.c.resource_key == key, operations.c.ended_at.is_not(None))
        .order_by(operations.c.ended_at.desc())
        .limit(1)
    )
    return connection.scalar(query)


def cancel(
    connection: Connection,
    key: str,
    reason: str = "The operation was canceled because the resource is being deleted.",
) -> None:
    """Mark the unfinished operations of a resource `Canceled`: their result counts no more."""
    error = {"code": "OperationPreempted", "message": reason}
    canceled = connection.execute(
        update(operations)
        .where(operations.c.resource_key == key, operations.c.status == IN_PROGRESS)
        .values(status=CANCELED, ended_at=now(), error=error)
        .returning(operations.c.id)
    )
    for operation_id in canceled.scalars().all():
        _record_end(connection, get(connection, operation_id))


def _record_end(connection: Connection, operation: Operation | None) -> None:
    """Record how an operation ended, in the transaction that says so in its row."""
    if _runtime is not None and operation is not None:
        event = auditing.ended(operation, _runtime.registry)
        _runtime.services.activity_log.record(connection, event)


def wait(services: Services, operation_id: str) -> Operation:
    """Wait until the operation has ended. For use inside a step: polls the row."""
    pause = threading.Event()
    while True:
        with services.database.read() as connection:
            operation = get(connection, operation_id)
        if operation is None:
            raise ArmError("NotFound", f"Operation '{operation_id}' is unknown.", status=404)
        if operation.status != IN_PROGRESS:
            return operation
        if services.closing.is_set():
            _park()
        pause.wait(0.2)


@DBOS.workflow(name="arm.carry_out", max_recovery_attempts=None)
def carry_out(operation_id: str) -> None:
    """Do one operation's work, then write how it ended into its row and its resource's."""
    runtime = _runtime
    if runtime is None:
        raise RuntimeError("operations.bind was not called")
    with runtime.services.database.read() as connection:
        operation = get(connection, operation_id)
    if operation is None or operation.status != IN_PROGRESS:
        return
    work = Work(operation, runtime)
    error: dict[str, Any] | None = None
    output: Any = None
    try:
        output = _handler(work)
    except ArmError as refusal:
        error = refusal.error()
    except Exception as failure:
        if runtime.services.closing.is_set():
            _park()
        log.exception("operation failed", operation=operation_id, resource=operation.resource_id)
        error = {
            "code": "InternalOperationError",
            "message": f"The server failed with {type(failure).__name__} ({failure}). Its log says more; "
            "send the request again to try once more.",
        }
    work.step("finish", _finish, runtime, operation_id, error, output)


def _handler(work: Work) -> Any:
    declared = work.registry.find(work.id.type)
    if declared is None:
        raise ArmError("InvalidResourceType", f"'{work.id.type}' is not known to this server any more.")
    verb = work.operation.verb
    if verb == "PUT":
        return declared.fulfil(work) if declared.fulfil else None
    if verb == "DELETE":
        return _remove(work, declared) if declared.remove else None
    fulfil = declared.actions[verb].fulfil
    return fulfil(work) if fulfil else None


def _remove(work: Work, declared: ResourceType) -> None:
    """Delete; and again when work that was canceled has ended, for it may have made something meanwhile."""
    assert declared.remove is not None
    canceled = work.step("find canceled work", _canceled_work, work)
    declared.remove(work)
    if canceled:
        work.step("wait for canceled work", _wait_for_end, work, canceled)
        declared.remove(work)


def _canceled_work(work: Work) -> list[str]:
    """The canceled operations of the resource whose workflows, or the workflows of these, still run."""
    with work.services.database.read() as connection:
        query = select(operations.c.id).where(
            operations.c.resource_key == work.key, operations.c.status == CANCELED
        )
        canceled = connection.scalars(query).all()
    return [operation_id for operation_id in canceled if _is_at_work(operation_id)]


def _is_at_work(operation_id: str) -> bool:
    """A workflow's id begins with that of the workflow that started it."""
    found = DBOS.list_workflows(
        workflow_id_prefix=operation_id,
        status=["PENDING", "ENQUEUED", "DELAYED"],
        limit=1,
        load_input=False,
        load_output=False,
    )
    return bool(found)


def _wait_for_end(work: Work, operation_ids: list[str]) -> None:
    pause = threading.Event()
    while any(_is_at_work(operation_id) for operation_id in operation_ids):
        if work.services.closing.is_set():
            _park()
        pause.wait(0.2)


def _finish(runtime: _Runtime, operation_id: str, error: dict[str, Any] | None, output: Any) -> None:
    with runtime.services.database.write() as connection:
        ended = connection.execute(
            update(operations)
            .where(operations.c.id == operation_id, operations.c.status == IN_PROGRESS)
            .values(status=FAILED if error else SUCCEEDED, error=error, output=output, ended_at=now())
        )
        operation = get(connection, operation_id)
        if ended.rowcount == 0 or operation is None:
            return
        _record_end(connection, operation)
        if operation.verb == "DELETE" and not error:
            resources.forget(connection, operation.resource_key)
        elif operation.verb in ("PUT", "DELETE"):
            state = resources.FAILED if error else resources.SUCCEEDED
            resources.set_state(connection, operation.resource_key, state)


def _park() -> None:
    """Stay here until the process ends: the next server takes the workflow up where it stands."""
    threading.Event().wait()
