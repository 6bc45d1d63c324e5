"""`gallery replica`: the replicas of an image version, store by store."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import Misuse
from opengallery.cli.image_version import VERSIONS
from opengallery.cli.options import parse_id

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

COLUMNS = {
    "Region": "region",
    "Store": "store",
    "Lun": "lun",
    "State": "state",
    "Bytes": "bytes",
    "StoredBytes": "storedBytes",
    "Vms": "vms",
    "BytesServed": "bytesServed",
}
# Only data disks have one.
DETAILS = ("Lun",)

app = new_app("The replicas of an image version.")


@app.callback()
def replica() -> None:
    """The replicas of an image version."""


@verb(
    app,
    "list",
    ["gallery replica list --version $VERSION_ID -o table"],
    columns=COLUMNS,
    details=DETAILS,
    flat=False,
)
def list_replicas(
    arm: "ArmClient",
    version: Annotated[str, typer.Option("--version", metavar="ID", help="Id of the image version.")],
) -> Any:
    """List a version's replicas, of each disk: their state, what they store, how many VMs read them first."""
    identity = parse_id(version, "--version")
    if identity.type.lower() != VERSIONS.lower():
        raise Misuse(f"--version: '{version}' is not the id of an image version.")
    return arm.list(identity, f"{VERSIONS}/replicas")
