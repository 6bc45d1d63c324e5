"""The data disks of a version or a managed image: images of their own beside that of the OS disk, by lun.

Each has an owner in the replicas table, a key that no resource has. It differs from those of other versions
in its last part only: versions of one disk have most blocks in common, and go into the same stores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resources import Resource
from opengallery.providers.compute.replicas import complete

LUN_MAX = 63
COUNT_MAX = 16
"""A machine's board has 32 places for devices."""


@dataclass(frozen=True)
class ImageDataDisk:
    """One data disk of an image, as a machine gets it."""

    lun: int
    owner: str
    size_bytes: int
    caching: str


def owner_key(key: str, lun: int) -> str:
    """Who owns the image of a data disk of the version or managed image `key`."""
    kind, _, name = key.rpartition("/")
    return f"{kind.rpartition('/')[0]}/datadisks/{lun}/{name}"


def described(holder: Resource) -> list[dict[str, Any]]:
    """What a version or a managed image says of its data disks."""
    profile = holder.properties.get("storageProfile", {})
    found: list[dict[str, Any]] = profile.get("dataDiskImages") or profile.get("dataDisks") or []
    return found


def owner_keys(holder: Resource) -> dict[int, str]:
    """By lun, the owners of the data disks of a version or a managed image."""
    return {disk["lun"]: owner_key(holder.key, disk["lun"]) for disk in described(holder)}


def is_complete(connection: Connection, holder: Resource, region: str | None = None) -> bool:
    """Whether every disk of a version or a managed image has a verified replica (in `region`)."""
    owners = [holder.key, *owner_keys(holder).values()]
    return all(complete(connection, owner, region) for owner in owners)


def find(connection: Connection, holder: Resource, region: str) -> tuple[ImageDataDisk, ...]:
    """The data disks, each of which has a replica in `region`."""
    disks = []
    for disk in described(holder):
        owner = owner_key(holder.key, disk["lun"])
        size_bytes = complete(connection, owner, region)[0].total_bytes
        disks.append(ImageDataDisk(disk["lun"], owner, size_bytes, caching(disk)))
    return tuple(disks)


def check_luns(disks: Sequence[dict[str, Any]], target: str) -> None:
    """Raise 400 when a lun is given twice, or there are more data disks than a machine takes."""
    luns = [disk["lun"] for disk in disks]
    for lun in luns:
        if luns.count(lun) > 1:
            raise invalid_parameter(target, f"Two data disks have the lun {lun}. Give each its own.")
    if len(luns) > COUNT_MAX:
        raise invalid_parameter(
            target, f"{len(luns)} data disks are more than the {COUNT_MAX} that a machine takes. Give fewer."
        )


def require(holder: Resource, lun: int, target: str) -> str:
    """The owner of one data disk. Raises 404 when the image has none of this lun."""
    owners = owner_keys(holder)
    if lun not in owners:
        there = ", ".join(str(known) for known in sorted(owners)) or "none"
        raise ArmError(
            "NotFound",
            f"'{holder.id.name}' has no data disk of lun {lun}. Its luns: {there}.",
            target=target,
            status=404,
        )
    return owners[lun]


def caching(disk: dict[str, Any]) -> str:
    """The host caching that a data disk asks for, whoever describes it."""
    wanted = str(disk.get("hostCaching") or disk.get("caching") or "None")
    return {"none": "None", "readonly": "ReadOnly", "readwrite": "ReadWrite"}.get(wanted.lower(), "None")
