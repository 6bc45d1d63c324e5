"""`gallery sig image-version`: publish, replicate, watch and delete versions of an image."""

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.arguments import change, parse_flag, parse_tags, parse_target_regions
from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.options import (
    Adds,
    Definition,
    DefinitionOrNone,
    Gallery,
    GalleryOrNone,
    Group,
    GroupOrNone,
    Ids,
    Location,
    NoWait,
    Removes,
    Sets,
    Tags,
    Version,
    VersionOrNone,
    id_or_name,
    named,
    resource_id,
)
from opengallery.cli.single import each_at_once, one_or_all

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

VERSIONS = "Microsoft.Compute/galleries/images/versions"
STATUS = {"$expand": "ReplicationStatus"}

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "ProvisioningState": "provisioningState",
    "TargetRegions": "publishingProfile.targetRegions[].name",
    "ReplicationState": "replicationStatus.aggregatedState",
}
DETAILS = ("ReplicationState",)

TargetRegions = Annotated[
    list[str] | None,
    typer.Option(
        "--target-regions",
        metavar="REGION[=COUNT]...",
        help="Where the version is replicated to, and how often; by default its own region.",
    ),
]
ReplicaCount = Annotated[
    int | None,
    typer.Option(
        "--replica-count", metavar="COUNT", min=1, help="Replicas in a region that names no number."
    ),
]
ExcludeFromLatest = Annotated[
    str | None,
    typer.Option("--exclude-from-latest", metavar="true|false", help="Never be the latest version."),
]
AllowRegionDeletion = Annotated[
    str | None,
    typer.Option(
        "--allow-replicated-location-deletion",
        metavar="true|false",
        help="Whether target regions may be taken away later.",
    ),
]
EndOfLife = Annotated[str | None, typer.Option("--end-of-life-date", metavar="DATE", help="Like 2030-12-31.")]

app = new_app("Image versions.")

EXAMPLE = "-g myRG -r myGallery -i myImageDefinition -e 1.0.2"


