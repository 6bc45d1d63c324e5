"""Image versions: `Microsoft.Compute/galleries/images/versions`.

A version is immutable but for its publishing profile. Creating one, and changing its target regions,
runs the workflow `replication.workflows.replicate`, which makes the replicas exactly those asked for.
Source: Compute Gallery REST API, api-version 2024-03-03.
"""

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Action, Pattern, Properties, ResourceType
from opengallery.arm.resources import SUCCEEDED, UPDATING, Resource
from opengallery.database import now
from opengallery.providers.compute import GALLERY_VERSIONS, sources
from opengallery.providers.compute.dates import normalize_date
from opengallery.providers.compute.galleries import require_source_region
from opengallery.providers.compute.replicas import list_replicas
from opengallery.regions import REGIONS, find_region
from opengallery.replication import progress, workflows

Count = Annotated[int, Meta(ge=1, le=100)]
StorageType = Literal["Standard_LRS", "Standard_ZRS", "Premium_LRS", "StandardSSD_LRS", "PremiumV2_LRS"]
_NUMBER_LIMIT = 2**31 - 1
_PERMISSION = "Microsoft.Compute/galleries/images/versions/read"


class Encryption(Properties):
    """The keys of a region's replicas; this server keeps it only."""

    os_disk_image: dict[str, Any] | None = None
    data_disk_images: list[dict[str, Any]] | None = None


class TargetRegion(Properties):
    """A region that gets replicas. Without `regionalReplicaCount` it takes the profile's `replicaCount`."""

    name: str
    regional_replica_count: Count | None = None
    storage_account_type: StorageType | None = None
    exclude_from_latest: bool | None = None
    encryption: Encryption | None = None


class ExtendedLocation(Properties):
    """An edge zone."""

    name: str | None = None
    type: str | None = None


class TargetExtendedLocation(Properties):
    """An edge zone that gets replicas; this server keeps it only."""

    name: str | None = None
    extended_location: ExtendedLocation | None = None
    extended_location_replica_count: Count | None = None
    storage_account_type: StorageType | None = None
    encryption: Encryption | None = None


class PublishingProfile(Properties):
    """Where the version goes, and how many replicas it has there."""

    replica_count: Count = 1
    target_regions: list[TargetRegion] | None = None
    exclude_from_latest: bool = False
    end_of_life_date: str | None = None
    storage_account_type: StorageType = "Standard_LRS"
    target_extended_locations: list[TargetExtendedLocation] | None = None
    replication_mode: Literal["Full", "Shallow"] = "Full"


class Source(Properties):
    """The managed image, disk, snapshot, machine or version that a version is published from."""

    id: str | None = None
    virtual_machine_id: str | None = None


class DiskImage(Properties):
    """The OS disk's source, in the form that snapshots and disks come in."""

    source: Source | None = None


class StorageProfile(Properties):
    """What it is published from: `source.id`, `source.virtualMachineId` or `osDiskImage.source.id`."""

    source: Source | None = None
    os_disk_image: DiskImage | None = None
    data_disk_images: list[dict[str, Any]] = []


class VersionProperties(Properties):
    """What a version is created with."""

    publishing_profile: PublishingProfile = field(default_factory=PublishingProfile)
    storage_profile: StorageProfile = field(default_factory=StorageProfile)


def check_name(name: str) -> None:
    """Raise 400 unless the name is `major.minor.patch`, each a 32-bit integer."""
    parts = name.split(".")
    if len(parts) != 3 or not all(
        re.fullmatch("0|[1-9][0-9]{0,9}", part) and int(part) <= _NUMBER_LIMIT for part in parts
    ):
        raise ArmError(
            "InvalidParameter",
            f"The version name '{name}' is invalid. Give three numbers from 0 to {_NUMBER_LIMIT}, without leading "
            "zeros and with dots between them, major.minor.patch, such as 1.0.2.",
            target="galleryImageVersionName",
        )


def number(name: str) -> tuple[int, ...]:
    """A version's name as numbers, to compare by."""
    return tuple(int(part) for part in name.split("."))


def source_id(version: Resource) -> str | None:
    """The id of what a version is published from."""
    profile = version.properties["storageProfile"]
    for holder in (profile, profile.get("osDiskImage", {})):
        source = holder.get("source", {})
        if found := source.get("virtualMachineId") or source.get("id"):
            return str(found)
    return None


def targets(version: Resource) -> list[workflows.Target]:
    """`{"region", "count"}` of every target region."""
    profile = version.properties["publishingProfile"]
    return [
        {
            "region": find_region(target["name"]).name,  # type: ignore[union-attr]  # checked when it was written
            "count": target.get("regionalReplicaCount") or profile["replicaCount"],
        }
        for target in profile["targetRegions"]
    ]


