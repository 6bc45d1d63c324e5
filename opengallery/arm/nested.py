"""Nested: one operation makes or deletes other resources, in the name of who asked for it.

Each function is one durable step: done again after a crash, it finds its own earlier work and waits for that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opengallery.arm import auditing, handling, operation_names, operations
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import check_api_version


def put(work: Work, resource_id: ResourceId, api_version: str | None, body: dict[str, Any]) -> str | None:
    """PUT a resource. Returns the id of its operation for `wait`, None when it was done at once.

    Raises `ArmError` when the resource is refused. `api_version` None: not checked.
    """
    operation_id = work.step(f"put {resource_id}", _put, work, str(resource_id), api_version, body)
    return _launched(operation_id)


def _put(work: Work, resource_id: str, api_version: str | None, body: dict[str, Any]) -> str | None:
    if work.is_canceled():
        raise ArmError("OperationPreempted", f"'{work.id}' is being deleted.", status=409)
    target = ResourceId.parse(resource_id)
    declared = work.registry.require(target.type, api_version)
    if api_version is not None:
        check_api_version(declared, api_version, None)
    with _noting_refusal(work, target, "PUT"), work.services.database.write() as connection:
        under_way = operations.running(connection, target.key)
        if under_way is not None and under_way.input.get("parent") == work.operation.id:
            answer = handling.Answer(200, operation=under_way)
        else:
            call = work.call(connection)
            answer = handling.put(call, declared, target, body, parent=work.operation.id)
            record(call, target, "PUT", answer)
    return answer.operation.id if answer.operation else None


def delete(work: Work, resource_id: str) -> str | None:
    """DELETE a resource. Returns the id of its operation for `wait`, None when it is gone already."""
    return _launched(work.step(f"delete {resource_id}", _delete, work, resource_id))


def _delete(work: Work, resource_id: str) -> str | None:
    target = ResourceId.parse(resource_id)
    declared = work.registry.require(target.type, None)
    with _noting_refusal(work, target, "DELETE"), work.services.database.write() as connection:
        call = work.call(connection)
        found = call.get(target)
        answer = handling.delete(call, declared, target)
        record(call, found.id if found else target, "DELETE", answer)
        under_way = answer.operation or operations.running(connection, target.key)
    return under_way.id if under_way else None


def record(call: Call, target: ResourceId, method: str, answer: handling.Answer) -> None:
    """Record what an operation did to another resource, in the name of who started the operation."""
    what = operation_names.of_resource(target, method)
    auditing.record(call, what, method, answer.status, answer.operation)


@contextmanager
def _noting_refusal(work: Work, target: ResourceId, method: str) -> Iterator[None]:
    """Record, when the block is refused, that it was: with its transaction, nothing else is left of it."""
    try:
        yield
    except ArmError as refusal:
        what = operation_names.of_resource(target, method)
        event = auditing.failure(what, method, work.principal, work.origin, refusal)
        work.services.activity_log.offer(event)
        raise


def _launched(operation_id: str | None) -> str | None:
    """A step can't start a workflow; the workflow that calls the step can."""
    if operation_id is not None:
        operations.launch(operation_id)
    return operation_id


def wait(work: Work, operation_id: str | None) -> None:
    """Wait until a nested operation has ended. Raises its error as `ArmError`."""
    if operation_id is not None:
        error = work.step(f"wait {operation_id}", _wait, work, operation_id)
        if error is not None:
            raise ArmError.from_error(error)


def _wait(work: Work, operation_id: str) -> dict[str, Any] | None:
    return operations.wait(work.services, operation_id).error
