"""Images from files: what is uploaded, and how a broken import goes on."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from opengallery.cli import progress
from opengallery.cli.disk_file import MIB
from opengallery.imagestore.formats import read_vhd_footer

from .conftest import Gallery, Outcome
from .stand_in import SUBSCRIPTION, Answer, Request, StandIn

COMPUTE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute"
DISK, IMAGE = f"{COMPUTE}/disks/img", f"{COMPUTE}/images/img"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A sparse raw image of 40 MiB and a bit, with data in several places."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(40 * MIB + 1024)
        for start, length in ((0, 9 * MIB), (20 * MIB + 4096, 512), (40 * MIB, 1024)):
            file.seek(start)
            file.write(os.urandom(length))
    return path


def run(gallery: Gallery, path: Path, *more: str) -> Outcome:
    return gallery("image", "import", str(path), "-g", "rg", "-n", "img", "--os-type", "Linux", *more)


def test_a_file_becomes_an_image_and_the_disk_is_gone(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    outcome = run(gallery, raw, "--hyper-v-generation", "V2")
    assert outcome.code == 0, outcome.err
    assert outcome.json["storageProfile"]["osDisk"]["managedDisk"] == {"id": DISK, "resourceGroup": "rg"}
    assert outcome.json["hyperVGeneration"] == "V2"
    assert DISK.lower() not in arm.resources
    disk = arm.calls("PUT", "^/sub.*/disks/img")[0].json["properties"]
    assert disk["creationData"] == {"createOption": "Upload", "uploadSizeBytes": 41 * MIB + 512}
    content = arm.disk_bytes(DISK)
    assert content[: 41 * MIB] == raw.read_bytes().ljust(41 * MIB, b"\0")
    footer = read_vhd_footer(content[41 * MIB :])
    assert footer is not None and footer.size_bytes == 41 * MIB
    sent = sum(len(request.body) for request in arm.calls("PUT", "/blobs/"))
    assert sent < 10 * MIB
    assert [request.path.rsplit("/", 1)[1] for request in arm.calls("POST", "/disks/")] == [
        "beginGetAccess",
        "endGetAccess",
    ]


def break_after(count: int) -> Callable[[Request], Answer | None]:
    """A fault: every upload of a page after the first `count` is refused for good."""
    left = [count]

    def fault(request: Request) -> Answer | None:
        if request.query.get("comp") == "page":
            left[0] -= 1
            if left[0] < 0:
                return Answer(
                    403, b"<Error><Code>AuthenticationFailed</Code><Message>Expired.</Message></Error>"
                )
        return None

    return fault


def test_a_broken_import_goes_on_where_it_stopped(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    arm.fault = break_after(2)
    broken = run(gallery, raw)
    assert broken.code == 1
    assert "ERROR: (AuthenticationFailed) Expired." in broken.err
    assert "goes on where it stopped" in broken.err
    assert len(arm.blobs[DISK.lower()]) == 2
    arm.fault = lambda request: None
    before = len(arm.calls("PUT", "/blobs/"))
    outcome = run(gallery, raw)
    assert outcome.code == 0
    # 9 MiB are three requests, two more places, the footer; two were there.
    assert len(arm.calls("PUT", "/blobs/")) - before == 4
    assert arm.disk_bytes(DISK)[: 40 * MIB + 1024] == raw.read_bytes()
    assert len(arm.calls("PUT", "^/sub.*/disks/img")) == 1


def test_what_only_seems_to_be_there_is_sent_again(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    arm.fault = break_after(2)
    run(gallery, raw)
    pages = arm.blobs[DISK.lower()]
    pages[min(pages)] = bytes(len(pages[min(pages)]))
    arm.fault = lambda request: None
    assert run(gallery, raw).code == 0
    assert arm.disk_bytes(DISK)[: 40 * MIB + 1024] == raw.read_bytes()


def test_pages_of_another_file_are_not_mixed_in(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    arm.fault = break_after(2)
    run(gallery, raw)
    arm.fault = lambda request: None
    raw.write_bytes(os.urandom(3 * MIB))
    outcome = run(gallery, raw)
    assert outcome.code == 0
    assert "beginning anew" in outcome.err
    assert arm.disk_bytes(DISK)[: 3 * MIB] == raw.read_bytes()
    assert len(arm.calls("PUT", "^/sub.*/disks/img")) == 2


def test_a_disk_that_is_not_ours_is_left_alone(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    arm.add(DISK, {"properties": {"diskState": "Unattached"}})
    outcome = run(gallery, raw)
    assert outcome.code == 1
    assert "There is a disk 'img' already" in outcome.err
    assert DISK.lower() in arm.resources
    assert not arm.calls("PUT")


def test_an_image_that_is_there_is_left_alone(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    arm.add(IMAGE, {})
    outcome = run(gallery, raw)
    assert outcome.code == 1
    assert "There is an image 'img' already" in outcome.err
    assert not arm.calls("PUT")


def test_an_upload_that_was_complete_is_not_sent_again(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    refusal = Answer(409, {"error": {"code": "Conflict", "message": "Not now."}})
    arm.fault = lambda request: refusal if request.method == "PUT" and "/images/" in request.path else None
    assert run(gallery, raw).code == 1
    arm.fault = lambda request: None
    before = len(arm.calls("PUT", "/blobs/"))
    assert run(gallery, raw).code == 0
    assert len(arm.calls("PUT", "/blobs/")) == before


def test_a_disk_that_the_server_can_not_use_is_deleted(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    def unusable(path: str, resource: dict[str, object]) -> None:
        if "/disks/" in path:
            error = {"code": "InvalidImage", "message": "No disk."}
            resource["properties"]["uploadError"] = error  # type: ignore[index]

    arm.on_put = unusable
    outcome = run(gallery, raw)
    assert outcome.code == 1
    assert outcome.err == "ERROR: (InvalidImage) No disk.\n"
    assert DISK.lower() not in arm.resources


def test_an_image_left_with_its_disk_is_only_tidied_up(arm: StandIn, gallery: Gallery, raw: Path) -> None:
    refusal = Answer(409, {"error": {"code": "Conflict", "message": "Not now."}})
    arm.fault = lambda request: refusal if request.method == "DELETE" else None
    assert run(gallery, raw).code == 1
    arm.fault = lambda request: None
    assert run(gallery, raw).code == 0
    assert DISK.lower() not in arm.resources
    assert len(arm.calls("PUT", "/images/")) == 1


def test_progress_says_bytes_and_rate(
    arm: StandIn, gallery: Gallery, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_FOR_S", 0)
    outcome = run(gallery, raw)
    assert "disk.raw: 100% " in outcome.err
    assert "sent, " in outcome.err and "iB/s" in outcome.err
    assert run(gallery, raw, "--only-show-errors").code == 1  # the image is there now


def test_sources_of_an_image(arm: StandIn, gallery: Gallery) -> None:
    create = ["image", "create", "-g", "rg", "-n", "i", "--os-type", "Linux", "--source"]
    gallery(*create, "https://example.com/a.vhd")
    properties = arm.calls("PUT")[-1].json["properties"]
    assert properties["hyperVGeneration"] == "V1"
    assert properties["storageProfile"] == {
        "osDisk": {"osType": "Linux", "osState": "Generalized", "blobUri": "https://example.com/a.vhd"},
        "dataDisks": [],
    }
    arm.add(f"{COMPUTE}/snapshots/s", {})
    gallery(*create, "s")
    assert arm.calls("PUT")[-1].json["properties"]["storageProfile"]["osDisk"]["snapshot"] == {
        "id": f"{COMPUTE}/snapshots/s"
    }
    assert "has no" in gallery(*create, "absent").err


def test_disks_for_upload_copy_and_import(arm: StandIn, gallery: Gallery) -> None:
    create = ["disk", "create", "-g", "rg", "-n", "d"]
    gallery(*create, "--upload-type", "Upload", "--upload-size-bytes", "2147484160")
    assert arm.calls("PUT")[-1].json["properties"]["creationData"] == {
        "createOption": "Upload",
        "uploadSizeBytes": 2147484160,
    }
    gallery(*create, "--source", f"{COMPUTE}/snapshots/s")
    assert arm.calls("PUT")[-1].json["properties"]["creationData"] == {
        "createOption": "Copy",
        "sourceResourceId": f"{COMPUTE}/snapshots/s",
    }
    version = f"{COMPUTE}/galleries/g/images/i/versions/1.0.0"
    gallery(*create, "--gallery-image-reference", version, "--gallery-image-reference-lun", "5")
    assert arm.calls("PUT")[-1].json["properties"]["creationData"] == {
        "createOption": "FromImage",
        "galleryImageReference": {"id": version, "lun": 5},
    }
    assert gallery(*create, "--gallery-image-reference-lun", "5").code == 2


def test_a_managed_image_of_several_disks(arm: StandIn, gallery: Gallery) -> None:
    for path in ("disks/d", "snapshots/s", "virtualMachines/vm"):
        arm.add(f"{COMPUTE}/{path}", {})
    create = ["image", "create", "-g", "rg", "-n", "i", "--os-type", "Linux", "--source"]
    data = ["--data-disk-sources", "d", "https://example.com/data.vhd"]
    assert gallery(*create, "s", *data).code == 0
    profile = arm.calls("PUT")[-1].json["properties"]["storageProfile"]
    assert profile["osDisk"]["snapshot"] == {"id": f"{COMPUTE}/snapshots/s"}
    assert profile["dataDisks"] == [
        {"lun": 0, "managedDisk": {"id": f"{COMPUTE}/disks/d"}},
        {"lun": 1, "blobUri": "https://example.com/data.vhd"},
    ]
    assert gallery(*create, "vm", *data).code == 2
    assert gallery(*create, "s", "--data-disk-sources", "vm").code == 2


def test_the_waits_of_an_import_are_said(
    arm: StandIn, gallery: Gallery, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_FOR_S", 0)
    arm.polls = 3
    said = run(gallery, raw).err
    assert said.index("disk.raw: waiting for the disk ...") < said.index("disk.raw: 100%")
    assert said.index("disk.raw: 100%") < said.index("disk.raw: taking in ...")