def is_published(version: Resource) -> bool:
    """Whether `latest` may mean the version: it is `Succeeded`, or was and its target regions are being changed."""
    described = version.properties["storageProfile"].get("osDiskImage", {})
    return version.state == SUCCEEDED or (version.state == UPDATING and "sizeInGB" in described)


def is_excluded_from_latest(version: Resource, region: str) -> bool:
    """Whether `latest` passes over the version in this region."""
    profile = version.properties["publishingProfile"]
    return bool(profile.get("excludeFromLatest")) or any(
        target.get("excludeFromLatest") and find_region(target["name"]) == REGIONS[region]
        for target in profile["targetRegions"]
    )


def _check(call: Call, new: Resource, old: Resource | None) -> None:
    if old is None:
        check_name(new.id.name)
        require_source_region(call, new)
    normalize_date(new.properties["publishingProfile"], "endOfLifeDate", "properties.publishingProfile")
    _check_regions(call, new)
    text = source_id(new) or (source_id(old) if old else None)
    if text is None:
        raise invalid_parameter(
            "properties.storageProfile.source.id",
            "A version needs a source. Give the id of a managed image, a machine, a snapshot, a disk or another "
            "version: --managed-image, --virtual-machine, --os-snapshot or --image-version.",
        )
    if new.properties["storageProfile"].get("dataDiskImages"):
        raise invalid_parameter(
            "properties.storageProfile.dataDiskImages",
            "This server keeps the OS disk of a version only. Leave the data disks out.",
        )
    if old is None:
        _check_source(call, new, text)
        new.properties["publishingProfile"]["publishedDate"] = now().isoformat()
    elif text.lower() != (source_id(old) or "").lower():
        raise ArmError(
            "PropertyChangeNotAllowed",
            "Changing property 'storageProfile' is not allowed: a version is immutable. Create another version.",
            target="storageProfile",
            status=409,
        )
    else:
        new.properties["storageProfile"] = old.properties["storageProfile"]
        published = old.properties["publishingProfile"].get("publishedDate")
        new.properties["publishingProfile"]["publishedDate"] = published


def _check_regions(call: Call, new: Resource) -> None:
    profile = new.properties["publishingProfile"]
    profile.setdefault("targetRegions", [{"name": new.location}])
    if not profile["targetRegions"]:
        raise invalid_parameter(
            "properties.publishingProfile.targetRegions",
            "A version needs a target region. Give one at least.",
        )
    seen: set[str] = set()
    for index, target in enumerate(profile["targetRegions"]):
        where = f"properties.publishingProfile.targetRegions[{index}].name"
        region = find_region(target["name"])
        if region is None:
            raise ArmError(
                "LocationNotAvailableForResourceType",
                f"The target region '{target['name']}' is unknown. List the regions by "
                "'az account list-locations' and give one of them.",
                target=where,
            )
        if region.name in seen:
            raise invalid_parameter(
                where, f"The target region '{region.display_name}' is given twice. Give it once."
            )
        seen.add(region.name)
        count = target.get("regionalReplicaCount") or profile["replicaCount"]
        capacity = call.services.stores.capacity(region.name)
        if count > capacity:
            raise invalid_parameter(
                "properties.publishingProfile.targetRegions",
                f"Replica count {count} exceeds the {capacity} stores of region '{region.name}'. "
                "Lower regionalReplicaCount or add a store in opengallery.toml.",
            )
        target["name"] = region.display_name
        target.setdefault("storageAccountType", profile["storageAccountType"])


def _check_source(call: Call, new: Resource, text: str) -> None:
    target = "properties.storageProfile.source.id"
    kinds = ("Microsoft.Compute/images", sources.DISK, sources.SNAPSHOT, sources.MACHINE, RESOURCE_TYPE.type)
    source = call.linked(text, target, *kinds)
    sources.refuse_data_disks(source, target)
    if source.state != SUCCEEDED:
        raise ArmError(
            "OperationNotAllowed",
            f"The source '{source.id.name}' is {source.state}. Wait until it is Succeeded, or give another.",
            target=target,
            status=409,
        )
    if source.location != new.location:
        raise invalid_parameter(
            target,
            f"The source is in '{source.location}', the version in '{new.location}'. "
            "Create the version in the region of its source (-l), and name the others as target regions.",
        )
    if not sources.has_bytes(call.connection, source):
        raise ArmError(
            "OperationNotAllowed",
            f"'{source.id.name}' has no image yet. Upload it, and end the upload by 'az disk revoke-access'.",
            target=target,
            status=409,
        )
    definition = call.get(new.id.parent) if new.id.parent else None
    assert definition is not None
    for name, given in described(call, source).items():
        wanted = definition.properties[name]
        if name == "osState" and given not in (None, wanted):
            raise ArmError(
                "BadRequest",
                f"The resource with id '{source.id}' has a different OS state ['{given}'] than the parent gallery "
                f"image OS state ['{wanted}']. Generalize the machine (az vm generalize), or publish to an image "
                f"definition of that state (--os-state {given}).",
                target=target,
            )
        if given and given != wanted:
            raise invalid_parameter(
                target,
                f"The source's {name} is '{given}', the image definition's '{wanted}'. They have to agree.",
            )


