"""Virtual machines: which image they get, which replica they read, and what can be done to them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select

from opengallery.arm.operations import operations
from opengallery.arm.resources import resources
from opengallery.hypervisors.machine import HypervisorError
from opengallery.replication import placement, progress

from .conftest import Api
from .images import COMPUTE, REGION, definition, id_of, machine_body, managed_image, version_body

SECRET = "Sesame-open-4711"


@pytest.fixture(scope="module")
def published(server: Api) -> Iterator[tuple[str, str]]:
    """A managed image, and a version of it with three replicas here and one in West Europe."""
    group = server.group("published")
    server.groups.remove("published")
    image = managed_image(server, group, "image", 1)
    version = f"{definition(server, group)}/versions/1.0.0"
    server.put(version, version_body(server, image, (REGION, 3), "westeurope"))
    yield image, version
    server.delete(group)


@pytest.fixture
def make(api: Api) -> Callable[..., str]:
    """Makes a machine in the group of the test; its path."""
    group = api.group("machines")

    def create(name: str, image: str, location: str = REGION, **profile: Any) -> str:
        path = f"{group}/{COMPUTE}/virtualMachines/{name}"
        api.put(path, machine_body(api, image, location, **profile))
        return path

    return create


def power(api: Api, machine: str) -> str:
    """The power state as az reads it."""
    view = api.get(f"{machine}?$expand=instanceView")["properties"]["instanceView"]
    (code,) = [status["code"] for status in view["statuses"] if status["code"].startswith("PowerState/")]
    return str(code.removeprefix("PowerState/"))


def told(api: Api, owner: str) -> dict[str, int]:
    """How many machines were told to read each store first."""
    with api.services.database.read() as connection:
        return placement.readers_per_store(connection, id_of(api, owner).lower())


def test_a_machine_runs_stops_and_goes(api: Api, published: Any, make: Any) -> None:
    machine = make("vm1", published[1])
    assert power(api, machine) == "running"
    for action, state in (
        ("powerOff?skipShutdown=false", "stopped"),
        ("start", "running"),
        ("deallocate", "deallocated"),
        ("start", "running"),
        ("restart", "running"),
    ):
        api.act(f"{machine}/{action}")
        assert power(api, machine) == state
    assert sum(told(api, published[1]).values()) == 1
    vm_id = api.get(machine)["properties"]["vmId"]
    api.delete(machine)
    assert api.ask("GET", machine).status_code == 404
    assert told(api, published[1]) == {}
    assert api.services.hypervisor.state(vm_id) == "absent"
    assert not (api.services.settings.data / "machines" / vm_id).exists()


def test_a_machine_needs_a_replica_in_its_region(api: Api, published: Any, make: Any) -> None:
    image, version = published
    assert power(api, make("near", version, "westeurope")) == "running"
    path = f"resourceGroups/machines/{COMPUTE}/virtualMachines/far"
    status, code, message = api.refused("PUT", path, machine_body(api, version, "japaneast"))
    assert (status, code) == (404, "GalleryImageNotFound")
    assert "japaneast" in message
    assert api.refused("PUT", path, machine_body(api, image, "westeurope"))[0] in (400, 404)
    assert api.ask("GET", path).status_code == 404


def test_machines_of_a_managed_image_read_its_one_copy(api: Api, published: Any, make: Any) -> None:
    image = published[0]
    for name in ("a", "b"):
        make(name, image)
    assert list(told(api, image).values()) == [2]


def test_a_definition_means_its_latest_version_in_the_region(api: Api, published: Any, make: Any) -> None:
    image = published[0]
    parent = definition(api, api.group("latest"))
    api.put(f"{parent}/versions/1.9.0", version_body(api, image))
    api.put(f"{parent}/versions/1.10.0", version_body(api, image))
    api.put(f"{parent}/versions/2.0.0", version_body(api, image, excludeFromLatest=True))
    api.put(f"{parent}/versions/3.0.0", version_body(api, image, "westeurope"))
    reference = api.get(make("here", parent))["properties"]["storageProfile"]["imageReference"]
    assert reference["exactVersion"] == "1.10.0"
    reference = api.get(make("there", parent, "westeurope"))["properties"]["storageProfile"]["imageReference"]
    assert reference["exactVersion"] == "3.0.0"
    path = f"resourceGroups/machines/{COMPUTE}/virtualMachines/nowhere"
    assert api.refused("PUT", path, machine_body(api, parent, "japaneast"))[1] == "GalleryImageNotFound"


def changed(body: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """The machine with other properties."""
    return {**body, "properties": {**body["properties"], **properties}}


def test_an_impossible_machine_is_refused(api: Api, published: Any) -> None:
    path = f"{api.group('refused')}/{COMPUTE}/virtualMachines/vm"
    good = machine_body(api, published[1])

    def refused(body: Any) -> int:
        status = api.refused("PUT", path, body)[0]
        assert api.ask("GET", path).status_code == 404
        return status

    def image(reference: Any) -> Any:
        return changed(good, storageProfile={"imageReference": reference})

    assert refused(image({"id": "nonsense"})) == 400
    assert refused(image({"id": published[1]})) == 400
    assert (
        refused(image({"id": id_of(api, "resourceGroups/refused/providers/Microsoft.Compute/images/none")}))
        == 404
    )
    assert (
        refused(image({"publisher": "Canonical", "offer": "Ubuntu", "sku": "22", "version": "latest"})) == 400
    )
    assert refused(image("x")) == 400
    assert refused(changed(good, osProfile="x")) == 400
    assert refused(changed(good, virtualMachineScaleSet="x")) == 400
    assert refused(changed(good, virtualMachineScaleSet={"id": id_of(api, f"{path}s")})) == 400
    for profile in (
        {"linuxConfiguration": None},
        {"adminUsername": "root me"},
        {"adminUsername": "x: y"},
        {"computerName": "a_b"},
        {"customData": "no base64!"},
        {"linuxConfiguration": {"ssh": {"publicKeys": [{"keyData": "ssh-rsa A\nruncmd: [x]"}]}}},
        {"adminPassword": "a\nb"},
        {"adminPassword": "Short-1"},
        {"adminPassword": "onlylowercaseletters"},
        {"adminUsername": "root"},
        {"adminUsername": "administrator"},
        {"linuxConfiguration": {"ssh": {"publicKeys": [{"keyData": "no key"}]}}},
        {"linuxConfiguration": {"ssh": {"publicKeys": [{"keyData": "ssh-rsa AAAA", "path": "/root/x"}]}}},
    ):
        assert refused(machine_body(api, published[1], **profile)) == 400, profile
    assert refused(changed(good, hardwareProfile={"vmSize": "huge"})) == 400
    storage = good["properties"]["storageProfile"]
    assert refused(changed(good, storageProfile={**storage, "osDisk": {"name": "a/b"}})) == 400
    missing = id_of(api, "resourceGroups/refused/providers/Microsoft.Network/networkInterfaces/none")
    assert refused(changed(good, networkProfile={"networkInterfaces": [{"id": missing}]})) == 404
    assert told(api, published[1]) == {}


def everything(api: Api) -> str:
    """All that the databases keep of resources and operations."""
    with api.services.database.read() as connection:
        rows = [*connection.execute(select(resources)).all(), *connection.execute(select(operations)).all()]
    return json.dumps([list(row) for row in rows], default=str)


def test_a_password_is_neither_shown_nor_kept(api: Api, published: Any, make: Any) -> None:
    machine = make(
        "vm", published[1], adminPassword=SECRET, linuxConfiguration=None, customData="I2Nsb3VkLWNvbmZpZw=="
    )
    shown = api.ask("GET", f"{machine}?$expand=instanceView").text
    assert SECRET not in shown
    assert "passwordHash" not in shown and "$6$" not in shown and "I2Nsb3Vk" not in shown
    kept = everything(api)
    assert SECRET not in kept
    assert "$6$" in kept
    for file in (
        *api.services.settings.data.glob("*.sqlite"),
        *api.services.settings.data.glob("*.sqlite-wal"),
    ):
        assert SECRET.encode() not in file.read_bytes()


def test_a_machine_deleted_while_it_is_created_leaves_nothing(api: Api, published: Any) -> None:
    machine = f"{api.group('canceled')}/{COMPUTE}/virtualMachines/vm"
    creating = api.ask("PUT", machine, machine_body(api, published[1]))
    vm_id = creating.json()["properties"]["vmId"]
    api.delete(machine)
    assert api.operation(creating)["status"] in ("Canceled", "Succeeded")
    assert told(api, published[1]) == {}
    assert api.services.hypervisor.state(vm_id) == "absent"


def test_a_running_machine_keeps_the_bytes_of_a_deleted_version(api: Api, published: Any, make: Any) -> None:
    parent = definition(api, api.group("pinned"))
    group = parent.split("/providers/")[0]
    version = f"{parent}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "own", 301), "westeurope"))
    with api.services.database.read() as connection:
        (replica,) = progress.replicas(connection, id_of(api, version).lower())
    store = api.services.stores.open(replica.store, replica.tenant_id)
    machine = make("vm", version, "westeurope")
    api.delete(version)
    assert store.has(replica.image_id)
    api.act(f"{machine}/deallocate")
    assert store.has(replica.image_id)
    api.act(f"{machine}/start")
    assert power(api, machine) == "running"
    api.delete(machine)
    assert not store.has(replica.image_id)


def test_the_console_needs_its_own_signature(api: Api, published: Any, make: Any) -> None:
    urls = []
    for name in ("one", "two"):
        machine = make(name, published[1])
        answer = api.act(f"{machine}/retrieveBootDiagnosticsData")
        urls.append(answer["serialConsoleLogBlobUri"])
        assert api.client.get(urls[-1]).status_code == 200
        view = api.get(f"{machine}?$expand=instanceView")["properties"]["instanceView"]
        assert "serialConsoleLogBlobUri" not in view["bootDiagnostics"]
    first, second = urls
    mixed = f"{first.split('?')[0]}?{second.split('?')[1]}"
    for url in (
        mixed,
        first.split("?")[0],
        first.replace("se=", "se=9"),
        first.replace("se=", "se=%C2%B2"),
        first + "x",
    ):
        assert api.client.get(url).status_code == 403, url


def test_a_machine_that_cannot_start_says_why(
    api: Api, published: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise HypervisorError("No room.")

    monkeypatch.setattr(type(api.services.hypervisor), "start", fail)
    machine = f"{api.group('failing')}/{COMPUTE}/virtualMachines/vm"
    operation = api.operation(api.ask("PUT", machine, machine_body(api, published[1])))
    assert operation["error"]["code"] == "VMStartFailed"
    assert api.get(machine)["properties"]["provisioningState"] == "Failed"
    assert power(api, machine) == "stopped"
    monkeypatch.undo()
    api.put(machine, machine_body(api, published[1]))
    assert power(api, machine) == "running"
