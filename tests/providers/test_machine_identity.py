"""Identities of machines and scale sets: what is made, assigned and deleted, and whom tokens speak for."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import h11
import pytest

from opengallery.arm import roles
from opengallery.identity.directory import find_principal
from opengallery.identity.service_principals import MANAGED_IDENTITY, find_service_principal
from opengallery.providers.compute.metadata.service import MetadataService
from opengallery.providers.compute.metadata.streams import ANSWERS_PER_S, HEADER_MAX_BYTES, Stream

from .conftest import Api
from .images import (
    COMPUTE,
    REGION,
    definition,
    id_of,
    instances,
    machine_body,
    managed_image,
    scale_set_body,
    scale_set_in,
    version_body,
)
from .principals import people_of

IDENTITIES = "providers/Microsoft.ManagedIdentity/userAssignedIdentities"
TOKEN = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
SYSTEM = {"type": "SystemAssigned"}


@pytest.fixture(scope="module")
def version(server: Api) -> Iterator[str]:
    """A version to make machines of."""
    group = server.group("identified")
    server.groups.remove("identified")
    path = f"{definition(server, group)}/versions/1.0.0"
    server.put(path, version_body(server, managed_image(server, group, "image", 1), (REGION, 1)))
    yield path
    server.delete(group)


@pytest.fixture
def make(api: Api, version: str) -> Callable[..., str]:
    """Makes a machine with an identity in the group of the test; its path."""
    group = api.group("machines")

    def create(identity: Any, name: str = "vm") -> str:
        path = f"{group}/{COMPUTE}/virtualMachines/{name}"
        api.put(path, {**machine_body(api, version), "identity": identity})
        return path

    return create


def user_assigned(api: Api, name: str) -> dict[str, Any]:
    """A new identity in the group of the test."""
    found: dict[str, Any] = api.put(
        f"resourceGroups/machines/{IDENTITIES}/{name}?api-version=2024-11-30", {"location": REGION}
    )
    return found


def patch(api: Api, path: str, identity: Any) -> dict[str, Any]:
    """PATCH the identity as az does; the identity afterwards."""
    answer = api.ask("PATCH", path, {"identity": identity})
    assert answer.status_code in (200, 202), answer.text
    api.finish(answer)
    found: dict[str, Any] = api.get(path).get("identity", {})
    return found


def exists(api: Api, principal_id: str) -> bool:
    """Whether the directory has the principal."""
    with api.services.database.read() as connection:
        return find_principal(connection, principal_id) is not None


def service(api: Api) -> MetadataService:
    """The metadata service of the server."""
    return MetadataService(api.services, api.client.app.state.issue)  # type: ignore[attr-defined]


def ask(api: Api, machine: str, target: str = TOKEN, **headers: str) -> tuple[int, Any]:
    """Status and body of what a machine's guest is answered."""
    sent = {"metadata": "true"} | {name.replace("_", "-"): value for name, value in headers.items()}
    found = service(api).answer(id_of(api, machine).lower(), "GET", target, sent.items())
    is_json = found.content_type.startswith("application/json")
    return found.status, json.loads(found.body) if is_json else found.body.decode()


def speaks_for(api: Api, machine: str, choice: str = "") -> Any:
    """The object id of the token that a guest gets, as the server understands it."""
    status, body = ask(api, machine, f"{TOKEN}{choice}")
    assert status == 200, body
    answer = api.client.get(
        api.url("resourceGroups/machines"), headers={"Authorization": f"Bearer {body['access_token']}"}
    )
    assert answer.status_code == 403
    return answer.json()["error"]["message"].partition("object id '")[2].partition("'")[0]


def test_a_machine_is_made_with_its_identity_and_takes_it_along(api: Api, version: str, make: Any) -> None:
    machine = make(SYSTEM)
    identity = api.get(machine)["identity"]
    assert identity == {
        "type": "SystemAssigned",
        "principalId": identity["principalId"],
        "tenantId": api.first.tenant_id,
    }
    with api.services.database.read() as connection:
        found = find_service_principal(connection, api.first.tenant_id, identity["principalId"])
    assert found is not None
    assert (found.type, found.display_name) == (MANAGED_IDENTITY, "vm")
    assert found.details["alternativeNames"] == ["isExplicit=False", id_of(api, machine)]
    assert patch(api, machine, SYSTEM) == identity
    api.put(machine, machine_body(api, version))
    assert api.get(machine)["identity"] == identity
    api.delete(machine)
    assert not exists(api, identity["principalId"])


