"""Versions with data disks, and what is on the data disks of machines."""

import subprocess
from pathlib import Path
from typing import Any

from opengallery.providers.compute import image_data_disks
from opengallery.replication import progress

from .conftest import Api
from .images import COMPUTE, REGION, definition, full_disk, id_of, version_body

MARK = 0x5A
MARK_OFFSET = 5 * 1024**2


def snapshot(api: Api, group: str, name: str, *seeds: int) -> str:
    """A snapshot of a disk with the bytes of these seeds; its path."""
    disk = full_disk(api, group, f"{name}-disk", *seeds)
    path = f"{group}/{COMPUTE}/snapshots/{name}"
    creation = {"createOption": "Copy", "sourceResourceId": id_of(api, disk)}
    api.put(path, {"location": REGION, "properties": {"creationData": creation}})
    return path


def storage(api: Api, os_snapshot: str, **data: str) -> dict[str, Any]:
    """The storage profile that `--os-snapshot A --data-snapshots B... --data-snapshot-luns N...` sends.

    `data` has the sources by lun, as `lun3`.
    """
    return {
        "osDiskImage": {"source": {"id": id_of(api, os_snapshot)}},
        "dataDiskImages": [
            {"source": {"id": id_of(api, source)}, "lun": int(name.removeprefix("lun"))}
            for name, source in data.items()
        ],
    }


def body_of(api: Api, profile: dict[str, Any], *targets: Any) -> dict[str, Any]:
    """A version with this storage profile."""
    body = version_body(api, None, *targets)
    body["properties"]["storageProfile"] = profile
    return body


def version_with_data_disks(api: Api, group: str, *targets: Any) -> str:
    """A version whose OS disk is of seed 1, with data disks of the seeds 2 (lun 0) and 3, 4 (lun 5)."""
    data = {"lun0": snapshot(api, group, "zero", 2), "lun5": snapshot(api, group, "five", 3, 4)}
    profile = storage(api, snapshot(api, group, "os", 1), **data)
    path = f"{definition(api, group)}/versions/1.0.0"
    api.put(path, body_of(api, profile, *targets))
    return path


def owner(api: Api, path: str, lun: int) -> str:
    """Who owns the image of a data disk of a version or managed image."""
    return image_data_disks.owner_key(id_of(api, path).lower(), lun)


def held(api: Api, key: str) -> list[progress.Replica]:
    """The replicas of an owner."""
    with api.services.database.read() as connection:
        return progress.replicas(connection, key)


def contents(api: Api, path: str, lun: int) -> list[bytes]:
    """The bytes of a data disk of a version or managed image, in each of its replicas."""
    return [
        reader.read(0, reader.size_bytes)
        for replica in held(api, owner(api, path, lun))
        for reader in (api.services.stores.open(replica.store, replica.tenant_id).open(replica.image_id),)
    ]


def file_of(api: Api, machine: str, lun: int) -> Path:
    """The data disk of a machine."""
    vm_id = api.get(machine)["properties"]["vmId"]
    return Path(api.services.settings.data / "machines" / vm_id / f"data-{lun}.qcow2")


def guest_sees(api: Api, machine: str, lun: int, folder: Path) -> bytes:
    """What is on a data disk of a machine that does not run."""
    raw = folder / "disk.raw"
    command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(file_of(api, machine, lun)), str(raw)]
    subprocess.run(command, check=True)
    return raw.read_bytes()


def write_mark(api: Api, machine: str, lun: int) -> None:
    """Write a block of a data disk of a stopped machine, as its guest would."""
    command = f"write -P {MARK} {MARK_OFFSET} 4k"
    disk = file_of(api, machine, lun)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", command, disk], check=True, capture_output=True)


def changed(before: bytes) -> bytes:
    """What `write_mark` makes of a disk."""
    return before[:MARK_OFFSET] + bytes([MARK]) * 4096 + before[MARK_OFFSET + 4096 :]
