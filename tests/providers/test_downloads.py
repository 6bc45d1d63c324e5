"""Downloads: a disk with an image is read as a fixed VHD, by who holds its URL."""

import base64
import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from opengallery.imagestore import CorruptBlock, ImageReader
from opengallery.imagestore.vhd import FIXED, read_vhd_footer
from opengallery.replication import workflows

from .conftest import Api
from .files import FileServer
from .images import (
    COMPUTE,
    REGION,
    definition,
    full_disk,
    grant,
    id_of,
    image_body,
    managed_image,
    open_disk,
    put_page,
    version_body,
    write,
)
from .vhds import MIB, SIZE_BYTES, UPLOAD_BYTES, disk, fixed_vhd

READ = {"access": "Read", "durationInSeconds": 3600}


@pytest.fixture
def path(api: Api) -> Iterator[str]:
    """A disk made from an image version."""
    group = api.group("downloads")
    image = managed_image(api, group, "golden", 1, 2)
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, image, REGION))
    path = f"{group}/{COMPUTE}/disks/exported"
    source = {"createOption": "FromImage", "galleryImageReference": {"id": id_of(api, version)}}
    api.put(path, {"location": REGION, "properties": {"creationData": source}})
    yield path


def read(api: Api, sas: str, span: str | None = None, **headers: str) -> Any:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.client.get(sas, headers={**sent, **({"x-ms-range": span} if span else {})})


def test_a_disk_of_a_version_is_read_as_a_fixed_vhd(api: Api, path: str) -> None:
    assert api.get(path)["properties"]["diskSizeBytes"] == SIZE_BYTES
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    assert api.get(path)["properties"]["diskState"] == "ActiveSAS"
    head = api.client.head(sas)
    assert head.headers["Content-Length"] == str(UPLOAD_BYTES)
    assert head.headers["x-ms-blob-type"] == "PageBlob"
    whole = read(api, sas)
    assert whole.status_code == 200
    assert whole.content[:SIZE_BYTES] == disk(1, 2)
    footer = read_vhd_footer(whole.content[SIZE_BYTES:])
    assert footer is not None and (footer.kind, footer.size_bytes) == (FIXED, SIZE_BYTES)
    for first, last in (
        (0, 0),
        (511, 4096),
        (MIB - 3, 3 * MIB),
        (SIZE_BYTES - 5, SIZE_BYTES + 5),
        (SIZE_BYTES, UPLOAD_BYTES + 9),
    ):
        answer = read(api, sas, f"bytes={first}-{last}")
        assert answer.status_code == 206
        assert answer.content == whole.content[first : last + 1]
        assert (
            answer.headers["Content-Range"] == f"bytes {first}-{min(last, UPLOAD_BYTES - 1)}/{UPLOAD_BYTES}"
        )
    assert read(api, sas, f"bytes={UPLOAD_BYTES}-{UPLOAD_BYTES + 1}").status_code == 416
    assert list((api.services.settings.data / "uploads").iterdir()) == []


def test_page_ranges_are_the_data_and_the_footer(api: Api, path: str) -> None:
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    listed = ElementTree.fromstring(read(api, sas.replace("?", "?comp=pagelist&")).content)
    ranges = [(int(found[0].text or ""), int(found[1].text or "")) for found in listed.iter("PageRange")]
    assert ranges == [(0, 2 * MIB - 1), (SIZE_BYTES, UPLOAD_BYTES - 1)]
    part = ElementTree.fromstring(
        read(api, sas.replace("?", "?comp=pagelist&"), f"bytes={MIB}-{4 * MIB - 1}").content
    )
    assert [(int(found[0].text or ""), int(found[1].text or "")) for found in part.iter("PageRange")] == [
        (MIB, 2 * MIB - 1)
    ]


def test_a_range_comes_with_its_md5_when_asked_for(api: Api, path: str) -> None:
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    answer = read(api, sas, "bytes=0-65535", x_ms_range_get_content_md5="true")
    assert base64.b64decode(answer.headers["Content-MD5"]) == hashlib.md5(answer.content).digest()


def test_a_read_url_writes_nothing_and_ends(api: Api, path: str) -> None:
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    assert put_page(api, sas, 0, bytes(512)).status_code == 403
    assert read(api, sas.replace("sp=r", "sp=rw"), "bytes=0-511").status_code == 403
    assert read(api, sas.replace("sig=", "sig=A"), "bytes=0-511").status_code == 403
    api.act(f"{path}/endGetAccess")
    assert read(api, sas, "bytes=0-511").status_code == 403
    assert api.get(path)["properties"]["diskState"] == "Unattached"
    short = api.act(f"{path}/beginGetAccess", {**READ, "durationInSeconds": 1})["accessSAS"]
    time.sleep(2.1)
    assert read(api, short, "bytes=0-511").status_code == 403


