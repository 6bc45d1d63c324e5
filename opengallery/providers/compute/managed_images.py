"""Managed images: `Microsoft.Compute/images`. Made from disks, snapshots, URLs, or a generalized machine.

Source: Images REST API, api-version 2024-07-01.
"""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Meta, field

from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import FAILED, SUCCEEDED, Resource
from opengallery.imagestore import UnusableImage
from opengallery.imagestore.formats import CLAIMS
from opengallery.providers.compute import (
    COMPUTE_NAME,
    COMPUTE_VERSIONS,
    disks,
    image_data_disks,
    sources,
)
from opengallery.providers.compute.checksums import check_file, wanted_sha256
from opengallery.providers.compute.fetching import check_url, fetch
from opengallery.replication import workflows

_OS_DISK = "properties.storageProfile.osDisk"
_DATA_DISKS = "properties.storageProfile.dataDisks"
_KINDS = {"managedDisk": sources.DISK, "snapshot": sources.SNAPSHOT}
_WORDS = {"managedDisk": "disk", "snapshot": "snapshot"}


class DiskReference(Properties):
    """The disk that an image is made from."""

    id: str


class OsDisk(Properties):
    """The OS disk: what system it holds, and where its bytes come from, a disk or a URL."""

    os_type: Literal["Linux", "Windows"]
    os_state: Literal["Generalized", "Specialized"] = "Generalized"
    managed_disk: DiskReference | None = None
    snapshot: DiskReference | None = None
    blob_uri: str | None = None


class ImageDataDisk(Properties):
    """A data disk: where its bytes come from."""

    lun: Annotated[int, Meta(ge=0, le=image_data_disks.LUN_MAX)]
    managed_disk: DiskReference | None = None
    snapshot: DiskReference | None = None
    blob_uri: str | None = None
    caching: Literal["None", "ReadOnly", "ReadWrite"] | None = None


class ImageStorageProfile(Properties):
    """The disks of an image; a machine as source tells them itself."""

    os_disk: OsDisk | None = None
    data_disks: list[ImageDataDisk] = []


class ImageProperties(Properties):
    """What a managed image is created with."""

    storage_profile: ImageStorageProfile = field(default_factory=ImageStorageProfile)
    hyper_v_generation: Literal["V1", "V2"] | None = None
    source_virtual_machine: DiskReference | None = None


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    wanted_sha256(new.tags)
    if old is not None and old.state != FAILED:
        return
    properties = new.properties
    data_disks = properties["storageProfile"]["dataDisks"]
    image_data_disks.check_luns(data_disks, _DATA_DISKS)
    if "sourceVirtualMachine" in properties:
        _describe_machine(call, new)
        return
    properties.setdefault("hyperVGeneration", "V1")
    _check_origin(call, new, properties["storageProfile"].get("osDisk", {}), _OS_DISK)
    for number, disk in enumerate(data_disks):
        _check_origin(call, new, disk, f"{_DATA_DISKS}[{number}]")


def _check_origin(call: Call, new: Resource, disk: dict[str, Any], target: str) -> None:
    """Raise unless one disk of the image names something that its bytes can come from."""
    if name := _kind(disk):
        _check_disk(call, new, disk[name]["id"], name, target)
    elif "blobUri" in disk:
        check_url(call.services.settings, disk["blobUri"])
    else:
        option = "--source with a machine," if target == _OS_DISK else "--data-disk-sources with"
        raise invalid_parameter(
            f"{target}.managedDisk.id",
            f"An image needs a source. Give {option} the id of a disk or snapshot, or a URL.",
        )


def _kind(disk: dict[str, Any]) -> str | None:
    return next((name for name in _KINDS if name in disk), None)


def _describe_machine(call: Call, new: Resource) -> None:
    """Take over what the machine is. Raises 409 unless it is generalized."""
    target = "properties.sourceVirtualMachine.id"
    machine = sources.linked(call, new.properties["sourceVirtualMachine"]["id"], target, sources.MACHINE)
    if "generalized" not in machine.private:
        raise ArmError(
            "OperationNotAllowed",
            f"The operation 'Create Image' requires the Virtual Machine '{machine.id.name}' to be Generalized. "
            f"Deprovision it, and run: az vm deallocate, then az vm generalize.",
            target=target,
            status=409,
        )
    if new.properties["storageProfile"]["dataDisks"]:
        raise invalid_parameter(
            _DATA_DISKS, "The machine brings its data disks by itself. Leave dataDisks out."
        )
    if machine.location != new.location:
        raise invalid_parameter(
            "location", f"The machine is in '{machine.location}'. Create the image in the same region (-l)."
        )
    generation = machine.private["image"]["generation"]
    if new.properties.setdefault("hyperVGeneration", generation) != generation:
        raise invalid_parameter(
            "properties.hyperVGeneration",
            f"The machine's generation is {generation}. Give the same: --hyper-v-generation {generation}.",
        )
    disk = machine.properties["storageProfile"]["osDisk"]
    new.properties["storageProfile"]["osDisk"] = {
        "osType": disk["osType"],
        "osState": "Generalized",
        "caching": disk.get("caching", "ReadWrite"),
        **{name: disk[name] for name in ("managedDisk", "diskSizeGB") if name in disk},
    }
    new.properties["storageProfile"]["dataDisks"] = [
        {
            "lun": disk["lun"],
            "caching": image_data_disks.caching(disk),
            "managedDisk": disk["managedDisk"],
            "diskSizeGB": disk["diskSizeGB"],
        }
        for disk in machine.properties["storageProfile"].get("dataDisks", [])
    ]


