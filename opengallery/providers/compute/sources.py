"""Sources: where an image, a disk, a snapshot or a version gets its bytes from.

A source that holds an image shares its replicas, and no byte moves. A machine, and a disk that a machine
uses, is captured instead, as it is at that moment: only the blocks that the machine changed are new in
the store.
"""

import subprocess
import uuid
from pathlib import Path

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.database import now
from opengallery.hypervisors.machine import HypervisorError
from opengallery.imagestore import UnusableImage
from opengallery.providers.compute.replicas import complete
from opengallery.replication import placement, workflows

MACHINE = "Microsoft.Compute/virtualMachines"
DISK = "Microsoft.Compute/disks"
SNAPSHOT = "Microsoft.Compute/snapshots"


def machine_behind(source: Resource) -> str | None:
    """The key of the machine whose disk the source is; None when the source has an image of its own."""
    if source.id.type == MACHINE:
        return source.key if "power" in source.private else None
    return str(source.private["machine"]) if "machine" in source.private else None


def refuse_data_disks(source: Resource, target: str) -> None:
    """Raise 400 for a machine with data disks: an image that silently lacks them would mislead."""
    if source.id.type == MACHINE and source.properties["storageProfile"].get("dataDisks"):
        disk_id = source.properties["storageProfile"]["osDisk"]["managedDisk"]["id"]
        raise invalid_parameter(
            target,
            f"The machine '{source.id.name}' has data disks, and this server's images and versions hold an OS disk "
            f"only. Publish that alone (--os-snapshot {disk_id}), and make snapshots of the data disks.",
        )


def has_bytes(connection: Connection, source: Resource, region: str | None = None) -> bool:
    """Whether something can be made from the source (in `region`) now."""
    if machine_behind(source) is not None:
        return region in (None, source.location)
    return bool(complete(connection, source.key, region))


def describe_copy(call: Call, new: Resource, source: Resource, where: str) -> None:
    """Take over the size and kind of what a disk or snapshot is made from. Raises 400 where it has no bytes."""
    if not has_bytes(call.connection, source, new.location):
        raise invalid_parameter(
            where, f"'{source.id.name}' has no image in '{new.location}'. Choose its region."
        )
    held = complete(call.connection, source.key, new.location)
    size_bytes = held[0].total_bytes if held else source.properties["diskSizeBytes"]
    new.properties["diskSizeBytes"] = size_bytes
    new.properties.setdefault("diskSizeGB", max(1, -(-size_bytes // 1024**3)))
    new.properties["uniqueId"] = str(uuid.uuid4())
    new.properties["timeCreated"] = now().isoformat()
    for name in ("osType", "hyperVGeneration"):
        if name in source.properties:
            new.properties.setdefault(name, source.properties[name])


def has_image(work: Work) -> bool:
    """Whether the resource's own image is complete: nothing is to be brought then."""
    with work.services.database.read() as connection:
        return bool(complete(connection, work.key))


def bring(work: Work, source_key: str) -> None:
    """Give the resource the image of its source. Raises `ArmError`."""
    if work.step("find the machine", find_machine, work, source_key) is None:
        adopt(work, source_key)
    else:
        capture(work, source_key)


def find_machine(work: Work, source_key: str) -> str | None:
    """The key of the machine behind the source `source_key`, if there is one."""
    with work.services.database.read() as connection:
        source = resources.get(connection, source_key)
    return machine_behind(source) if source is not None else None


def adopt(work: Work, source_key: str) -> None:
    """Take over the image of another resource in the same region. Raises 409 when that is gone."""
    try:
        workflows.adopt(work.key, source_key, work.resource().location or "")
    except workflows.NothingToReplicate as failure:
        raise ArmError("OperationNotAllowed", str(failure), status=409) from failure


def capture(work: Work, source_key: str) -> None:
    """Take the disk of a machine in (that of its system, unless the source is another), as it is now, as the
    image of this resource. Raises `ArmError`.

    What the machine reads stays until that is done, even if machine and version are deleted meanwhile.
    """
    path, base = work.step("copy the disk", _copy, work, source_key)
    try:
        workflows.ingest(work.key, work.principal.tenant_id, path, work.resource().location or "", base)
    except (UnusableImage, workflows.ReplicaFailed, workflows.ReplicationStopped) as failure:
        work.step("let go", _let_go, work, path)
        raise ingest_refused(failure, "source") from failure
    work.step("let go", _let_go, work, path)


def _copy(work: Work, source_key: str) -> tuple[str, workflows.Base | None]:
    """Copy what the machine wrote; the copy's path, and where to read the rest."""
    with work.services.database.write() as connection:
        source = resources.get(connection, source_key)
        machine = resources.get(connection, machine_behind(source) or "") if source is not None else None
        if source is None or machine is None:
            raise ArmError("OperationNotAllowed", "The machine was deleted meanwhile.", status=409)
        lun = source.private.get("lun")
        # A data disk lies over nothing.
        plan = placement.share_reading(connection, machine.key, _sharer(work)) if lun is None else None
    path = work.services.settings.data / "uploads" / f"{work.operation.id}.qcow2"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        work.services.hypervisor.copy_disk(str(machine.properties["vmId"]), path, lun)
    except (HypervisorError, OSError, subprocess.SubprocessError) as failure:
        _let_go(work, str(path))
        raise ArmError(
            "OperationNotAllowed",
            f"The disk of the machine '{machine.id.name}' can't be copied: {failure} "
            "Mend what it says, and try again.",
            status=409,
        ) from failure
    if plan is None:
        return str(path), None
    return str(path), {"stores": plan.stores, "tenant_id": plan.tenant_id, "image_id": plan.image_id}


def _let_go(work: Work, path: str) -> None:
    Path(path).unlink(missing_ok=True)
    with work.services.database.write() as connection:
        placement.release_reader(connection, _sharer(work))
    workflows.sweep()


def _sharer(work: Work) -> str:
    """Who reads the base meanwhile: no machine has such a name."""
    return f"{work.key}/capture"


def ingest_refused(failure: Exception, target: str) -> Exception:
    """What a client is told when an image can't be brought in."""
    if isinstance(failure, UnusableImage):
        return ArmError("InvalidParameter", f"The image can't be used: {failure}", target=target)
    if isinstance(failure, workflows.ReplicationStopped):
        return ArmError("OperationPreempted", "It was deleted meanwhile.", target=target, status=409)
    if isinstance(failure, workflows.ReplicaFailed):
        message = f"{failure} Mend what it says, and try again."
        return ArmError("ImageIngestFailed", message, target=target, status=409)
    return failure
