"""Disks: `Microsoft.Compute/disks`. A disk is how the bytes of an image come in.

`createOption` Upload makes a disk that waits for a fixed VHD: `beginGetAccess` gives a writable SAS URL
(`page_blobs.py` answers it), `endGetAccess` takes it back, checks what came, and puts it into the source
region's first store. An upload without a footer is not complete: it stays, for another grant. Copy and
FromImage make a disk that shares another's image. The disk of a machine is the machine's (`machine_disks.py`).
Source: Disks REST API, api-version 2025-01-02.
"""

import os
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field
from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Properties, ResourceType, Sku
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.arm.validation import converted
from opengallery.database import now
from opengallery.imagestore import UnusableImage
from opengallery.imagestore.formats import open_fixed_vhd
from opengallery.providers.compute import COMPUTE_NAME, DISK_VERSIONS, disk_origins, sources
from opengallery.providers.compute.checksums import check_file, wanted_sha256
from opengallery.providers.compute.disk_downloads import RIGHTS as READING
from opengallery.providers.compute.page_blobs import RIGHTS as WRITING
from opengallery.providers.compute.page_blobs import settled
from opengallery.providers.compute.replicas import complete
from opengallery.providers.compute.signed_urls import new_key, signed_url
from opengallery.replication import workflows

MIB = 1024**2
FOOTER_BYTES = 512
UPLOAD_MIN_BYTES = 20 * MIB + FOOTER_BYTES
READY_TO_UPLOAD, ACTIVE_UPLOAD, UNATTACHED, ACTIVE_SAS = (
    "ReadyToUpload",
    "ActiveUpload",
    "Unattached",
    "ActiveSAS",
)
ATTACHED, RESERVED = "Attached", "Reserved"


class DiskProperties(Properties):
    """What a disk is created with."""

    creation_data: disk_origins.CreationData
    os_type: Literal["Linux", "Windows"] | None = None
    hyper_v_generation: Literal["V1", "V2"] | None = None
    disk_size_gb: Annotated[int, Meta(ge=1, le=65536)] | None = field(name="diskSizeGB", default=None)


class Access(Properties):
    """The body of `beginGetAccess`."""

    access: Literal["Read", "Write"]
    duration_in_seconds: Annotated[int, Meta(ge=1, le=2**31)] = 3600


def staged_file(services: Services, disk: Resource) -> Path:
    """The sparse file that an upload writes into."""
    return services.settings.data / "uploads" / f"{disk.private['uploadId']}.vhd"


