"""Sources: where an image, a disk, a snapshot or a version gets its bytes from.

A source that holds an image shares its replicas, and no byte moves. A machine, and a disk that a machine
uses, is captured instead, as it is at that moment: only the blocks that the machine changed are new in
the store.
"""

import subprocess
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.database import now
from opengallery.hypervisors.machine import HypervisorError
from opengallery.imagestore import UnusableImage
from opengallery.providers.compute import image_data_disks
from opengallery.providers.compute.replicas import complete
from opengallery.replication import placement, workflows

MACHINE = "Microsoft.Compute/virtualMachines"
DISK = "Microsoft.Compute/disks"
SNAPSHOT = "Microsoft.Compute/snapshots"
IMAGE = "Microsoft.Compute/images"
VERSION = "Microsoft.Compute/galleries/images/versions"
_NONE: Mapping[int, str] = MappingProxyType({})


def machine_behind(source: Resource) -> str | None:
    """The key of the machine whose disk the source is; None when the source has an image of its own."""
    if source.id.type == MACHINE:
        return source.key if "power" in source.private else None
    return str(source.private["machine"]) if "machine" in source.private else None


def linked(call: Call, text: str, target: str, *kinds: str) -> Resource:
    """The source that a property names, whose bytes the caller must be allowed to have.

    Seeing a disk is too little: a copy gives its owner the bytes, which takes the right to export them, and a
    capture that to change the machine. Raises as `Call.linked`.
    """
    kind = parse_linked(text, target, *kinds).type
    if kind == MACHINE:
        return call.linked(text, target, kind, action="write")
    source = call.linked(text, target, kind)
    if kind in (DISK, SNAPSHOT):
        call.authorize_linked(f"{kind}/beginGetAccess/action", source.id, target)
    return source


def has_bytes(connection: Connection, source: Resource, region: str | None = None) -> bool:
    """Whether something can be made from the source (in `region`) now."""
    if machine_behind(source) is not None:
        return region in (None, source.location)
    if source.id.type in (IMAGE, VERSION):
        return image_data_disks.is_complete(connection, source, region)
    return bool(complete(connection, source.key, region))


def data_disks(source: Resource) -> dict[int, str]:
    """By lun, the keys of what holds the bytes of a source's data disks; a snapshot or a disk has none."""
    if source.id.type == MACHINE:
        disks = source.properties["storageProfile"].get("dataDisks", [])
        return {disk["lun"]: str(disk["managedDisk"]["id"]).lower() for disk in disks}
    return image_data_disks.owner_keys(source) if source.id.type in (IMAGE, VERSION) else {}


def describe_copy(
    call: Call, new: Resource, source: Resource, where: str, data_disk: str | None = None
) -> None:
    """Take over the size and kind of what a disk or snapshot is made from. Raises 400 where it has no bytes.

    `data_disk` owns the image of the source's data disk, where it is made from that one.
    """
    if not has_bytes(call.connection, source, new.location):
        raise invalid_parameter(
            where, f"'{source.id.name}' has no image in '{new.location}'. Choose its region."
        )
    held = complete(call.connection, data_disk or source.key, new.location)
    size_bytes = held[0].total_bytes if held else source.properties["diskSizeBytes"]
    new.properties["diskSizeBytes"] = size_bytes
    new.properties.setdefault("diskSizeGB", max(1, -(-size_bytes // 1024**3)))
    new.properties["uniqueId"] = str(uuid.uuid4())
    new.properties["timeCreated"] = now().isoformat()
    for name in ("osType", "hyperVGeneration"):
        if name in source.properties:
            new.properties.setdefault(name, source.properties[name])


def has_image(work: Work, owner: str | None = None) -> bool:
    """Whether the image of the resource (or of `owner`, a data disk of it) is complete: nothing is to be
    brought then."""
    return has_images(work, [owner or work.key])


def has_images(work: Work, owners: Iterable[str]) -> bool:
    """Whether the images of all of these are complete."""
    with work.services.database.read() as connection:
        return all(complete(connection, owner) for owner in owners)


def bring(work: Work, source_key: str, owner: str | None = None) -> None:
    """Give the resource (or `owner`, a data disk of it) the image of its source. Raises `ArmError`."""
    if work.step("find the machine", find_machine, work, source_key) is None:
        adopt(work, source_key, owner)
    else:
        capture(work, source_key, owner)


def find_machine(work: Work, source_key: str) -> str | None:
    """The key of the machine behind the source `source_key`, if there is one."""
    with work.services.database.read() as connection:
        source = resources.get(connection, source_key)
    return machine_behind(source) if source is not None else None


def adopt(work: Work, source_key: str, owner: str | None = None) -> None:
    """Take over the image of another resource in the same region. Raises 409 when that is gone."""
    try:
        workflows.adopt(owner or work.key, source_key, work.resource().location or "")
    except workflows.NothingToReplicate as failure:
        raise ArmError("OperationNotAllowed", str(failure), status=409) from failure


def capture(
    work: Work, source_key: str, owner: str | None = None, data_disks: Mapping[int, str] = _NONE
) -> None:
    """Take the disk of a machine in (that of its system, unless the source is another), as it is now, as the
    image of this resource, or of `owner`. Raises `ArmError`.

    `data_disks` owns, by lun, the images of the machine's data disks: all disks are of the same moment.
    What the machine reads stays until that is done, even if machine and version are deleted meanwhile.
    """
    paths, base = work.step("copy the disk", _copy, work, source_key, list(data_disks))
    tenant_id, region = work.principal.tenant_id, work.resource().location or ""
    try:
        for path, holder in zip(paths, (owner or work.key, *data_disks.values()), strict=True):
            workflows.ingest(holder, tenant_id, path, region, base if path == paths[0] else None)
    except (UnusableImage, workflows.ReplicaFailed, workflows.ReplicationStopped) as failure:
        work.step("let go", _let_go, work, paths)
        raise ingest_refused(failure, "source") from failure
    work.step("let go", _let_go, work, paths)


def _copy(work: Work, source_key: str, luns: list[int]) -> tuple[list[str], workflows.Base | None]:
    """Copy what the machine wrote; the copies' paths, the source's first, and where to read the rest of that."""
    with work.services.database.write() as connection:
        source = resources.get(connection, source_key)
        machine = resources.get(connection, machine_behind(source) or "") if source is not None else None
        if source is None or machine is None:
            raise ArmError("OperationNotAllowed", "The machine was deleted meanwhile.", status=409)
        lun = source.private.get("lun")
        # A data disk lies over nothing.
        plan = placement.share_reading(connection, machine.key, _sharer(work)) if lun is None else None
    folder = work.services.settings.data / "uploads"
    folder.mkdir(mode=0o700, exist_ok=True)
    targets = {disk: folder / _file_name(work, disk) for disk in (lun, *luns)}
    paths = [str(path) for path in targets.values()]
    try:
        work.services.hypervisor.copy_disks(str(machine.properties["vmId"]), targets)
    except (HypervisorError, OSError, subprocess.SubprocessError) as failure:
        _let_go(work, paths)
        raise ArmError(
            "OperationNotAllowed",
            f"The disk of the machine '{machine.id.name}' can't be copied: {failure} "
            "Mend what it says, and try again.",
            status=409,
        ) from failure
    if plan is None:
        return paths, None
    return paths, {"stores": plan.stores, "tenant_id": plan.tenant_id, "image_id": plan.image_id}


def _file_name(work: Work, lun: int | None) -> str:
    return f"{work.operation.id}{'' if lun is None else f'-{lun}'}.qcow2"


def _let_go(work: Work, paths: list[str]) -> None:
    for path in paths:
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
