"""The disks of machines, as resources: `az vm show` names them, and snapshots are made of them.

They are made with the machine and go with it. The bytes are the machine's: the image that a disk was made
from, if it was, and what the machine wrote since. `machine_data_disks` says which data disks a machine has.
"""

import uuid
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resources import Resource
from opengallery.database import now
from opengallery.providers.compute.image_references import ReferredImage
from opengallery.providers.compute.sharing.references import member_of
from opengallery.providers.compute.sources import DISK

DEFAULT_SKU = "Premium_LRS"
GIB = 2**30


def add_os_disk(call: Call, machine: Resource, image: ReferredImage) -> None:
    """Make the resource of a new machine's OS disk, and tell the machine. Raises 409 when its name is taken."""
    disk = machine.properties["storageProfile"]["osDisk"]
    size_bytes = max(image.size_bytes, disk.get("diskSizeGB", 0) * GIB)
    machine.private["image"]["diskBytes"] = size_bytes
    disk["diskSizeGB"] = max(1, -(-size_bytes // GIB))
    properties = {
        "osType": image.os_type,
        "hyperVGeneration": image.generation,
        "creationData": from_image(image),
        "diskSizeBytes": size_bytes,
    }
    add(call, machine, disk, properties)


def from_image(image: ReferredImage, **more: Any) -> dict[str, Any]:
    """The `creationData` of a disk that is made from an image; `more` names a data disk of it."""
    kind = "galleryImageReference" if "/galleries/" in image.owner else "imageReference"
    return {"createOption": "FromImage", kind: {member_of(image.exact_id): image.exact_id, **more}}


def add(
    call: Call, machine: Resource, disk: dict[str, Any], properties: dict[str, Any], **private: Any
) -> None:
    """Make the resource of a machine's disk, and tell the machine. Raises 409 when its name is taken."""
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
    resources.add(
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