def is_waiting(disk: Resource) -> bool:
    """Whether the disk's bytes are still to come, or to be taken in."""
    return "uploadId" in disk.private


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    wanted_sha256(new.tags)
    if old is not None:
        return
    data = new.properties["creationData"]
    where = "properties.creationData"
    if data["createOption"] != "Upload":
        disk_origins.check(call, new)
        return
    size = data.get("uploadSizeBytes")
    limit = call.services.settings.images.max_size_bytes + FOOTER_BYTES
    if size is None or size < UPLOAD_MIN_BYTES or (size - FOOTER_BYTES) % MIB or size > limit:
        raise invalid_parameter(
            f"{where}.uploadSizeBytes",
            f"uploadSizeBytes is {size}. Give the size of the fixed VHD with its footer of 512 bytes: whole MiB plus "
            f"512, from {UPLOAD_MIN_BYTES} to {limit} bytes (images.max_size_bytes of the server's settings, and 512).",
        )
    new.private = {"uploadId": str(uuid.uuid4()), "uploadSizeBytes": size}
    new.properties["diskSizeGB"] = max(1, -(-size // 1024**3))
    new.properties["diskSizeBytes"] = size - FOOTER_BYTES
    new.properties["uniqueId"] = str(uuid.uuid4())
    new.properties["timeCreated"] = now().isoformat()


def _create(work: Work) -> None:
    """Lay out the file to upload into, or take over the source's image."""
    disk = work.resource()
    if sources.machine_behind(disk) or work.step("lay out", _lay_out, work):
        return
    if not work.step("has image", sources.has_image, work):
        disk_origins.bring(work)


def _lay_out(work: Work) -> bool:
    """Make the file to upload into. False for a disk that needs none."""
    disk = work.resource()
    if disk.properties["creationData"]["createOption"] != "Upload":
        return False
    if not is_waiting(disk):
        return True
    path = staged_file(work.services, disk)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with path.open("ab") as file:
        file.truncate(disk.private["uploadSizeBytes"])
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def check_access(call: Call, disk: Resource, body: dict[str, Any]) -> None:
    """Raise 409 unless the disk may be read, or written, as `beginGetAccess` asks."""
    access = converted(body, Access, "body")
    if sources.machine_behind(disk):
        raise ArmError(
            "OperationNotAllowed",
            f"The disk '{disk.id.name}' is in use by a machine. Make a snapshot of it (az snapshot create "
            "--source DISK), and ask for access to that.",
            status=409,
        )
    if access.access == "Read":
        if is_waiting(disk) or not complete(call.connection, disk.key, disk.location):
            raise ArmError(
                "OperationNotAllowed",
                f"The disk '{disk.id.name}' has no bytes to read yet. Upload them with access Write, and end "
                "the upload by 'az disk revoke-access'.",
                target="access",
                status=409,
            )
        return
    if not is_waiting(disk):
        raise ArmError(
            "OperationNotAllowed",
            f"The disk '{disk.id.name}' has its bytes already. Create another one with --upload-type Upload.",
            status=409,
        )
    check_free(disk)


def grant(work: Work) -> dict[str, str]:
    """Give the URL to read or write the disk."""
    return work.sealed_step("grant", _grant_once, work)


def _grant_once(work: Work) -> dict[str, str]:
    disk = work.resource()
    access = converted(work.operation.input, Access, "body")
    key, until = new_key(), now() + timedelta(seconds=access.duration_in_seconds)
    base = work.operation.base_url
    if access.access == "Read":
        download_id = str(uuid.uuid4())
        work.change_private(downloadId=download_id, downloadKey=key, downloadGranted=now().isoformat())
        return {"accessSAS": signed_url(base, "downloads", download_id, key, READING, until)}
    work.change_private(uploadKey=key)
    return {"accessSAS": signed_url(base, "uploads", disk.private["uploadId"], key, WRITING, until)}


def check_upload(services: Services, disk: Resource) -> None:
    """Raise 400 unless what was uploaded is a fixed VHD of the size it says. Reads its footer only."""
    try:
        open_fixed_vhd(staged_file(services, disk), services.settings.images.max_size_bytes).close()
    except UnusableImage as error:
        reason = str(error)
        if "no VHD footer" in reason:
            reason = "The upload has no fixed-VHD footer in its last 512 bytes."
        raise ArmError(
            "InvalidParameter",
            f"The disk '{disk.id.name}' can't be used: {reason} Grant access again (az disk grant-access), "
            "upload a whole fixed VHD, and try again.",
            target="properties.storageProfile.osDisk",
        ) from error


def _has_footer(services: Services, disk: Resource) -> bool:
    """Whether something was written into the last 512 bytes: until then the upload goes on."""
    with staged_file(services, disk).open("rb") as file:
        file.seek(-FOOTER_BYTES, os.SEEK_END)
        return any(file.read())


def check_free(disk: Resource, taker: str = "") -> None:
    """Raise 409 while the upload is being taken in by a resource other than `taker`."""
    if disk.private.get("takenInBy", taker) != taker:
        raise ArmError(
            "OperationNotAllowed",
            f"The upload of the disk '{disk.id.name}' is being taken in by {disk.private['takenInBy']}. "
            "Wait until it is, and try again.",
            status=409,
        )


def _check_end(call: Call, disk: Resource, _body: dict[str, Any]) -> None:
    check_free(disk)
    if "uploadKey" not in disk.private or not _has_footer(call.services, disk):
        return
    try:
        reserve(call, disk, disk.key)
    except ArmError:
        # Refused or not, the URL ends: that is committed, though the refusal is the answer.
        resources.change_private(call.connection, disk.key, uploadKey=None)
        call.connection.commit()
        settled(staged_file(call.services, disk))
        raise


def _check_delete(call: Call, disk: Resource) -> None:
    check_free(disk, disk.key)
    holder = resources.get(call.connection, sources.machine_behind(disk) or "")
    if holder is not None:
        raise ArmError(
            "OperationNotAllowed",
            f"Disk {disk.id.name} is attached to VM {holder.id}. Delete the machine: its disk goes with it.",
            status=409,
        )


def reserve(call: Call, disk: Resource, taker: str) -> None:
    """Let `taker` take the upload in, and nobody else. Raises 400 when the upload can't be used, 409 when
    another one has it."""
    check_free(disk, taker)
    check_upload(call.services, disk)
    resources.change_private(call.connection, disk.key, takenInBy=taker)


def release(connection: Connection, disk_key: str, taker: str) -> None:
    """`taker` takes the upload in no more: others may."""
    disk = resources.get(connection, disk_key)
    if disk is not None and disk.private.get("takenInBy") == taker:
        resources.change_private(connection, disk_key, takenInBy=None)


def _revoke(work: Work) -> None:
    """End the URL in any case; take the upload in when it is a whole one, which `_check_end` reserved."""
    work.step("end access", _end_access, work)
    take_in(work, work.key)
    end_downloads(work)


def end_downloads(work: Work) -> None:
    """Take back the URL to read."""
    nothing = {"downloadId": None, "downloadKey": None, "downloadGranted": None}
    work.step("end downloads", lambda: work.change_private(**nothing))


def _end_access(work: Work) -> None:
    disk = work.resource()
    if is_waiting(disk):
        work.change_private(uploadKey=None)
        settled(staged_file(work.services, disk))


def take_in(work: Work, key: str) -> None:
    """End the upload of the disk `key`, which is reserved: revoke its SAS, put its bytes into the region's
    first store.

    Does nothing for a disk that is not reserved for this resource. Raises `ArmError` when the bytes can't
    be used: the disk waits for others then, and access can be granted again.
    """
    try:
        found = work.step("revoke", _close_upload, work, key)
        if found is None:
            return
        path, location = found
        workflows.ingest(key, work.principal.tenant_id, path, location)
    except Exception as failure:
        work.step("reopen", _reopen, work, key)
        raise sources.ingest_refused(failure, "disk") from failure
    work.step("finish upload", _finish_upload, work, key, path)


def _close_upload(work: Work, key: str) -> tuple[str, str] | None:
    with work.services.database.write() as connection:
        disk = resources.get(connection, key)
        if disk is None or not is_waiting(disk) or disk.private.get("takenInBy") != work.key:
            return None
        resources.change_private(connection, key, uploadKey=None)
    path = staged_file(work.services, disk)
    settled(path)
    # Nobody can write any more: what is checked now is what is taken in.
    check_upload(work.services, disk)
    check_file(path, disk.tags)
    return str(path), disk.location or ""


def _reopen(work: Work, key: str) -> None:
    with work.services.database.write() as connection:
        release(connection, key, work.key)


def _finish_upload(work: Work, key: str, path: str) -> None:
    with work.services.database.write() as connection:
        disk = resources.get(connection, key)
        if disk is not None:
            disk.private = {}
            resources.save(connection, disk)
    Path(path).unlink(missing_ok=True)


def _remove(work: Work) -> None:
    workflows.remove(work.key)
    work.step("delete the upload", _delete_upload, work)


def _delete_upload(work: Work) -> None:
    disk = work.resource()
    if is_waiting(disk):
        staged_file(work.services, disk).unlink(missing_ok=True)


def view_state(call: Call, disk: Resource) -> dict[str, Any]:
    """What the disk waits for, or who uses it."""
    if machine_key := sources.machine_behind(disk):
        holder = resources.get(call.connection, machine_key)
        is_running = holder is not None and holder.private.get("power") == "running"
        return {"diskState": ATTACHED if is_running else RESERVED}
    state = ACTIVE_SAS if "downloadKey" in disk.private else UNATTACHED
    if is_waiting(disk):
        state = ACTIVE_UPLOAD if "uploadKey" in disk.private else READY_TO_UPLOAD
    return {"diskState": state}


RESOURCE_TYPE = ResourceType(
    "Microsoft.Compute/disks",
    DISK_VERSIONS,
    DiskProperties,
    name=COMPUTE_NAME,
    envelope={"sku": Sku, "zones": list[str], "managedBy": str},
    immutable=frozenset({"creationData"}),
    read_only=frozenset({"diskState", "uniqueId", "timeCreated", "diskSizeBytes"}),
    check=_check,
    fulfil=_create,
    remove=_remove,
    view=view_state,
    before_delete=_check_delete,
    created_status=202,
    actions={
        "beginGetAccess": Action(
            "Microsoft.Compute/disks/beginGetAccess/action", fulfil=grant, check=check_access
        ),
        "endGetAccess": Action(
            "Microsoft.Compute/disks/endGetAccess/action", fulfil=_revoke, check=_check_end
        ),
    },
)