def test_a_disk_that_waits_for_its_bytes_is_not_read(api: Api) -> None:
    waiting, _ = open_disk(api, api.group("waiting"), "one")
    assert api.refused("POST", f"{waiting}/beginGetAccess", READ)[0] == 409


def test_an_uploaded_disk_is_read_back(api: Api) -> None:
    path = full_disk(api, api.group("readback"), "one", 5)
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    assert read(api, sas).content[:SIZE_BYTES] == disk(5)


def test_damage_is_never_served(api: Api, path: str) -> None:
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    packs = [
        pack for pack in (api.services.settings.data / "stores" / REGION).rglob("packs/*/*") if pack.is_file()
    ]
    kept = {pack: pack.read_bytes() for pack in packs}
    try:
        for pack, content in kept.items():
            pack.chmod(0o600)
            pack.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])
        answer = read(api, sas, f"bytes=0-{MIB - 1}")
        assert answer.status_code == 503 or answer.content == disk(1)[:MIB]
    finally:
        for pack, content in kept.items():
            pack.parent.mkdir(exist_ok=True)
            pack.write_bytes(content)


def test_a_replica_whose_layout_cannot_be_read_is_repaired(
    api: Api, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(reader: ImageReader) -> Any:
        raise CorruptBlock(f"{REGION}-01", "0" * 64, "", "its trailer is damaged")

    started: list[Any] = []
    monkeypatch.setattr(ImageReader, "extents", unreadable)
    monkeypatch.setattr(
        "opengallery.providers.compute.disk_downloads.DBOS",
        SimpleNamespace(start_workflow=lambda *work: started.append(work)),
    )
    sas = api.act(f"{path}/beginGetAccess", READ)["accessSAS"]
    assert api.client.get(f"{sas}&comp=pagelist").status_code == 503
    assert [(work, store) for work, store, *_ in started] == [(workflows.repair, f"{REGION}-01")]


@pytest.mark.parametrize("suffix", ["qcow2", "vhdx", "img"])
def test_a_url_of_any_format_becomes_an_image(
    api: Api, file_server: FileServer, tmp_path: Path, suffix: str
) -> None:
    raw, made = tmp_path / "raw", tmp_path / f"disk.{suffix}"
    raw.write_bytes(disk(3))
    driver = {"img": "qcow2"}.get(suffix, suffix)
    subprocess.run(["qemu-img", "convert", "-O", driver, raw, made], check=True)
    file_server.files[f"/allowed/{made.name}"] = made.read_bytes()
    group = api.group(f"formats-{suffix}")
    image = f"{group}/{COMPUTE}/images/one"
    body = image_body(api, None, blobUri=f"{file_server.url}/allowed/{made.name}")
    body["tags"] = {"opengallery-sha256": hashlib.sha256(made.read_bytes()).hexdigest().upper()}
    api.put(image, body)
    path = f"{group}/{COMPUTE}/images/two"
    body["tags"] = {"opengallery-sha256": "0" * 64}
    operation = api.operation(api.ask("PUT", path, body))
    assert operation["status"] == "Failed" and "SHA-256" in operation["error"]["message"]
    assert list((api.services.settings.data / "uploads").iterdir()) == []


def test_an_upload_of_another_sha256_is_refused(api: Api) -> None:
    group = api.group("sums")
    path, sas = open_disk(api, group, "one")
    content = fixed_vhd(1)
    write(api, sas, content)
    answer = api.ask("PATCH", path, {"tags": {"opengallery-sha256": "0" * 64}})
    assert answer.status_code in (200, 202), answer.text
    api.finish(answer)
    ended = api.operation(api.ask("POST", f"{path}/endGetAccess"))
    assert ended["status"] == "Failed" and "SHA-256" in ended["error"]["message"]
    answer = api.ask("PATCH", path, {"tags": {"opengallery-sha256": hashlib.sha256(content).hexdigest()}})
    api.finish(answer)
    grant(api, path)
    api.act(f"{path}/endGetAccess")
    assert api.get(path)["properties"]["diskState"] == "Unattached"
    assert api.refused("PATCH", path, {"tags": {"opengallery-sha256": "abc"}})[0] == 400


def test_an_upload_has_to_be_a_fixed_vhd(api: Api, tmp_path: Path) -> None:
    raw, made = tmp_path / "raw", tmp_path / "disk.vhd"
    raw.write_bytes(disk(1))
    subprocess.run(
        ["qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat=dynamic", raw, made], check=True
    )
    dynamic = made.read_bytes()
    path, sas = open_disk(api, api.group("dynamic"), "one")
    write(api, sas, dynamic[:-512].ljust(SIZE_BYTES, b"\0") + dynamic[-512:])
    status, _, message = api.refused("POST", f"{path}/endGetAccess")
    assert status == 400 and "fixed VHD" in message
