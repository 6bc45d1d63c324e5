"""`gallery snapshot`: what a disk held at one moment."""

from typing import TYPE_CHECKING, Any

from opengallery.cli.command import new_app, verb
from opengallery.cli.disk import COLUMNS, Sku, Source, creation_data, put_disk
from opengallery.cli.failure import Misuse
from opengallery.cli.image import SNAPSHOTS
from opengallery.cli.options import Generation, Group, Location, Name, NoWait, Tags
from opengallery.cli.single import add_delete, add_list, add_show

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

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
    sku: Sku = "Standard_LRS",
    hyper_v_generation: Generation = None,
    location: Location = None,
    tags: Tags = None,
    no_wait: NoWait = False,
) -> Any:
    """Create a snapshot of a disk, also of one that a running machine uses."""
    if source is None:
        raise Misuse("Missing --source: the disk or snapshot to copy.")
    creation = creation_data(arm, resource_group, source, None)
    return put_disk(
        arm,
        SNAPSHOTS,
        resource_group,
        name,
        creation,
        None,
        sku,
        None,
        hyper_v_generation,
        location,
        tags,
        no_wait,
    )