def described(call: Call, source: Resource) -> dict[str, str | None]:
    """`osType`, `hyperVGeneration` and `osState` of a source, as far as it has them."""
    properties = source.properties
    if source.id.type == sources.MACHINE:
        return {
            "osType": properties["storageProfile"]["osDisk"]["osType"],
            "hyperVGeneration": source.private["image"]["generation"],
            "osState": "Generalized" if "generalized" in source.private else "Specialized",
        }
    if source.id.type == RESOURCE_TYPE.type:
        parent = call.get(source.id.parent) if source.id.parent else None
        properties = parent.properties if parent else {}
    disk = properties.get("storageProfile", {}).get("osDisk", properties)
    return {
        "osType": disk.get("osType"),
        "hyperVGeneration": properties.get("hyperVGeneration"),
        "osState": disk.get("osState"),
    }


def _publish(work: Work) -> None:
    """Make the replicas those of the publishing profile; the version is `Succeeded` when all are verified."""
    version = work.resource()
    source = (source_id(version) or "").lower()
    if work.step("find the machine", sources.find_machine, work, source):
        if not work.step("has image", sources.has_image, work):
            sources.capture(work, source)
        # Its own image, in its own region, is what the replicas are made of.
        source = work.key
    try:
        workflows.replicate(work.key, source, targets(version))
    except (
        workflows.ReplicationFailed,
        workflows.NothingToReplicate,
        workflows.TooManyReplicas,
        workflows.ReplicaFailed,
    ) as failure:
        raise ArmError(
            "ReplicationJobFailed",
            f"{failure} Mend what it says, and update the version (az sig image-version update) to try again.",
            status=409,
        ) from failure
    except workflows.ReplicationStopped as failure:
        raise ArmError("OperationPreempted", "The version is being deleted.", status=409) from failure
    work.step("describe", _describe, work)


def _describe(work: Work) -> None:
    with work.services.database.read() as connection:
        found = progress.replicas(connection, work.key)
    profile = dict(work.resource().properties["storageProfile"])
    profile["osDiskImage"] = {
        **profile.get("osDiskImage", {}),
        "sizeInGB": max(1, -(-found[0].total_bytes // 2**30)),
        "hostCaching": "ReadWrite",
    }
    work.change(storageProfile=profile)


def _remove(work: Work) -> None:
    workflows.remove(work.key)


def _view(call: Call, version: Resource) -> dict[str, Any]:
    expand = call.option("$expand") or ""
    if "replicationstatus" not in expand.lower():
        return {}
    summary = progress.region_status(call.connection, version.key)
    states = {status.state for status in summary}
    aggregated = "Completed"
    if not summary or states == {"Unknown"}:
        aggregated = "Unknown"
    elif states & {"Replicating", "Unknown"}:
        aggregated = "InProgress"
    elif "Failed" in states:
        aggregated = "Failed"
    return {
        "replicationStatus": {
            "aggregatedState": aggregated,
            "summary": [
                {
                    "region": REGIONS[status.region].display_name,
                    "state": status.state,
                    "details": status.details,
                    "progress": status.progress,
                    "bytesMoved": status.moved_bytes,
                    "bytesSaved": status.saved_bytes,
                    "secondsLeft": status.seconds_left,
                }
                for status in summary
            ],
        }
    }


RESOURCE_TYPE = ResourceType(
    "Microsoft.Compute/galleries/images/versions",
    GALLERY_VERSIONS,
    VersionProperties,
    name=Pattern(r".{1,80}", "major.minor.patch"),
    read_only=frozenset({"replicationStatus"}),
    check=_check,
    fulfil=_publish,
    remove=_remove,
    view=_view,
    actions={"replicas": Action(_PERMISSION, run=list_replicas, method="GET")},
)
