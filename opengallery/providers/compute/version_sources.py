"""What a version is published from: the sources of its OS disk and of its data disks.

A machine, a managed image and another version bring all their disks. Snapshots and disks are named one by
one: that of the OS disk, and those of the data disks with their luns.
"""

from typing import Any

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resources import SUCCEEDED, Resource
from opengallery.providers.compute import image_data_disks, sources
from opengallery.replication import workflows

_SOURCE = "properties.storageProfile.source.id"
_DATA_DISKS = "properties.storageProfile.dataDiskImages"
_WHOLE = (sources.IMAGE, sources.MACHINE, sources.VERSION)
_SINGLE = (sources.DISK, sources.SNAPSHOT)


def source_id(version: Resource) -> str | None:
    """The id of what a version's OS disk is published from."""
    profile = version.properties["storageProfile"]
    return _source_id(profile) or _source_id(profile.get("osDiskImage", {}))


def _source_id(holder: dict[str, Any]) -> str | None:
    source = holder.get("source", {})
    found = source.get("virtualMachineId") or source.get("id")
    return str(found) if found else None


def is_changed(new: Resource, old: Resource) -> bool:
    """Whether what was sent for a version that is there names other sources; what is left out is unchanged."""
    source = source_id(new)
    if source is not None and source.lower() != (source_id(old) or "").lower():
        return True
    known = {disk["lun"]: disk for disk in image_data_disks.described(old)}
    sent = image_data_disks.described(new)
    if sent and [disk["lun"] for disk in sent] != list(known):
        return True
    return any(
        (text := _source_id(disk)) is not None
        and text.lower() != (_source_id(known[disk["lun"]]) or "").lower()
        for disk in sent
    )


def check(call: Call, new: Resource, text: str) -> None:
    """Raise unless a new version can be published from its sources now; note where the data disks come from."""
    source = _ready(call, new, text, _SOURCE, *_WHOLE, *_SINGLE)
    _check_kind(call, new, source)
    profile = new.properties["storageProfile"]
    given = profile["dataDiskImages"]
    if source.id.type in _WHOLE:
        if given:
            raise invalid_parameter(
                _DATA_DISKS,
                f"'{source.id.name}' brings its data disks by itself. Leave dataDiskImages out (--data-snapshots "
                "goes with --os-snapshot).",
            )
        profile["dataDiskImages"] = [
            {"lun": disk["lun"], "hostCaching": image_data_disks.caching(disk)} for disk in _disks_of(source)
        ]
        origins = sources.data_disks(source)
    else:
        profile["dataDiskImages"] = [_named_disk(disk) for disk in given]
        origins = {
            disk["lun"]: _ready(
                call, new, disk["source"]["id"], f"{_DATA_DISKS}[{index}].source.id", *_SINGLE
            ).key
            for index, disk in enumerate(profile["dataDiskImages"])
        }
    image_data_disks.check_luns(profile["dataDiskImages"], _DATA_DISKS)
    if origins:
        new.private["dataDisks"] = {str(lun): key for lun, key in origins.items()}


def _disks_of(source: Resource) -> list[dict[str, Any]]:
    if source.id.type == sources.MACHINE:
        disks: list[dict[str, Any]] = source.properties["storageProfile"].get("dataDisks", [])
        return disks
    return image_data_disks.described(source)


def _named_disk(disk: dict[str, Any]) -> dict[str, Any]:
    text = disk.get("source", {}).get("id")
    if not text:
        raise invalid_parameter(
            _DATA_DISKS,
            f"The data disk of lun {disk['lun']} needs a source, the id of a snapshot or a disk: --data-snapshots.",
        )
    return {"lun": disk["lun"], "source": {"id": text}, "hostCaching": image_data_disks.caching(disk)}


def _ready(call: Call, new: Resource, text: str, target: str, *kinds: str) -> Resource:
    """A source that has its bytes, in the version's region."""
    source = sources.linked(call, text, target, *kinds)
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
    return source


def _check_kind(call: Call, new: Resource, source: Resource) -> None:
    """Raise 400 unless the source is of the kind that the image definition says."""
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
                target=_SOURCE,
            )
        if given and given != wanted:
            raise invalid_parameter(
                _SOURCE,
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
    if source.id.type == sources.VERSION:
        parent = call.get(source.id.parent) if source.id.parent else None
        properties = parent.properties if parent else {}
    disk = properties.get("storageProfile", {}).get("osDisk", properties)
    return {
        "osType": disk.get("osType"),
        "hyperVGeneration": properties.get("hyperVGeneration"),
        "osState": disk.get("osState"),
    }


def gather(work: Work) -> tuple[str, list[workflows.DataDisk]]:
    """Capture what is a machine's; return whose image the OS disk's is, and the data disks with theirs."""
    version = work.resource()
    source = (source_id(version) or "").lower()
    owners = image_data_disks.owner_keys(version)
    origins = {lun: str(version.private["dataDisks"][str(lun)]) for lun in owners}
    machine = work.step("find the machine", sources.find_machine, work, source)
    if machine is not None and machine == source:
        # Its own images, in its own region, are what the replicas are made of.
        if not work.step("has image", sources.has_images, work, [work.key, *owners.values()]):
            sources.capture(work, source, data_disks=owners)
        return work.key, _data_disks(owners, owners)
    if machine is not None:
        if not work.step("has image", sources.has_image, work):
            sources.capture(work, source)
        source = work.key
    for lun, owner in owners.items():
        if work.step("find the machine", sources.find_machine, work, origins[lun]):
            if not work.step("has image", sources.has_image, work, owner):
                sources.capture(work, origins[lun], owner)
            origins[lun] = owner
    return source, _data_disks(owners, origins)


def _data_disks(owners: dict[int, str], origins: dict[int, str]) -> list[workflows.DataDisk]:
    return [
        workflows.DataDisk(owner=owner, source_owner=origins[lun], name=f"data disk {lun}")
        for lun, owner in owners.items()
    ]