def test_a_principal_that_a_client_names_is_not_taken(api: Api, make: Any) -> None:
    machine = make({**SYSTEM, "principalId": api.first.object_id, "tenantId": "another"})
    identity = api.get(machine)["identity"]
    assert identity["principalId"] != api.first.object_id
    assert identity["tenantId"] == api.first.tenant_id


def test_a_refused_machine_leaves_no_identity_behind(api: Api, version: str, make: Any) -> None:
    body = machine_body(api, version)
    body["properties"]["networkProfile"] = {"networkInterfaces": [{"id": id_of(api, "resourceGroups/no")}]}
    path = f"resourceGroups/machines/{COMPUTE}/virtualMachines/refused"
    api.refused("PUT", path, {**body, "identity": SYSTEM})
    with api.services.database.read() as connection:
        names = connection.exec_driver_sql("SELECT display_name FROM principals").scalars().all()
    assert "refused" not in names


def test_identities_come_and_go_as_az_asks(api: Api, make: Any) -> None:
    machine = make({"type": "None"})
    assert "identity" not in api.get(machine)
    worker, other = user_assigned(api, "worker"), user_assigned(api, "other")
    ids = {name: worker["properties"][name] for name in ("principalId", "clientId")}
    assigned = patch(
        api, machine, {"type": "UserAssigned", "userAssignedIdentities": {worker["id"].lower(): {}}}
    )
    assert assigned == {"type": "UserAssigned", "userAssignedIdentities": {worker["id"]: ids}}
    both = {"type": "SystemAssigned,UserAssigned", "userAssignedIdentities": {other["id"]: {}}}
    changed = patch(api, machine, both)
    assert changed["type"] == "SystemAssigned, UserAssigned"
    assert set(changed["userAssignedIdentities"]) == {worker["id"], other["id"]}
    principal = changed["principalId"]
    # az spells the one to be removed in lower case.
    removed = {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": {worker["id"].lower(): None}}
    assert set(patch(api, machine, removed)["userAssignedIdentities"]) == {other["id"]}
    left = patch(api, machine, {"type": "UserAssigned", "userAssignedIdentities": None})
    assert set(left) == {"type", "userAssignedIdentities"}
    assert not exists(api, principal)
    assert patch(api, machine, {"type": "None", "userAssignedIdentities": None}) == {}
    assert exists(api, other["properties"]["principalId"])


def test_the_link_comes_with_the_first_identity_and_goes_with_the_last(api: Api, make: Any) -> None:
    machine = make({"type": "None"})
    vm_id = api.get(machine)["properties"]["vmId"]
    parts = api.services.settings.data / "machines" / vm_id / "machine.json"
    links = [json.loads(parts.read_bytes())["has_metadata"]]
    for kind in ("SystemAssigned", "SystemAssigned", "None"):
        patch(api, machine, {"type": kind})
        links.append(json.loads(parts.read_bytes())["has_metadata"])
    assert links == [False, True, True, False]


def test_a_put_replaces_what_is_assigned(api: Api, version: str, make: Any) -> None:
    machine = make(SYSTEM)
    names = [user_assigned(api, name)["id"] for name in ("one", "two")]
    for name in names:
        identity = {"type": "UserAssigned", "userAssignedIdentities": {name: {}}}
        found = api.put(machine, {**machine_body(api, version), "identity": identity})["identity"]
        assert set(found["userAssignedIdentities"]) == {name}


@pytest.mark.parametrize(
    "identity",
    [
        {"type": "Everything"},
        {"type": "UserAssigned"},
        {"userAssignedIdentities": {}},
        {"type": "UserAssigned", "userAssignedIdentities": {"worker": {}}},
        {"type": "UserAssigned", "userAssignedIdentities": {"/subscriptions/x/resourceGroups/y": {}}},
        [],
    ],
)
def test_an_identity_that_is_none_is_refused(api: Api, version: str, make: Any, identity: Any) -> None:
    path = f"resourceGroups/machines/{COMPUTE}/virtualMachines/none"
    status, _, _ = api.refused("PUT", path, {**machine_body(api, version), "identity": identity})
    assert status == 400


def test_assigning_an_identity_needs_a_right_on_it(api: Api, version: str, make: Any) -> None:
    worker = user_assigned(api, "worker")
    machine = make({"type": "None"})
    scope = id_of(api, machine)
    body = {"identity": {"type": "UserAssigned", "userAssignedIdentities": {worker["id"]: {}}}}
    with people_of(api) as people:
        caller = people.person(api.first.subscription_id, (roles.CONTRIBUTOR, scope))
        status, code, message = caller.refused("PATCH", machine, body)
    assert (status, code) == (403, "LinkedAuthorizationFailed")
    assert "userAssignedIdentities/assign/action" in message
    assert "identity" not in api.get(machine)


def test_tokens_speak_for_the_identity_that_was_asked_for(api: Api, make: Any) -> None:
    worker, other = (user_assigned(api, name) for name in ("worker", "other"))
    machine = make({"type": "UserAssigned", "userAssignedIdentities": {worker["id"]: {}}})
    assert speaks_for(api, machine) == worker["properties"]["principalId"]
    names = {worker["id"]: {}, other["id"]: {}}
    patch(api, machine, {"type": "UserAssigned", "userAssignedIdentities": names})
    status, body = ask(api, machine)
    assert status == 400
    assert body["error_description"].startswith("Multiple user assigned identities exist")
    properties = other["properties"]
    for choice in (
        f"&client_id={properties['clientId'].upper()}",
        f"&object_id={properties['principalId']}",
        f"&mi_res_id={other['id']}",
        f"&msi_res_id={other['id'].upper()}",
    ):
        assert speaks_for(api, machine, choice) == properties["principalId"]
    identity = patch(api, machine, {"type": "SystemAssigned, UserAssigned", "userAssignedIdentities": names})
    assert speaks_for(api, machine) == identity["principalId"]
    # Made again under its name, it is another one, that nobody assigned.
    api.delete(f"{other['id']}?api-version=2024-11-30")
    assert not exists(api, properties["principalId"])
    user_assigned(api, "other")
    assert ask(api, machine, f"{TOKEN}&mi_res_id={other['id']}")[0] == 400


def test_a_token_has_the_form_of_azures(api: Api, make: Any) -> None:
    status, body = ask(api, make(SYSTEM))
    assert status == 200
    assert all(isinstance(value, str) for value in body.values())
    assert set(body) == {
        "access_token",
        "client_id",
        "expires_in",
        "expires_on",
        "ext_expires_in",
        "not_before",
        "resource",
        "token_type",
    }
    assert 0 < int(body["expires_in"]) <= 3600
    assert int(body["not_before"]) < int(body["expires_on"])


def test_what_the_metadata_service_refuses(api: Api, make: Any) -> None:
    machine = make(SYSTEM)
    bare = "/metadata/identity/oauth2/token?api-version=2018-02-01"
    refusals = [
        ask(api, machine, metadata="no"),
        ask(api, machine, x_forwarded_for="10.0.0.1"),
        ask(api, machine, bare),
        ask(api, machine, TOKEN.replace("api-version", "version")),
        ask(api, machine, f"{bare}&resource=https://graph.example"),
        ask(api, machine, f"{TOKEN}&client_id={api.first.app_id}"),
        ask(api, machine, f"{TOKEN}&object_id={api.first.object_id}"),
        ask(api, machine, f"{TOKEN}&client_id=a&object_id=b"),
        ask(api, machine, f"{TOKEN}{'&a=b' * 50}"),
        ask(api, machine, "http://[::1/metadata"),
    ]
    assert {status for status, _ in refusals} == {400}
    assert all(set(body) == {"error", "error_description"} for _, body in refusals)
    assert ask(api, machine, "/metadata/scheduledevents?api-version=2020-07-01")[0] == 404
    assert ask(api, "resourceGroups/machines/nobody")[0] == 404
    patch(api, machine, {"type": "None"})
    assert ask(api, machine) == (400, {"error": "invalid_request", "error_description": "Identity not found"})


def test_a_machine_is_described_without_its_secrets(api: Api, version: str, make: Any) -> None:
    machine = make(SYSTEM)
    secret = "c2VjcmV0IGRhdGE="
    profile = {"customData": secret, "adminPassword": "Sesame-open-4711"}
    api.put(
        f"{machine}2", {**machine_body(api, version, **profile), "identity": SYSTEM, "tags": {"tier": "web"}}
    )
    status, body = ask(api, f"{machine}2", "/metadata/instance?api-version=2021-02-01")
    assert status == 200
    compute = body["compute"]
    assert compute["name"] == "vm2"
    assert compute["resourceId"] == id_of(api, f"{machine}2")
    assert compute["vmId"] == api.get(f"{machine}2")["properties"]["vmId"]
    assert compute["resourceGroupName"] == "machines"
    assert compute["location"] == REGION
    assert compute["osType"] == "Linux"
    assert compute["tags"] == "tier:web"
    assert "$6$" not in json.dumps(body)
    assert secret not in json.dumps(body)
    path = "/metadata/instance/compute/tagsList/0/value?api-version=2021-02-01"
    assert ask(api, f"{machine}2", f"{path}&format=text") == (200, "web")
    assert ask(api, f"{machine}2", path)[0] == 400
    assert ask(api, f"{machine}2", path.replace("value", "none"))[0] == 404


@pytest.mark.parametrize("mode", ["Uniform", "Flexible"])
def test_instances_act_as_their_scale_set(api: Api, version: str, mode: str) -> None:
    scale_set = scale_set_in(api.group("machines"))
    api.put(scale_set, {**scale_set_body(api, version, 2, mode=mode), "identity": SYSTEM})
    principal = api.get(scale_set)["identity"]["principalId"]
    (first, second) = (found["id"] for found in instances(api, scale_set))
    subscription = f"/subscriptions/{api.first.subscription_id}/"
    for instance in (first, second):
        if mode == "Flexible":
            name = instance.rsplit("/", 1)[-1]
            instance = f"{subscription}resourceGroups/machines/{COMPUTE}/virtualMachines/{name}"
        assert speaks_for(api, instance.removeprefix(subscription)) == principal
    api.delete(scale_set)
    assert not exists(api, principal)


def test_an_identity_that_a_scale_set_gets_later_comes_with_the_next_model(api: Api, version: str) -> None:
    scale_set = scale_set_in(api.group("machines"))
    api.put(scale_set, scale_set_body(api, version, 1, mode="Uniform"))
    patch(api, scale_set, SYSTEM)
    assert api.get(f"{scale_set}/virtualMachines/0")["properties"]["latestModelApplied"] is False
    api.act(f"{scale_set}/manualUpgrade", {"instanceIds": ["*"]})
    assert api.get(f"{scale_set}/virtualMachines/0")["properties"]["latestModelApplied"] is True


def read(answered: bytes) -> tuple[int, bytes]:
    """Status and body of the one response in these bytes."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.receive_data(answered)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert (b"connection", b"close") in list(response.headers)
    data = client.next_event()
    assert isinstance(data, h11.Data)
    assert client.trailing_data[0] == b""
    return response.status_code, bytes(data.data)


def get(target: str) -> bytes:
    """A request as a guest sends it."""
    return f"GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n".encode()


def test_a_stream_answers_requests_however_they_are_cut(api: Api, make: Any) -> None:
    stream = Stream(id_of(api, make(SYSTEM)).lower(), service(api))
    name = get("/metadata/instance/compute/name?api-version=2021-02-01&format=text")
    for byte in name[:-1]:
        assert stream.answer(bytes([byte])) == b""
    assert read(stream.answer(name[-1:])) == (200, b"vm")
    # Of requests that overlap the last is answered: only its connection gets anything.
    assert read(stream.answer(get("/metadata/none") + get("/metadata/none") + name)) == (200, b"vm")
    assert read(stream.answer(b"\x00\xff nonsense\r\n\r\n"))[0] == 400
    assert read(stream.answer(b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * HEADER_MAX_BYTES))[0] == 400
    assert read(stream.answer(name)) == (200, b"vm")
    assert stream.answer(name.replace(b"GET", b"HEAD")).startswith(b"HTTP/1.1 405 ")
    assert read(stream.answer(name)) == (200, b"vm")


def test_a_stream_slows_a_guest_that_asks_too_often(api: Api, make: Any) -> None:
    stream = Stream(id_of(api, make(SYSTEM)).lower(), service(api))
    # Bad requests cost as much as good ones, and take no time here.
    statuses = [read(stream.answer(get("/metadata/none")))[0] for _ in range(5 * ANSWERS_PER_S)]
    assert 429 in statuses
    assert statuses[0] == 400
