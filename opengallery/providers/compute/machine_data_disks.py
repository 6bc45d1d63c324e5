"""The data disks of a machine: empty ones that it asks for, and those of its image, which come by themselves.

The content of a disk from an image is copied from a replica in the machine's region as the machine is made. Until
then the machine is told where to read it, as for its OS disk, so that the version may be deleted meanwhile.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, field
from sqlalchemy import Connection

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import DataDisk, DiskContent, HypervisorError
from opengallery.imagestore import ImageStoreError
from opengallery.providers.compute import COMPUTE_NAME
from opengallery.providers.compute.image_data_disks import COUNT_MAX, LUN_MAX, ImageDataDisk
from opengallery.providers.compute.image_references import ReferredImage
from opengallery.providers.compute.machine_disks import GIB, add, from_image
from opengallery.providers.compute.replicas import replica_url
from opengallery.providers.compute.vm_sizes import find_size
from opengallery.replication import placement
from opengallery.replication.placement import ReadPlan
from opengallery.replication.stores import UnknownStore
from opengallery.settings import SettingsError

_WHERE = "properties.storageProfile.dataDisks"

DiskName = Annotated[str, Meta(pattern=rf"^{COMPUTE_NAME.regex}\Z")]


class MachineDataDisk(Properties):
    """A data disk that a machine is created with."""

    lun: Annotated[int, Meta(ge=0, le=LUN_MAX)]
    create_option: Literal["Empty", "empty", "Attach", "attach", "FromImage", "fromImage", "Copy", "copy"]
    name: DiskName | None = None
    caching: str | None = None
    disk_size_gb: Annotated[int, Meta(ge=1, le=32767)] | None = field(name="diskSizeGB", default=None)


def add_data_disks(
    call: Call, machine: Resource, image: ReferredImage, names: Mapping[int | None, str]
) -> None:
    """Make the resources of a new machine's data disks, and tell the machine. Raises 400 and 409.

    `names` are those that disks had which the machine was made with before, by lun.
    """
    disks: list[dict[str, Any]] = machine.properties["storageProfile"].setdefault("dataDisks", [])
    held = {disk.lun: disk for disk in image.data_disks}
    asked = {disk["lun"] for disk in disks}
    disks += [{"lun": lun, "createOption": "FromImage"} for lun in held if lun not in asked]
    _check_number(machine, disks)
    contents: dict[str, dict[str, Any]] = {}
    for disk in disks:
        lun = disk["lun"]
        default = f"{machine.id.name}_disk{lun + 2}_{machine.properties['vmId'].replace('-', '')}"
        disk.setdefault("name", names.get(lun, default))
        if disk["createOption"].lower() == "fromimage" and lun in held:
            size_bytes = _take_size(disk, held[lun])
            creation = from_image(image, lun=lun)
            contents[str(lun)] = {
                "owner": held[lun].owner,
                "sizeBytes": held[lun].size_bytes,
                "diskBytes": size_bytes,
            }
        else:
            _check_empty(disk, held)
            disk["createOption"] = "Empty"
            size_bytes, creation = disk["diskSizeGB"] * GIB, {"createOption": "Empty"}
        add(call, machine, disk, {"creationData": creation, "diskSizeBytes": size_bytes}, lun=lun)
    if contents:
        machine.private["dataDisks"] = contents


def _check_number(machine: Resource, disks: list[dict[str, Any]]) -> None:
    most = min(COUNT_MAX, find_size(machine.properties["hardwareProfile"]["vmSize"]).data_disks)
    if len(disks) > most:
        raise ArmError(
            "OperationNotAllowed",
            f"The maximum number of data disks allowed to be attached to a VM of this size is {most}. "
            "Give fewer, or a larger size (--size).",
            target="dataDisks",
            status=409,
        )
    if len({disk["lun"] for disk in disks}) < len(disks):
        raise invalid_parameter(_WHERE, "Two data disks have the same lun. Give each its own.")


def _check_empty(disk: dict[str, Any], held: Collection[int]) -> None:
    lun, option = disk["lun"], disk["createOption"].lower()
    if option == "fromimage":
        luns = ", ".join(str(known) for known in sorted(held)) or "none"
        raise invalid_parameter(_WHERE, f"The image has no data disk of lun {lun}. Its luns: {luns}.")
    if lun in held:
        raise invalid_parameter(
            _WHERE,
            f"The lun {lun} is that of a data disk of the image. Give another, or createOption FromImage.",
        )
    if option != "empty" or "diskSizeGB" not in disk:
        raise invalid_parameter(
            _WHERE,
            "Beside those of its image, this server gives machines empty data disks only, of a size that is told: "
            "--data-disk-sizes-gb SIZE.",
        )


def _take_size(disk: dict[str, Any], held: ImageDataDisk) -> int:
    """The size of a disk from the image: that of its image, or a larger one that is asked for."""
    least_gib = max(1, -(-held.size_bytes // GIB))
    if disk.get("diskSizeGB", least_gib) < least_gib:
        raise invalid_parameter(
            f"{_WHERE}.diskSizeGB",
            f"The data disk of lun {held.lun} has {least_gib} GB in the image. Give that, or more.",
        )
    disk["createOption"] = "FromImage"
    disk.setdefault("caching", held.caching)
    size_bytes = max(held.size_bytes, int(disk.get("diskSizeGB", 0)) * GIB)
    disk["diskSizeGB"] = -(-size_bytes // GIB)
    return size_bytes


def keep(new: Resource, old: Resource) -> None:
    """Let a machine that is there keep its data disks. Raises 409 when the request names others.

    The request that created it has fewer members, and need not name the disks of the image: sent again for a
    machine that could not be made, it is as good as what was made of it.
    """
    kept = old.properties["storageProfile"].get("dataDisks", [])
    before = {disk["lun"]: disk for disk in kept}
    sent = {disk["lun"]: disk for disk in new.properties["storageProfile"].get("dataDisks", kept)}
    unnamed = {
        lun
        for lun, disk in before.items()
        if disk["createOption"] == "FromImage" and "power" not in old.private
    }
    if sent.keys() - before.keys() or before.keys() - sent.keys() - unnamed:
        raise _changed()
    if not all(_agrees(disk, before[lun]) for lun, disk in sent.items()):
        raise _changed()
    new.properties["storageProfile"]["dataDisks"] = kept


def _agrees(sent: Any, kept: Any) -> bool:
    if isinstance(sent, dict) and isinstance(kept, dict):
        return all(name in kept and _agrees(value, kept[name]) for name, value in sent.items())
    if isinstance(sent, str) and isinstance(kept, str):
        return sent.lower() == kept.lower()
    return bool(sent == kept)


def _changed() -> ArmError:
    path = "storageProfile.dataDisks"
    return ArmError(
        "PropertyChangeNotAllowed",
        f"Changing property '{path}' is not allowed. Leave it as it is, or create another resource.",
        target=path,
        status=409,
    )


def choose_replicas(connection: Connection, machine: Resource, silent: Collection[tuple[str, str]]) -> None:
    """Tell the machine where to read its data disks' images; those that it has read are left out.

    Asked again, it says the same. Raises `NoReplicaInRegion`.
    """
    for lun, content in _contents(machine):
        reader = _reader(machine, lun)
        if not placement.has_read(connection, reader):
            placement.choose_reader(
                connection, reader, content["owner"], machine.location or "", silent=silent
            )


def end_reading(connection: Connection, machine: Resource) -> bool:
    """The machine's data disks are there: their images are pinned no more. Returns whether it has such."""
    contents = _contents(machine)
    for lun, _ in contents:
        placement.end_reading(connection, _reader(machine, lun))
    return bool(contents)


