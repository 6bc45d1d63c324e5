"""Managed images: `Microsoft.Compute/images`. Made from a disk, a version is published from it.

Source: Images REST API, api-version 2024-07-01.
"""

from typing import Any, Literal

from opengallery.arm.call import Call, parse_linked
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties, ResourceType
from opengallery.arm.resources import SUCCEEDED, Resource
from opengallery.imagestore import UnusableImage
from opengallery.providers.compute import COMPUTE_NAME, COMPUTE_VERSIONS, disks
from opengallery.providers.compute.fetching import check_url, fetch
from opengallery.replication import progress, workflows

_DISK = "properties.storageProfile.osDisk.managedDisk.id"


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
    if old is not None:
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
    if disks.is_waiting(source):
        disks.check_upload(call.services, source)
    elif not progress.replicas(call.connection, source.key):
        raise ArmError("OperationNotAllowed", f"The disk '{source.id.name}' holds no image.", status=409)
    wanted = source.properties.get("hyperVGeneration")
    if wanted and wanted != new.properties["hyperVGeneration"]:
        raise invalid_parameter(
            "properties.hyperVGeneration",
            f"The disk's generation is {wanted}. Give the same: --hyper-v-generation {wanted}.",
        )


def _create(work: Work) -> None:
    """Take over the disk's image (ending its upload if that is still open), or fetch the URL's."""
    image = work.resource()
    with work.services.database.read() as connection:
        if progress.replicas(connection, work.key):
            return
    disk = image.properties["storageProfile"]["osDisk"]
    if "managedDisk" in disk:
        key = parse_linked(disk["managedDisk"]["id"], _DISK).key
        disks.take_in(work, key)
        workflows.adopt(work.key, key, image.location or "")
    else:
        path = work.services.settings.data / "uploads" / work.operation.id
        work.step("fetch", fetch, work.services.settings, disk["blobUri"], path)
        try:
            workflows.ingest(work.key, work.principal.tenant_id, str(path), image.location or "")
        except UnusableImage as error:
            raise invalid_parameter("properties.storageProfile.osDisk.blobUri", str(error)) from error
        finally:
            path.unlink(missing_ok=True)


def _remove(work: Work) -> None:
    workflows.remove(work.key)


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
