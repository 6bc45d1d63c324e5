"""The disks of machines, as resources: `az vm show` names them, and snapshots are made of them.

They are made with the machine and go with it. The bytes are the machine's: of the OS disk, the image that
it was made from and what it wrote since; of a data disk, what it wrote.
"""

import uuid
from typing import Annotated, Any, Literal

from msgspec import Meta, field
from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.database import now
from opengallery.hypervisors.machine import DataDisk
from opengallery.providers.compute import COMPUTE_NAME
from opengallery.providers.compute.image_references import ReferredImage
from opengallery.providers.compute.sources import DISK
from opengallery.providers.compute.vm_sizes import find_size

DEFAULT_SKU = "Premium_LRS"
GIB = 2**30
# A machine's board has 32 places for devices.
MAX_DATA_DISKS = 16

DiskName = Annotated[str, Meta(pattern=rf"^{COMPUTE_NAME.regex}\Z")]


class MachineDataDisk(Properties):
    """A data disk that a machine is created with."""

    lun: Annotated[int, Meta(ge=0, le=63)]
    create_option: Literal["Empty", "empty", "Attach", "attach", "FromImage", "fromImage", "Copy", "copy"]
    name: DiskName | None = None
    caching: str | None = None
    disk_size_gb: Annotated[int, Meta(ge=1, le=32767)] | None = field(name="diskSizeGB", default=None)


def add_os_disk(call: Call, machine: Resource, image: ReferredImage) -> None:
    """Make the resource of a new machine's OS disk, and tell the machine. Raises 409 when its name is taken."""
    disk = machine.properties["storageProfile"]["osDisk"]
    size_bytes = max(image.size_bytes, disk.get("diskSizeGB", 0) * GIB)
    machine.private["image"]["diskBytes"] = size_bytes
    disk["diskSizeGB"] = max(1, -(-size_bytes // GIB))
    kind = "galleryImageReference" if "/galleries/" in image.owner else "imageReference"
    properties = {
        "osType": image.os_type,
        "hyperVGeneration": image.generation,
        "creationData": {"createOption": "FromImage", kind: {"id": image.exact_id}},
        "diskSizeBytes": size_bytes,
    }
    _add(call, machine, disk, properties)


def add_data_disks(call: Call, machine: Resource) -> None:
    """Make the resources of a new machine's data disks, and tell the machine. Raises 400 and 409."""
    disks: list[dict[str, Any]] = machine.properties["storageProfile"]["dataDisks"]
    where = "properties.storageProfile.dataDisks"
    most = min(MAX_DATA_DISKS, find_size(machine.properties["hardwareProfile"]["vmSize"]).data_disks)
    if len(disks) > most:
        raise ArmError(
            "OperationNotAllowed",
            f"The maximum number of data disks allowed to be attached to a VM of this size is {most}. "
            "Give fewer, or a larger size (--size).",
            target="dataDisks",
            status=409,
        )
    if len({disk["lun"] for disk in disks}) < len(disks):
        raise invalid_parameter(where, "Two data disks have the same lun. Give each its own.")
    for disk in disks:
        if disk["createOption"].lower() != "empty" or "diskSizeGB" not in disk:
            raise invalid_parameter(
                where,
                "This server gives machines empty data disks only, of a size that is told: "
                "--data-disk-sizes-gb SIZE.",
            )
        disk["createOption"] = "Empty"
        disk.setdefault(
            "name", f"{machine.id.name}_disk{disk['lun'] + 2}_{machine.properties['vmId'].replace('-', '')}"
        )
        properties = {
            "creationData": {"createOption": "Empty"},
            "diskSizeBytes": disk["diskSizeGB"] * GIB,
        }
        _add(call, machine, disk, properties, lun=disk["lun"])


def _add(
    call: Call, machine: Resource, disk: dict[str, Any], properties: dict[str, Any], **private: Any
) -> None:
    disk_id = machine.id.group.child(DISK, disk["name"])
    if call.get(disk_id) is not None:
        raise ArmError(
            "Conflict",
            f"Disk {disk['name']} already exists in resource group {machine.id.resource_group}. "
            "Choose another name for the machine's disk (--os-disk-name).",
            target="name",
            status=409,
        )
    sku = disk.get("managedDisk", {}).get("storageAccountType", DEFAULT_SKU)
    disk["managedDisk"] = {**disk.get("managedDisk", {}), "id": str(disk_id), "storageAccountType": sku}
    resources.save(
        call.connection,
        Resource(
            disk_id,
            location=machine.location,
            tags=dict(machine.tags),
            properties={
                **properties,
                "diskSizeGB": disk["diskSizeGB"],
                "uniqueId": str(uuid.uuid4()),
                "timeCreated": now().isoformat(),
            },
            extra={"sku": {"name": sku}, "managedBy": str(machine.id)},
            private={"machine": machine.key, **private},
            created_by=machine.modified_by,
            modified_by=machine.modified_by,
        ),
    )


def data_disks(machine: Resource) -> tuple[DataDisk, ...]:
    """The machine's data disks, as the hypervisor makes them."""
    return tuple(
        DataDisk(disk["lun"], disk["diskSizeGB"] * GIB)
        for disk in machine.properties["storageProfile"].get("dataDisks", [])
    )


def forget(work: Work, machine: Resource) -> None:
    """Delete the resources of the machine's disks: the machine is gone."""
    with work.services.database.write() as connection:
        forget_rows(connection, machine)


def forget_rows(connection: Connection, machine: Resource) -> None:
    """The same in a transaction that is open already."""
    profile = machine.properties["storageProfile"]
    for disk in (profile["osDisk"], *profile.get("dataDisks", [])):
        found = resources.get(connection, disk.get("managedDisk", {}).get("id", ""))
        if found is not None and found.private.get("machine") == machine.key:
            resources.forget(connection, found.key)
