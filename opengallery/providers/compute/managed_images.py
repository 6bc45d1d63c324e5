"""Managed images: `Microsoft.Compute/images`. Made from a disk, a version is published from it.

Source: Images REST API, api-version 2024-07-01.
"""

from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import FAILED, SUCCEEDED, Resource
from opengallery.imagestore import UnusableImage
from opengallery.imagestore.formats import CLAIMS
from opengallery.providers.compute import COMPUTE_NAME, COMPUTE_VERSIONS, disks
from opengallery.providers.compute.checksums import check_file, wanted_sha256
from opengallery.providers.compute.fetching import check_url, fetch
from opengallery.providers.compute.replicas import complete
from opengallery.replication import workflows

_DISK = "properties.storageProfile.osDisk.managedDisk.id"
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
    """The disks of an image."""

    os_disk: OsDisk
    data_disks: list[dict[str, Any]] = []


class ImageProperties(Properties):
    """What a managed image is created with."""

    storage_profile: ImageStorageProfile
    hyper_v_generation: Literal["V1", "V2"] = "V1"
    source_virtual_machine: DiskReference | None = None


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    wanted_sha256(new.tags)
    if old is not None and old.state != FAILED:
        return
    properties = new.properties
    disk = properties["storageProfile"]["osDisk"]
    if (
        "sourceVirtualMachine" in properties
        or "snapshot" in disk
        or properties["storageProfile"]["dataDisks"]
    ):
        raise invalid_parameter(
            "properties.storageProfile",
            "This server makes images from one OS disk: give --source DISK, and no data disks, snapshots or machines.",
        )
    if "managedDisk" in disk:
        _check_disk(call, new, disk)
    elif "blobUri" in disk:
        check_url(call.services.settings, disk["blobUri"])
    else:
        raise invalid_parameter(
            _DISK, "An image needs a source. Give --source with the id of a disk, or a URL."
        )


def _check_disk(call: Call, new: Resource, disk: dict[str, Any]) -> None:
    source = call.linked(disk["managedDisk"]["id"], _DISK, "Microsoft.Compute/disks")
    if source.state != SUCCEEDED:
        raise ArmError(
            "OperationNotAllowed", f"The disk '{source.id.name}' is {source.state}. Wait for it.", status=409
        )
    if source.location != new.location:
        raise invalid_parameter(
            "location", f"The disk is in '{source.location}'. Create the image in the same region (-l)."
        )
    if not disks.is_waiting(source) and not complete(call.connection, source.key):
        raise ArmError("OperationNotAllowed", f"The disk '{source.id.name}' holds no image.", status=409)
    wanted = source.properties.get("hyperVGeneration")
    if wanted and wanted != new.properties["hyperVGeneration"]:
        raise invalid_parameter(
            "properties.hyperVGeneration",
            f"The disk's generation is {wanted}. Give the same: --hyper-v-generation {wanted}.",
        )
    if disks.is_waiting(source):
        disks.reserve(call, source, new.key)


def _create(work: Work) -> None:
    """Take over the disk's image (ending its upload if that is still open), or fetch the URL's."""
    if work.step("has image", _has_image, work):
        return
    disk = work.resource().properties["storageProfile"]["osDisk"]
    if "managedDisk" in disk:
        key = parse_linked(disk["managedDisk"]["id"], _DISK).key
        disks.take_in(work, key)
        disks.adopt(work, key)
    else:
        _fetch(work, disk["blobUri"])


def _has_image(work: Work) -> bool:
    """Whether the image is complete: an update has nothing to bring then."""
    with work.services.database.read() as connection:
        return bool(complete(connection, work.key))


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
        raise disks.ingest_refused(failure, _BLOB) from failure
    work.step("delete the fetched file", path.unlink, True)


def _claim(url: str) -> str:
    """The format that the URL's name claims, as a suffix; the content has to be of it."""
    suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    return suffix if suffix in CLAIMS else ""


def _remove(work: Work) -> None:
    workflows.remove(work.key)
    work.step("release the disk", _release_disk, work)


def _release_disk(work: Work) -> None:
    disk = work.resource().properties["storageProfile"]["osDisk"].get("managedDisk")
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
