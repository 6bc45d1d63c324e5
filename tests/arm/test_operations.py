"""Long-running operations as clients poll them: state, result, and who is told."""

import uuid
from typing import Any

import pytest

from opengallery.arm import access, operations
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import ResourceId
from opengallery.identity.directory import find_principal
from opengallery.providers import load_registry

from ..providers.conftest import Api
from .conftest import Newcomer
from .galleries import COMPUTE, VERSION, full_id, gallery

BASE = f"{COMPUTE}/locations/global"


def written(api: Api, path: str, verb: str, status: str = "Succeeded", **ended: Any) -> str:
    """An operation of the administrator as the database has it; its id."""
    with api.services.database.write() as connection:
        principal = find_principal(connection, api.first.object_id)
        assert principal is not None
        call = Call(connection, principal, api.services, load_registry(), base_url="https://testserver")
        operation = operations.begin(call, ResourceId.parse(full_id(api, path)), verb)
        table = operations.operations
        ended = {"status": status, **ended}
        connection.execute(table.update().where(table.c.id == operation.id).values(**ended))
    return operation.id


def state_of(operation: str) -> str:
    """The path of its state."""
    return f"{BASE}/operations/{operation}?{VERSION}"


def result_of(operation: str) -> str:
    """The path of its result."""
    return f"{BASE}/operationResults/{operation}?{VERSION}"


def test_a_running_operation_says_when_to_ask_again(api: Api) -> None:
    path = gallery(api, api.group("running"))
    operation = written(api, path, "DELETE", "InProgress")
    state = api.ask("GET", state_of(operation))
    assert (state.status_code, state.json()["status"]) == (200, "InProgress")
    assert state.headers["Retry-After"] == "1"
    assert "endTime" not in state.json() and "error" not in state.json()
    result = api.ask("GET", result_of(operation))
    assert (result.status_code, result.content) == (202, b"")
    assert result.headers["Retry-After"] == "1"
    assert operation in result.headers["Location"] and operation in result.headers["Azure-AsyncOperation"]
    status, code, message = api.refused("PUT", path, {"location": "westcentralus"})
    assert (status, code) == (409, "Conflict")
    assert operation in message
    assert api.ask("DELETE", path).headers["Location"] == result.headers["Location"]
    with api.services.database.write() as connection:
        operations.cancel(connection, full_id(api, path).lower())
    assert api.get(state_of(operation))["status"] == "Canceled"


@pytest.mark.parametrize("kind", ["operations", "operationStatuses", "OPERATIONS"])
def test_a_state_has_several_addresses(api: Api, kind: str) -> None:
    operation = written(api, f"{api.group('states')}/{COMPUTE}/disks/d", "PUT")
    found = api.get(f"{BASE}/{kind}/{operation.upper()}?{VERSION}")
    assert (found["name"], found["status"]) == (operation, "Succeeded")


def test_a_result_is_the_resource_the_output_or_nothing(api: Api) -> None:
    path = gallery(api, api.group("results"))
    assert api.get(result_of(written(api, path, "PUT")))["id"] == full_id(api, path)
    assert api.ask("GET", result_of(written(api, path, "DELETE"))).status_code == 204
    assert api.get(result_of(written(api, path, "POST", output={"a": 1}))) == {"a": 1}
    empty = api.ask("GET", result_of(written(api, path, "POST")))
    assert (empty.status_code, empty.content) == (200, b"")


def test_a_failure_is_told_by_state_and_result(api: Api) -> None:
    error = ArmError("Broken", "It broke. Mend it.", target="t", details=[ArmError("Deep", "down")]).error()
    operation = written(api, f"{api.group('failures')}/{COMPUTE}/disks/d", "PUT", "Failed", error=error)
    assert api.get(state_of(operation))["error"] == error
    answer = api.ask("GET", result_of(operation))
    assert (answer.status_code, answer.json()) == (409, {"error": error})


def test_an_operation_is_shown_to_who_may_see_it(api: Api, newcomer: Newcomer) -> None:
    group, other = api.group("mine"), api.group("theirs")
    disk = f"{group}/{COMPUTE}/disks/d"
    secret = {"accessSAS": "https://secret"}
    operation = written(api, disk, "beginGetAccess", output=secret)
    state, result = state_of(operation), result_of(operation)
    assert api.get(state)["properties"] == {"output": secret}
    assert api.get(result) == secret
    reader = newcomer((access.READER, full_id(api, group)))
    shown = reader.get(state)
    assert (shown["status"], shown["name"]) == ("Succeeded", operation)
    assert "secret" not in reader.ask("GET", state).text + reader.ask("GET", result).text
    owner = newcomer((access.CONTRIBUTOR, full_id(api, group)))
    assert owner.get(result) == secret
    unknown = f"{BASE}/operations/{uuid.uuid4()}?{VERSION}"
    stranger = newcomer((access.READER, full_id(api, other)))
    denied = stranger.refused("GET", state)
    assert denied[:2] == (403, "AuthorizationFailed")
    assert stranger.refused("GET", unknown) == denied
    for path in (
        unknown,
        f"{BASE}/operations/x?{VERSION}",
        unknown.replace("operations", "operationResults"),
    ):
        assert api.refused("GET", path)[:2] == (404, "NotFound")
    elsewhere = f"/subscriptions/{api.first.second_subscription_id}/{state}"
    assert api.refused("GET", elsewhere)[:2] == (404, "NotFound")
