"""Disks: created, uploaded into, taken in and deleted, and everything that is refused on the way."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import select

from opengallery.arm.operations import operations
from opengallery.imagestore.vhd import fixed_footer
from opengallery.replication import progress

from .conftest import MAX_IMAGE_BYTES, Api
from .images import (
    COMPUTE,
    disk_body,
    full_disk,
    grant,
    id_of,
    image_body,
    managed_image,
    open_disk,
    put_page,
    write,
)
from .vhds import MIB, SIZE_BYTES, UPLOAD_BYTES, disk, fixed_vhd


def staged(api: Api) -> list[Path]:
    """The files that uploads write into."""
    return sorted((api.services.settings.data / "uploads").glob("*"))


def stored(api: Api, path: str) -> bytes:
    """The whole image of a resource, read from its first replica."""
    with api.services.database.read() as connection:
        replica = progress.replicas(connection, id_of(api, path).lower())[0]
    store = api.services.stores.open(replica.store, replica.tenant_id)
    reader = store.open(replica.image_id)
    return bytes(reader.read(0, reader.size_bytes))


def test_creating_a_disk_answers_202_and_the_disk_waits_for_its_bytes(api: Api) -> None:
    path = f"{api.group('disks')}/{COMPUTE}/disks/one"
    answer = api.ask("PUT", path, disk_body())
    assert answer.status_code == 202
    api.finish(answer)
    found = api.get(path)
    assert found["properties"]["diskState"] == "ReadyToUpload"
    assert found["properties"]["provisioningState"] == "Succeeded"
    assert found["properties"]["diskSizeBytes"] == SIZE_BYTES
    assert [file.stat().st_size for file in staged(api)] == [UPLOAD_BYTES]


@pytest.mark.parametrize(
    "size",
    [
        UPLOAD_BYTES - 512,
        UPLOAD_BYTES + 1,
        10 * MIB + 512,
        0,
        -1,
        MAX_IMAGE_BYTES + MIB + 512,
        "x",
        None,
        2**70,
    ],
)
def test_a_disk_of_an_impossible_size_is_refused(api: Api, size: Any) -> None:
    path = f"{api.group('sizes')}/{COMPUTE}/disks/one"
    status, code, _ = api.refused("PUT", path, disk_body(size))
    assert (status, code[:7]) == (400, "Invalid")
    assert api.ask("GET", path).status_code == 404
    assert staged(api) == []


def test_what_is_uploaded_becomes_the_image(api: Api) -> None:
    path, sas = open_disk(api, api.group("upload"), "one")
    assert api.get(path)["properties"]["diskState"] == "ActiveUpload"
    write(api, sas, fixed_vhd(1, 2))
    api.act(f"{path}/endGetAccess")
    assert api.get(path)["properties"]["diskState"] == "Unattached"
    assert stored(api, path) == disk(1, 2)
    assert staged(api) == []


def test_revoked_access_is_over_and_can_be_granted_no_more(api: Api) -> None:
    path, sas = open_disk(api, api.group("revoked"), "one")
    write(api, sas, fixed_vhd(1))
    api.act(f"{path}/endGetAccess")
    assert put_page(api, sas, 0, bytes(512)).status_code == 403
    status, code, _ = api.refused(
        "POST", f"{path}/beginGetAccess", {"access": "Write", "durationInSeconds": 60}
    )
    assert (status, code) == (409, "OperationNotAllowed")
    api.act(f"{path}/endGetAccess")


def test_a_new_grant_ends_the_old_url(api: Api) -> None:
    path, old = open_disk(api, api.group("regrant"), "one")
    new = grant(api, path)
    assert put_page(api, old, 0, bytes(512)).status_code == 403
    assert put_page(api, new, 0, bytes(512)).status_code == 201


@pytest.mark.parametrize("access", [{}, {"access": "Execute"}, {"access": "Write", "durationInSeconds": -5}])
def test_a_grant_with_a_wrong_body_is_refused(api: Api, access: Any) -> None:
    path = f"{api.group('grants')}/{COMPUTE}/disks/one"
    api.put(path, disk_body())
    assert api.refused("POST", f"{path}/beginGetAccess", access)[0] == 400


def damaged(kind: str) -> bytes:
    """A file of the right size that is no fixed VHD."""
    if kind == "qcow2":
        return b"QFI\xfb" + fixed_vhd(1)[4:]
    if kind == "footer of a larger disk":
        return disk(1) + fixed_footer(SIZE_BYTES + MIB)
    if kind == "footer of a smaller disk":
        return disk(1) + fixed_footer(SIZE_BYTES - MIB)
    return fixed_vhd(1)[:-20] + bytes(20)[:-1] + b"\1"


KINDS = ["qcow2", "footer of a larger disk", "footer of a smaller disk", "footer with an error"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_that_is_no_fixed_vhd_is_refused_and_can_be_mended(api: Api, kind: str) -> None:
    group = api.group("damaged")
    path, sas = open_disk(api, group, "one")
    write(api, sas, damaged(kind))
    status, code, message = api.refused("POST", f"{path}/endGetAccess")
    assert (status, code) == (400, "InvalidParameter")
    assert "VHD" in message and "az disk grant-access" in message
    assert put_page(api, sas, 0, bytes(512)).status_code == 403
    assert api.get(path)["properties"]["diskState"] == "ReadyToUpload"
    image = f"{group}/{COMPUTE}/images/one"
    assert api.refused("PUT", image, image_body(api, path))[:2] == (400, "InvalidParameter")
    assert api.ask("GET", image).status_code == 404
    assert progress_rows(api, path) == progress_rows(api, image) == 0
    write(api, grant(api, path), fixed_vhd(3))
    api.act(f"{path}/endGetAccess")
    assert stored(api, path) == disk(3)


def test_revoking_an_unfinished_upload_ends_its_url_and_keeps_its_bytes(api: Api) -> None:
    group = api.group("unfinished")
    path, sas = open_disk(api, group, "one")
    content = fixed_vhd(1, 2)
    write(api, sas, content[: 2 * MIB])
    api.act(f"{path}/endGetAccess")
    assert put_page(api, sas, 0, bytes(512)).status_code == 403
    assert api.get(path)["properties"]["diskState"] == "ReadyToUpload"
    image = f"{group}/{COMPUTE}/images/one"
    status, _, message = api.refused("PUT", image, image_body(api, path))
    assert status == 400
    assert message.count("footer") == 1 and "no fixed-VHD footer" in message
    assert api.ask("GET", image).status_code == 404
    assert progress_rows(api, path) == progress_rows(api, image) == 0
    put_page(api, grant(api, path), len(content) - 512, content[-512:])
    api.act(f"{path}/endGetAccess")
    assert stored(api, path) == disk(1, 2)


def test_no_url_is_kept_in_clear(api: Api) -> None:
    _, sas = open_disk(api, api.group("sealed"), "one")
    signature = parse_qs(urlsplit(sas).query)["sig"][0]
    with api.services.database.read() as connection:
        outputs = connection.scalars(select(operations.c.output)).all()
    assert any(outputs)
    assert signature not in json.dumps(outputs) and "sig=" not in json.dumps(outputs)
    for file in api.services.settings.data.glob("*.sqlite"):
        assert b"sig=" not in file.read_bytes()


def progress_rows(api: Api, path: str) -> int:
    """How many replicas a resource has, complete or not."""
    with api.services.database.read() as connection:
        return len(progress.replicas(connection, id_of(api, path).lower()))


def test_deleting_a_disk_removes_what_was_uploaded(api: Api) -> None:
    path, sas = open_disk(api, api.group("deleted"), "one")
    write(api, sas, fixed_vhd(1))
    assert len(staged(api)) == 1
    api.delete(path)
    assert staged(api) == []
    assert put_page(api, sas, 0, bytes(512)).status_code == 403
    assert api.ask("GET", path).status_code == 404
    assert api.ask("DELETE", path).status_code == 204


def test_a_disk_is_copied_from_a_disk_in_its_region_only(api: Api) -> None:
    group = api.group("copies")
    source = full_disk(api, group, "source", 4)
    body: dict[str, Any] = {
        "location": "westcentralus",
        "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": id_of(api, source)}},
    }
    copy = f"{group}/{COMPUTE}/disks/copy"
    api.put(copy, body)
    api.delete(source)
    assert stored(api, copy) == disk(4)
    elsewhere = {**body, "location": "westeurope"}
    assert api.refused("PUT", f"{group}/{COMPUTE}/disks/far", elsewhere)[0] in (400, 404)


def test_a_managed_image_keeps_its_bytes_when_its_disk_goes(api: Api) -> None:
    group = api.group("kept")
    image = managed_image(api, group, "one", 5)
    api.delete(f"{group}/{COMPUTE}/disks/one-disk")
    assert stored(api, image) == disk(5)
    api.delete(image)
    assert progress_rows(api, image) == 0
