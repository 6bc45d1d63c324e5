"""Managed images: `Microsoft.Compute/images`. Made from a disk, a snapshot, a generalized machine or a URL.

Source: Images REST API, api-version 2024-07-01.
"""

from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import field

from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import FAILED, SUCCEEDED, Resource
from opengallery.imagestore import UnusableImage
from opengallery.imagestore.formats import CLAIMS
from opengallery.providers.compute import COMPUTE_NAME, COMPUTE_VERSIONS, disks, sources
from opengallery.providers.compute.checksums import check_file, wanted_sha256
from opengallery.providers.compute.fetching import check_url, fetch
from opengallery.replication import workflows

_DISK = "properties.storageProfile.osDisk.managedDisk.id"
_KINDS = {"managedDisk": sources.DISK, "snapshot": sources.SNAPSHOT}
_WORDS = {"managedDisk": "disk", "snapshot": "snapshot"}
_BLOB = "properties.storageProfile.osDisk.blobUri"


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


class ImageStorageProfile(Properties):
    """The disks of an image; a machine as source tells them itself."""

    os_disk: OsDisk | None = None
    data_disks: list[dict[str, Any]] = []


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
    if properties["storageProfile"]["dataDisks"]:
        raise invalid_parameter(
            "properties.storageProfile.dataDisks",
            "This server makes images from one OS disk. Leave the data disks out.",
        )
    if "sourceVirtualMachine" in properties:
        _describe_machine(call, new)
        return
    properties.setdefault("hyperVGeneration", "V1")
    disk = properties["storageProfile"].get("osDisk", {})
    if name := next((name for name in _KINDS if name in disk), None):
        _check_disk(call, new, disk[name]["id"], name)
    elif "blobUri" in disk:
        check_url(call.services.settings, disk["blobUri"])
    else:
        raise invalid_parameter(
            _DISK,
            "An image needs a source. Give --source with a machine, the id of a disk or snapshot, or a URL.",
        )


def _describe_machine(call: Call, new: Resource) -> None:
    """Take over what the machine is. Raises 409 unless it is generalized."""
    target = "properties.sourceVirtualMachine.id"
    machine = call.linked(new.properties["sourceVirtualMachine"]["id"], target, sources.MACHINE)
    if "generalized" not in machine.private:
        raise ArmError(
            "OperationNotAllowed",
            f"The operation 'Create Image' requires the Virtual Machine '{machine.id.name}' to be Generalized. "
            f"Deprovision it, and run: az vm deallocate, then az vm generalize.",
            target=target,
            status=409,
        )
    sources.refuse_data_disks(machine, target)
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


def _check_disk(call: Call, new: Resource, text: str, kind: str) -> None:
    target = f"properties.storageProfile.osDisk.{kind}.id"
    source = call.linked(text, target, _KINDS[kind])
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
    wanted = source.properties.get("hyperVGeneration")
    if wanted and wanted != new.properties["hyperVGeneration"]:
        raise invalid_parameter(
            "properties.hyperVGeneration",
            f"The {_WORDS[kind]}'s generation is {wanted}. Give the same: --hyper-v-generation {wanted}.",
        )
    if disks.is_waiting(source):
        disks.reserve(call, source, new.key)


def _create(work: Work) -> None:
    """Take over the source's image (ending a disk's upload if that is still open), or fetch the URL's."""
    if work.step("has image", sources.has_image, work):
        return
    properties = work.resource().properties
    disk = properties["storageProfile"]["osDisk"]
    if "sourceVirtualMachine" in properties:
        sources.bring(work, parse_linked(properties["sourceVirtualMachine"]["id"], _DISK).key)
    elif name := next((name for name in _KINDS if name in disk), None):
        key = parse_linked(disk[name]["id"], _DISK).key
        disks.take_in(work, key)
        sources.bring(work, key)
    else:
        _fetch(work, disk["blobUri"])


def _fetch(work: Work, url: str) -> None:
    path = work.services.settings.data / "uploads" / f"{work.operation.id}{_claim(url)}"
    work.step("fetch", fetch, work.services.settings, url, path, work.is_canceled)
    try:
        work.step("check sha256", check_file, path, work.resource().tags)
    except ArmError:
        work.step("delete the wrong file", path.unlink, True)
        raise
    try:
        workflows.ingest(work.key, work.principal.tenant_id, str(path), work.resource().location or "")
    except (UnusableImage, workflows.ReplicaFailed, workflows.ReplicationStopped) as failure:
        work.step("delete the unusable file", path.unlink, True)
        raise sources.ingest_refused(failure, _BLOB) from failure
    work.step("delete the fetched file", path.unlink, True)


def _claim(url: str) -> str:
    """The format that the URL's name claims, as a suffix; the content has to be of it."""
    suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    return suffix if suffix in CLAIMS else ""


def _remove(work: Work) -> None:
    workflows.remove(work.key)
    work.step("release the disk", _release_disk, work)


def _release_disk(work: Work) -> None:
    disk = work.resource().properties["storageProfile"].get("osDisk", {}).get("managedDisk")
    if disk is not None:
        with work.services.database.write() as connection:
            disks.release(connection, parse_linked(disk["id"], _DISK).key, work.key)


RESOURCE_TYPE = ResourceType(
    "Microsoft.Compute/images",
    COMPUTE_VERSIONS,
    ImageProperties,
    name=COMPUTE_NAME,
    immutable=frozenset({"storageProfile", "hyperVGeneration"}),
    check=_check,
    fulfil=_create,
    remove=_remove,
)
