"""Snapshots: `Microsoft.Compute/snapshots`. What a disk held at one moment, to make images and disks from.

A snapshot of a machine's disk is taken while the machine runs: it pauses for as long as what it wrote is
copied, and finds its disk afterwards as after a power cut. Any other snapshot shares its source's image.
Source: Snapshots REST API, api-version 2025-01-02.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Properties, ResourceType, Sku
from opengallery.arm.resources import SUCCEEDED, Resource
from opengallery.providers.compute import COMPUTE_NAME, DISK_VERSIONS, disks, sources
from opengallery.replication import workflows

_SOURCE = "properties.creationData.sourceResourceId"


class CreationData(Properties):
    """What a snapshot is made of."""

    create_option: Literal["Copy"]
    source_resource_id: str


class SnapshotProperties(Properties):
    """What a snapshot is created with."""

    creation_data: CreationData
    incremental: bool = False
    os_type: Literal["Linux", "Windows"] | None = None
    hyper_v_generation: Literal["V1", "V2"] | None = None
    disk_size_gb: Annotated[int, Meta(ge=1, le=65536)] | None = field(name="diskSizeGB", default=None)


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    if old is not None:
        return
    text = new.properties["creationData"]["sourceResourceId"]
    source = sources.linked(call, text, _SOURCE, sources.DISK, sources.SNAPSHOT)
    if source.state != SUCCEEDED or disks.is_waiting(source):
        raise ArmError(
            "OperationNotAllowed",
            f"'{source.id.name}' is {source.state}, or waits for its upload. Wait until it has its bytes.",
            target=_SOURCE,
            status=409,
        )
    if source.location != new.location:
        raise invalid_parameter(
            "location", f"The source is in '{source.location}'. Create the snapshot in the same region (-l)."
        )
    sources.describe_copy(call, new, source, _SOURCE)


def _create(work: Work) -> None:
    if not work.step("has image", sources.has_image, work):
        source = work.resource().properties["creationData"]["sourceResourceId"]
        sources.bring(work, source.lower())


def _remove(work: Work) -> None:
    workflows.remove(work.key)


def _check_access(call: Call, snapshot: Resource, body: dict[str, Any]) -> None:
    if body.get("access") != "Read":
        raise invalid_parameter("access", "A snapshot can only be read. Give --access-level Read.")
    disks.check_access(call, snapshot, body)


def _permission(action: str) -> str:
    return f"Microsoft.Compute/snapshots/{action}/action"


RESOURCE_TYPE = ResourceType(
    sources.SNAPSHOT,
    DISK_VERSIONS,
    SnapshotProperties,
    name=COMPUTE_NAME,
    envelope={"sku": Sku},
    immutable=frozenset({"creationData"}),
    read_only=frozenset({"diskState", "uniqueId", "timeCreated", "diskSizeBytes"}),
    check=_check,
    fulfil=_create,
    remove=_remove,
    view=disks.view_state,
    created_status=202,
    actions={
        "beginGetAccess": Action(_permission("beginGetAccess"), fulfil=disks.grant, check=_check_access),
        "endGetAccess": Action(_permission("endGetAccess"), fulfil=disks.end_downloads),
    },
)
