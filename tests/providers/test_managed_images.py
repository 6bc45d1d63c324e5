"""Managed images: from a disk, from a URL that is allowed, and what is refused."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from opengallery.replication import progress

from .conftest import MAX_IMAGE_BYTES, Api
from .files import FileServer
from .images import (
    COMPUTE,
    definition,
    full_disk,
    id_of,
    image_body,
    managed_image,
    open_disk,
    version_body,
    write,
)
from .vhds import MIB, disk, fixed_vhd


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stored(api: Api, path: str) -> bytes:
    """The whole image of a resource."""
    with api.services.database.read() as connection:
        replica = progress.replicas(connection, id_of(api, path).lower())[0]
    reader = api.services.stores.open(replica.store, replica.tenant_id).open(replica.image_id)
    return bytes(reader.read(0, reader.size_bytes))


def rows(api: Api, path: str) -> int:
    """How many replicas a resource has."""
    with api.services.database.read() as connection:
        return len(progress.replicas(connection, id_of(api, path).lower()))


def uploads(api: Api) -> list[Path]:
    """What lies in the folder of uploads."""
    return sorted((api.services.settings.data / "uploads").glob("*"))


def test_an_image_ends_the_upload_of_its_disk(api: Api) -> None:
    group = api.group("open")
    path, sas = open_disk(api, group, "one")
    write(api, sas, fixed_vhd(1, 2))
    image = f"{group}/{COMPUTE}/images/one"
    api.put(image, image_body(api, path))
    assert stored(api, image) == disk(1, 2)
    assert api.get(path)["properties"]["diskState"] == "Unattached"
    assert uploads(api) == []
    api.put(image, {**image_body(api, path), "tags": {"a": "b"}})
    assert stored(api, image) == disk(1, 2)


def test_two_images_of_one_open_disk_are_both_whole_or_refused(api: Api) -> None:
    group = api.group("twice")
    path, sas = open_disk(api, group, "one")
    write(api, sas, fixed_vhd(3))
    answers = {
        name: api.ask("PUT", f"{group}/{COMPUTE}/images/{name}", image_body(api, path))
        for name in ("one", "two")
    }
    ended = {name: api.operation(answer) for name, answer in answers.items() if answer.status_code == 201}
    done = [name for name, operation in ended.items() if operation["status"] == "Succeeded"]
    assert done
    for name in done:
        assert stored(api, f"{group}/{COMPUTE}/images/{name}") == disk(3)
    assert stored(api, path) == disk(3)


def test_region_and_generation_have_to_be_those_of_the_disk(api: Api) -> None:
    group = api.group("mismatch")
    path = full_disk(api, group, "one", 1, generation="V2")
    image = f"{group}/{COMPUTE}/images/one"
    status, code, message = api.refused("PUT", image, image_body(api, path, "V1"))
    assert (status, code) == (400, "InvalidParameter")
    assert "--hyper-v-generation V2" in message
    elsewhere = {**image_body(api, path, "V2"), "location": "westeurope"}
    assert api.refused("PUT", image, elsewhere)[:2] == (400, "InvalidParameter")
    assert api.ask("GET", image).status_code == 404
    api.put(image, image_body(api, path, "V2"))


def test_an_image_needs_one_source_that_is_there(api: Api) -> None:
    group = api.group("sources")
    image = f"{group}/{COMPUTE}/images/one"
    missing = image_body(api, f"{group}/{COMPUTE}/disks/none")
    assert api.refused("PUT", image, missing)[0] == 404
    malformed = image_body(api, None, managedDisk={"id": "disks/none"})
    assert api.refused("PUT", image, malformed)[:2] == (400, "LinkedInvalidPropertyId")
    wrong_type = image_body(api, f"{group}/{COMPUTE}/galleries/none")
    assert api.refused("PUT", image, wrong_type)[0] == 400
    assert api.refused("PUT", image, image_body(api, None))[0] == 400
    no_object = image_body(api, None)
    no_object["properties"]["storageProfile"] = "x"
    assert api.refused("PUT", image, no_object)[0] == 400


@pytest.mark.parametrize(
    "path", ["/other/disk.vhd", "/allowed/../other/disk.vhd", "/allowed/%2e%2e/other/disk.vhd"]
)
def test_a_url_outside_the_allowed_is_never_asked(api: Api, file_server: FileServer, path: str) -> None:
    file_server.files["/other/disk.vhd"] = fixed_vhd(1)
    file_server.asked.clear()
    image = f"{api.group('urls')}/{COMPUTE}/images/one"
    for url in (
        f"{file_server.url}{path}",
        f"{file_server.url}0/allowed/x",
        "file:///etc/passwd",
        "",
        "http://[",
    ):
        status, code, message = api.refused("PUT", image, image_body(api, None, blobUri=url))
        assert (status, code) == (400, "InvalidParameter")
        assert "images.fetch_allow" in message or url == ""
    assert file_server.asked == []


def test_an_allowed_url_is_fetched(api: Api, file_server: FileServer) -> None:
    file_server.files["/allowed/disk.vhd"] = fixed_vhd(6)
    image = f"{api.group('fetched')}/{COMPUTE}/images/one"
    api.put(image, image_body(api, None, blobUri=f"{file_server.url}/allowed/disk.vhd"))
    assert stored(api, image) == disk(6)
    assert uploads(api) == []


def test_what_a_url_answers_has_to_be_an_image(api: Api, file_server: FileServer) -> None:
    file_server.files |= {
        "/allowed/cut.vhd": fixed_vhd(1)[: 5 * MIB + 100],
        "/allowed/qcow2": b"QFI\xfb" + bytes(MIB),
        "/allowed/large": bytes(MAX_IMAGE_BYTES + MIB),
        "/allowed/moved": 302,
        "/allowed/other": fixed_vhd(1),
    }
    group = api.group("answers")
    for name in ("cut.vhd", "qcow2", "large", "moved", "none"):
        image = f"{group}/{COMPUTE}/images/{name}"
        answer = api.ask("PUT", image, image_body(api, None, blobUri=f"{file_server.url}/allowed/{name}"))
        operation = api.operation(answer)
        assert operation["status"] == "Failed", name
        assert operation["error"]["code"] == "InvalidParameter", operation
        assert rows(api, image) == 0
        api.delete(image)
    assert uploads(api) == []
    assert "/allowed/other" not in file_server.asked[-5:]


def test_an_image_that_is_deleted_while_it_is_fetched_leaves_nothing(
    api: Api, file_server: FileServer
) -> None:
    file_server.files["/allowed/slow.vhd"] = fixed_vhd(6)
    file_server.flowing.clear()
    image = f"{api.group('gone')}/{COMPUTE}/images/one"
    answer = api.ask("PUT", image, image_body(api, None, blobUri=f"{file_server.url}/allowed/slow.vhd"))
    eventually(lambda: uploads(api))
    deleting = api.ask("DELETE", image)
    assert deleting.status_code == 202
    file_server.flowing.set()
    api.finish(deleting)
    assert api.operation(answer)["status"] == "Canceled"
    assert rows(api, image) == 0
    assert uploads(api) == []


def test_a_disk_is_not_deleted_while_its_bytes_are_taken_in(api: Api) -> None:
    group = api.group("race")
    path, sas = open_disk(api, group, "one")
    write(api, sas, fixed_vhd(1))
    image = f"{group}/{COMPUTE}/images/one"
    making = api.ask("PUT", image, image_body(api, path))
    deleting = api.ask("DELETE", path)
    assert deleting.status_code in (202, 409)
    api.finish(making)
    assert stored(api, image) == disk(1)
    api.delete(path)
    assert rows(api, path) == 0


def test_a_disk_deleted_while_its_upload_ends_leaves_nothing(api: Api) -> None:
    path, sas = open_disk(api, api.group("ending"), "one")
    write(api, sas, fixed_vhd(1))
    ending = api.ask("POST", f"{path}/endGetAccess")
    api.delete(path)
    assert api.operation(ending)["status"] in ("Canceled", "Succeeded")
    assert uploads(api) == []
    assert rows(api, path) == 0


def test_an_image_deleted_at_once_gives_its_disk_free(api: Api) -> None:
    group = api.group("free")
    path, sas = open_disk(api, group, "one")
    write(api, sas, fixed_vhd(1))
    image = f"{group}/{COMPUTE}/images/one"
    api.ask("PUT", image, image_body(api, path))
    api.delete(image)
    assert rows(api, image) == 0
    api.put(f"{group}/{COMPUTE}/images/two", image_body(api, path))
    assert stored(api, f"{group}/{COMPUTE}/images/two") == disk(1)


def test_an_image_whose_disk_has_no_bytes_is_no_source(api: Api) -> None:
    group = api.group("empty")
    path, _ = open_disk(api, group, "one")
    version = f"{definition(api, group)}/versions/1.0.0"
    status, code, message = api.refused("PUT", version, version_body(api, path))
    assert (status, code) == (409, "OperationNotAllowed")
    assert "az disk revoke-access" in message
    managed = managed_image(api, group, "two", 1)
    api.put(version, version_body(api, managed))
