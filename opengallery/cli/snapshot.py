"""`gallery snapshot`: snapshots of disks, from which versions can be published."""

from typing import TYPE_CHECKING, Any

from opengallery.cli.command import new_app, verb
from opengallery.cli.disk import SizeGb, Sku, Source, creation_data, put_disk
from opengallery.cli.image import SNAPSHOTS
from opengallery.cli.options import Generation, Group, Location, Name, NoWait, OsTypeOrNone, Tags
from opengallery.cli.single import add_delete, add_list, add_show

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

COLUMNS = {
    "Name": "name",
    "ResourceGroup": "resourceGroup",
    "Location": "location",
    "OsType": "osType",
    "SizeGb": "diskSizeGB",
    "ProvisioningState": "provisioningState",
}

app = new_app("Snapshots of disks.")
add_show(app, "snapshot", SNAPSHOTS, COLUMNS)
add_list(app, "snapshot", SNAPSHOTS, COLUMNS)
add_delete(app, "snapshot", SNAPSHOTS, asks=False)


@verb(app, "create", ["gallery snapshot create -g myRG -n mySnapshot --source myDisk"], columns=COLUMNS)
def create(
    arm: "ArmClient",
    resource_group: Group,
    name: Name,
    source: Source = None,
    size_gb: SizeGb = None,
    sku: Sku = "Standard_LRS",
    os_type: OsTypeOrNone = None,
    hyper_v_generation: Generation = None,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create a snapshot of a disk, of another snapshot, or from a URL that the server fetches."""
    return put_disk(
        arm,
        SNAPSHOTS,
        resource_group,
        name,
        creation_data(arm, resource_group, source, size_gb),
        size_gb,
        sku,
        os_type,
        hyper_v_generation,
        location,
        tags,
        no_wait,
    )