@verb(
    app,
    "create",
    [
        f"gallery sig image-version create {EXAMPLE} \\",
        '  --target-regions "West Central US" "South Central US=1" --replica-count 5 --managed-image myImage',
        f"gallery sig image-version create {EXAMPLE} --os-snapshot os --data-snapshots data log",
    ],
    columns=COLUMNS,
    details=DETAILS,
)
def create(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    gallery_image_definition: Definition,
    gallery_image_version: Version,
    managed_image: Annotated[
        str | None, typer.Option("--managed-image", metavar="NAME|ID", help="Publish a managed image.")
    ] = None,
    os_snapshot: Annotated[
        str | None, typer.Option("--os-snapshot", metavar="NAME|ID", help="Publish a snapshot.")
    ] = None,
    data_snapshots: Annotated[
        list[str] | None,
        typer.Option("--data-snapshots", metavar="NAME|ID...", help="Publish data disks with --os-snapshot."),
    ] = None,
    data_snapshot_luns: Annotated[
        list[int] | None,
        typer.Option("--data-snapshot-luns", metavar="LUN...", help="Their luns; by default 0, 1, 2."),
    ] = None,
    image_version: Annotated[
        str | None, typer.Option("--image-version", metavar="ID", help="Publish another version's image.")
    ] = None,
    virtual_machine: Annotated[
        str | None, typer.Option("--virtual-machine", metavar="ID", help="Publish a VM's disk.")
    ] = None,
    target_regions: TargetRegions = None,
    replica_count: ReplicaCount = None,
    storage_account_type: Annotated[
        Literal["Standard_LRS", "Standard_ZRS", "Premium_LRS"] | None,
        typer.Option("--storage-account-type", case_sensitive=False, help="Kind of storage."),
    ] = None,
    exclude_from_latest: ExcludeFromLatest = None,
    end_of_life_date: EndOfLife = None,
    replication_mode: Annotated[
        Literal["Full", "Shallow"] | None,
        typer.Option("--replication-mode", case_sensitive=False, help="Shallow is made faster."),
    ] = None,
    allow_replicated_location_deletion: AllowRegionDeletion = None,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Publish a version, and wait until every replica of it is verified."""
    sources = [source for source in (managed_image, image_version, virtual_machine, os_snapshot) if source]
    if len(sources) != 1:
        raise Misuse("Give one of --managed-image, --os-snapshot, --image-version, --virtual-machine.")
    if data_snapshots and not os_snapshot:
        raise Misuse("--data-snapshots goes with --os-snapshot; other sources bring their data disks.")
    luns = data_snapshot_luns or list(range(len(data_snapshots or ())))
    if len(luns) != len(data_snapshots or ()):
        raise Misuse("Give as many --data-snapshot-luns as --data-snapshots.")
    location = location or arm.location(resource_group)
    profile: dict[str, Any] = {
        "targetRegions": parse_target_regions(target_regions) or [{"name": location}],
        "replicaCount": replica_count,
        "storageAccountType": storage_account_type,
        "excludeFromLatest": parse_flag(exclude_from_latest),
        "endOfLifeDate": end_of_life_date,
        "replicationMode": replication_mode,
    }
    kind = "Microsoft.Compute/snapshots" if os_snapshot else "Microsoft.Compute/images"
    source = {"id": str(id_or_name(arm.subscription, resource_group, kind, sources[0]))}
    if virtual_machine:
        source = {"virtualMachineId": source["id"]}
    storage: dict[str, Any] = {"osDiskImage": {"source": source}} if os_snapshot else {"source": source}
    if data_snapshots:
        storage["dataDiskImages"] = [
            {"source": {"id": str(id_or_name(arm.subscription, resource_group, kind, text))}, "lun": lun}
            for text, lun in zip(data_snapshots, luns, strict=True)
        ]
    properties: dict[str, Any] = {
        "publishingProfile": {key: value for key, value in profile.items() if value is not None},
        "storageProfile": storage,
    }
    if (allowed := parse_flag(allow_replicated_location_deletion)) is not None:
        properties["safetyProfile"] = {"allowDeletionOfReplicatedLocations": allowed}
    version = resource_id(
        arm.subscription,
        resource_group,
        VERSIONS,
        gallery_name,
        gallery_image_definition,
        gallery_image_version,
    )
    body = {"location": location, "tags": parse_tags(tags) or {}, "properties": properties}
    return _put_and_watch(arm, version, body, no_wait)


@verb(
    app,
    "show",
    [
        f"gallery sig image-version show {EXAMPLE} --expand ReplicationStatus",
    ],
    columns=COLUMNS,
    details=DETAILS,
)
def show(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    gallery_image_version: VersionOrNone = None,
    ids: Ids = None,
    expand: Annotated[
        str | None, typer.Option("--expand", metavar="ReplicationStatus", help="Add each region's progress.")
    ] = None,
) -> Any:
    """Show a version."""
    versions = _named(arm, ids, resource_group, gallery_name, gallery_image_definition, gallery_image_version)
    return one_or_all([arm.get(version, {"$expand": expand} if expand else None) for version in versions])


@verb(
    app,
    "list",
    ["gallery sig image-version list -g myRG -r myGallery -i myImageDefinition -o table"],
    columns=COLUMNS,
    details=DETAILS,
)
def list_versions(
    arm: "ArmClient", resource_group: Group, gallery_name: Gallery, gallery_image_definition: Definition
) -> Any:
    """List the versions of an image definition."""
    definition = resource_id(
        arm.subscription,
        resource_group,
        "Microsoft.Compute/galleries/images",
        gallery_name,
        gallery_image_definition,
    )
    return arm.list(definition, VERSIONS)


@verb(
    app,
    "update",
    [
        f'gallery sig image-version update {EXAMPLE} --target-regions "West Central US=2" "East US 2"',
        f'gallery sig image-version update {EXAMPLE} --add publishingProfile.targetRegions name="West US"',
    ],
    columns=COLUMNS,
    details=DETAILS,
)
def update(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    gallery_image_version: VersionOrNone = None,
    ids: Ids = None,
    target_regions: TargetRegions = None,
    replica_count: ReplicaCount = None,
    allow_replicated_location_deletion: AllowRegionDeletion = None,
    sets: Sets = None,
    adds: Adds = None,
    removes: Removes = None,
    no_wait: NoWait = False,
) -> Any:
    """Change the target regions or the replica count, and wait until the replicas are so."""
    results = []
    for version in _named(
        arm, ids, resource_group, gallery_name, gallery_image_definition, gallery_image_version
    ):
        body = arm.get(version)
        profile = body.setdefault("properties", {}).setdefault("publishingProfile", {})
        if target_regions is not None:
            profile["targetRegions"] = parse_target_regions(target_regions)
        if replica_count is not None:
            profile["replicaCount"] = replica_count
        if (allowed := parse_flag(allow_replicated_location_deletion)) is not None:
            body["properties"].setdefault("safetyProfile", {})["allowDeletionOfReplicatedLocations"] = allowed
        change(body, sets, adds, removes)
        results.append(_put_and_watch(arm, version, body, no_wait))
    return one_or_all(results)


@verb(app, "export", [f"gallery sig image-version export {EXAMPLE} --file disk.qcow2 --format qcow2"])
def export(
    arm: "ArmClient",
    resource_group: Group,
    gallery_name: Gallery,
    gallery_image_definition: Definition,
    gallery_image_version: Version,
    file: Annotated[Path, typer.Option("--file", metavar="OUT", help="The file to write, not there yet.")],
    file_format: Annotated[
        Literal["raw", "vhd", "qcow2"],
        typer.Option("--format", case_sensitive=False, help="What to write; VHD is fixed."),
    ] = "raw",
    lun: Annotated[
        int | None, typer.Option("--lun", metavar="LUN", help="A data disk, instead of the OS disk.")
    ] = None,
) -> Any:
    """Write a version's disk to a file here, and verify it."""
    from opengallery.cli.version_export import disk_name, export_version

    names = (gallery_name, gallery_image_definition, gallery_image_version)
    version = resource_id(arm.subscription, resource_group, VERSIONS, *names)
    disk = resource_id(arm.subscription, resource_group, "Microsoft.Compute/disks", disk_name())
    return export_version(arm, version, disk, file, file_format, lun)


@verb(app, "delete", [f"gallery sig image-version delete {EXAMPLE}"])
def delete(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    gallery_image_version: VersionOrNone = None,
    ids: Ids = None,
    no_wait: NoWait = False,
) -> None:
    """Delete a version and its replicas. VMs that run from it go on."""
    versions = _named(arm, ids, resource_group, gallery_name, gallery_image_definition, gallery_image_version)
    each_at_once(versions, lambda version: arm.delete(version, wait=not no_wait))


@verb(app, "wait", [f"gallery sig image-version wait {EXAMPLE} --created"])
def wait(
    arm: "ArmClient",
    resource_group: GroupOrNone = None,
    gallery_name: GalleryOrNone = None,
    gallery_image_definition: DefinitionOrNone = None,
    gallery_image_version: VersionOrNone = None,
    ids: Ids = None,
    created: Annotated[bool, typer.Option("--created", help="Until it is Succeeded.")] = False,
    updated: Annotated[bool, typer.Option("--updated", help="Until it is Succeeded.")] = False,
    deleted: Annotated[bool, typer.Option("--deleted", help="Until it is gone.")] = False,
    exists: Annotated[bool, typer.Option("--exists", help="Until it is there.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.1, help="Seconds between looks.")] = 1,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 3600,
) -> None:
    """Wait for a version, with a bar for each region."""
    from opengallery.cli.progress import Board, region_rows

    if [created, updated, deleted, exists].count(True) != 1:
        raise Misuse("Give one of --created, --updated, --deleted, --exists.")
    versions = _named(arm, ids, resource_group, gallery_name, gallery_image_definition, gallery_image_version)
    ends_at = time.monotonic() + timeout
    with Board(quiet=arm.quiet) as board:
        for version in versions:
            while True:
                body = _look(arm, version)
                board.show(region_rows(body or {}))
                state = ((body or {}).get("properties") or {}).get("provisioningState")
                if (body is None) if deleted else body is not None and (exists or state == "Succeeded"):
                    break
                if state == "Failed":
                    raise CommandFailed(f"Version {version.name} is Failed.", code="ProvisioningFailed")
                if time.monotonic() > ends_at:
                    raise CommandFailed(f"Version {version.name} is {state or 'absent'} after {timeout:g} s.")
                time.sleep(interval)


def _look(arm: "ArmClient", version: ResourceId) -> dict[str, Any] | None:
    try:
        return arm.get(version, STATUS)
    except CommandFailed as failure:
        if failure.status == 404:
            return None
        raise


def _put_and_watch(arm: "ArmClient", version: ResourceId, body: dict[str, Any], no_wait: bool) -> Any:
    """Write the version; while the server replicates it, show how far every region is."""
    from opengallery.cli.progress import Board, region_rows

    with Board(quiet=arm.quiet) as board:

        def watch() -> None:
            # The bars are a courtesy: the operation's own status says whether it failed.
            with contextlib.suppress(CommandFailed):
                board.show(region_rows(_look(arm, version) or {}))

        return arm.put(version, body, wait=not no_wait, watch=None if arm.quiet else watch)


def _named(
    arm: "ArmClient",
    ids: list[str] | None,
    group: str | None,
    gallery: str | None,
    definition: str | None,
    version: str | None,
) -> list[ResourceId]:
    return named(
        arm.subscription,
        VERSIONS,
        ids,
        group,
        gallery_name=gallery,
        gallery_image_definition=definition,
        gallery_image_version=version,
    )