def _check_disk(call: Call, new: Resource, text: str, kind: str, where: str) -> None:
    target = f"{where}.{kind}.id"
    source = sources.linked(call, text, target, _KINDS[kind])
    if source.state != SUCCEEDED:
        raise ArmError(
            "OperationNotAllowed",
            f"The {_WORDS[kind]} '{source.id.name}' is {source.state}. Wait for it.",
            status=409,
        )
    if source.location != new.location:
        raise invalid_parameter(
            "location",
            f"The {_WORDS[kind]} is in '{source.location}'. Create the image in the same region (-l).",
        )
    if not disks.is_waiting(source) and not sources.has_bytes(call.connection, source):
        raise ArmError(
            "OperationNotAllowed", f"The {_WORDS[kind]} '{source.id.name}' holds no image.", status=409
        )
    wanted = source.properties.get("hyperVGeneration") if where == _OS_DISK else None
    if wanted and wanted != new.properties["hyperVGeneration"]:
        raise invalid_parameter(
            "properties.hyperVGeneration",
            f"The {_WORDS[kind]}'s generation is {wanted}. Give the same: --hyper-v-generation {wanted}.",
        )
    if disks.is_waiting(source):
        disks.reserve(call, source, new.key)


def _create(work: Work) -> None:
    """Take over the sources' images (ending a disk's upload if that is still open), or fetch the URLs'."""
    image = work.resource()
    owners = image_data_disks.owner_keys(image)
    if "sourceVirtualMachine" in image.properties:
        machine = parse_linked(image.properties["sourceVirtualMachine"]["id"], _OS_DISK).key
        if not work.step("has image", sources.has_images, work, [work.key, *owners.values()]):
            sources.capture(work, machine, data_disks=owners)
        return
    profile = image.properties["storageProfile"]
    _bring(work, profile["osDisk"], work.key)
    for disk in profile["dataDisks"]:
        _bring(work, disk, owners[disk["lun"]])


def _bring(work: Work, disk: dict[str, Any], owner: str) -> None:
    """Give `owner` the image of one disk, unless it has it already."""
    if work.step("has image", sources.has_image, work, owner):
        return
    if name := _kind(disk):
        key = parse_linked(disk[name]["id"], _OS_DISK).key
        disks.take_in(work, key)
        sources.bring(work, key, owner)
    else:
        _fetch(work, disk, owner)


def _fetch(work: Work, disk: dict[str, Any], owner: str) -> None:
    url, part = disk["blobUri"], f"-{disk['lun']}" if "lun" in disk else ""
    path = work.services.settings.data / "uploads" / f"{work.operation.id}{part}{_claim(url)}"
    work.step("fetch", fetch, work.services.settings, url, path, work.is_canceled)
    try:
        # The tag is that of the OS disk's file.
        work.step("check sha256", check_file, path, {} if part else work.resource().tags)
    except ArmError:
        work.step("delete the wrong file", path.unlink, True)
        raise
    try:
        workflows.ingest(owner, work.principal.tenant_id, str(path), work.resource().location or "")
    except (UnusableImage, workflows.ReplicaFailed, workflows.ReplicationStopped) as failure:
        work.step("delete the unusable file", path.unlink, True)
        raise sources.ingest_refused(failure, f"{_DATA_DISKS if part else _OS_DISK}.blobUri") from failure
    work.step("delete the fetched file", path.unlink, True)


def _claim(url: str) -> str:
    """The format that the URL's name claims, as a suffix; the content has to be of it."""
    suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    return suffix if suffix in CLAIMS else ""


def _remove(work: Work) -> None:
    workflows.remove(work.key)
    for owner in image_data_disks.owner_keys(work.resource()).values():
        workflows.remove(owner)
    work.step("release the disk", _release_disks, work)


def _release_disks(work: Work) -> None:
    profile = work.resource().properties["storageProfile"]
    with work.services.database.write() as connection:
        for disk in (profile.get("osDisk", {}), *profile.get("dataDisks", [])):
            if "managedDisk" in disk:
                key = parse_linked(disk["managedDisk"]["id"], _OS_DISK).key
                disks.release(connection, key, work.key)


RESOURCE_TYPE = ResourceType(
    sources.IMAGE,
    COMPUTE_VERSIONS,
    ImageProperties,
    name=COMPUTE_NAME,
    immutable=frozenset({"storageProfile", "hyperVGeneration"}),
    check=_check,
    fulfil=_create,
    remove=_remove,
)