def release(connection: Connection, machine: Resource) -> None:
    """The machine reads no more, and counts nowhere."""
    for lun, _ in _contents(machine):
        placement.release_reader(connection, _reader(machine, lun))


def described(services: Services, machine: Resource) -> tuple[DataDisk, ...]:
    """The machine's data disks, as the hypervisor makes them."""
    contents = dict(_contents(machine))
    with services.database.read() as connection:
        plans = {lun: placement.read_plan(connection, _reader(machine, lun)) for lun in contents}
    disks = []
    for disk in machine.properties["storageProfile"].get("dataDisks", []):
        lun = disk["lun"]
        if lun in contents:
            content = _content(services, machine, plans[lun], contents[lun]["sizeBytes"])
            disks.append(DataDisk(lun, contents[lun]["diskBytes"], content))
        else:
            disks.append(DataDisk(lun, disk["diskSizeGB"] * GIB))
    return tuple(disks)


def _contents(machine: Resource) -> list[tuple[int, dict[str, Any]]]:
    return [(int(lun), content) for lun, content in machine.private.get("dataDisks", {}).items()]


def _reader(machine: Resource, lun: int) -> str:
    """Who reads the image of a data disk: no machine has such a name."""
    return f"{machine.key}/datadisks/{lun}"


def _content(services: Services, machine: Resource, plan: ReadPlan | None, size_bytes: int) -> DiskContent:
    """Where to read; nowhere when the disk was filled before."""
    if plan is None:
        return DiskContent((), size_bytes, tuple)
    region, name = machine.location or "", str(machine.properties["vmId"])
    found = (
        replica_url(services, region, store, plan.tenant_id, plan.image_id, name) for store in plan.stores
    )
    replicas = tuple(replica for replica in found if replica is not None)
    return DiskContent(replicas, size_bytes, lambda: _extents(services, plan))


def _extents(services: Services, plan: ReadPlan) -> Iterator[tuple[int, int]]:
    """Where the image has data, as the first store says whose manifest can be read.

    When that turns out to be damaged, the next one says it from the beginning: all say the same.
    """
    reasons = []
    for store in plan.stores:
        try:
            yield from services.stores.open(store, plan.tenant_id).open(plan.image_id).extents()
            return
        except (ImageStoreError, OSError, SettingsError, UnknownStore) as error:
            reasons.append(f"{store}: {error}")
    raise HypervisorError(f"No replica says where its image has data: {'; '.join(reasons)}")
