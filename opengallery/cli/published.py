"""What is shared beside roles, as those see it whom it is shared with: `list-shared`, `show-community` and so on.

The verbs stand beside those of galleries, image definitions and versions.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from opengallery.arm.resource_id import ResourceId
from opengallery.cli.command import verb
from opengallery.cli.failure import Misuse
from opengallery.cli.options import Definition, Version

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

SHARED, COMMUNITY = "sharedGalleries", "communityGalleries"
QUERY = "communitygalleryresources| where type == 'microsoft.compute/locations/communitygalleries' "
QUERY_PATH, QUERY_VERSION = "/providers/Microsoft.ResourceGraph/resources", "2021-03-01"
PAGE = 30
COLUMNS = {"Name": "name", "Location": "location", "UniqueId": "uniqueId"}

Region = Annotated[str, typer.Option("--location", "-l", metavar="REGION", help="Region to look in.")]
UniqueName = Annotated[
    str, typer.Option("--gallery-unique-name", metavar="NAME", help="Name that the gallery is shared under.")
]
PublicName = Annotated[
    str, typer.Option("--public-gallery-name", metavar="NAME", help="Public name of the gallery.")
]
SharedTo = Annotated[
    Literal["subscription", "tenant"] | None,
    typer.Option("--shared-to", case_sensitive=False, help="With whom it is shared."),
]


def place(arm: "ArmClient", kind: str, location: str, *names: str) -> ResourceId:
    """The id of a shared gallery, image or version, or of the region that they are in."""
    region = "".join(location.lower().split())
    types = ("locations", kind, "images", "versions")[: len(names) + 1]
    return ResourceId(arm.subscription, None, "Microsoft.Compute", types, (region, *names))


def find_shared(arm: "ArmClient", text: str, location: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The image reference for `/SharedGalleries/...` or `/CommunityGalleries/...`, and its definition."""
    parts = text.split("/")
    words = [word.lower() for word in parts[1::2]]
    kinds = {"sharedgalleries": SHARED, "communitygalleries": COMMUNITY}
    if len(parts) != 7 or words[0] not in kinds or words[1:] != ["images", "versions"]:
        raise Misuse(f"'{text}' is not /SharedGalleries/NAME/Images/IMAGE/Versions/VERSION.")
    kind = kinds[words[0]]
    definition = arm.get(place(arm, kind, location, parts[2], parts[4]))
    if parts[6].lower() != "latest":
        arm.get(place(arm, kind, location, parts[2], parts[4], parts[6]))
    return {member(text): text}, definition


def require_accepted(arm: "ArmClient", text: str, location: str, is_accepted: bool) -> None:
    """Ask whether the agreement of a community image is accepted. Raises `Misuse` where nobody can answer."""
    import sys

    if is_accepted or not text.lower().startswith("/communitygalleries/"):
        return
    shown = arm.get(place(arm, COMMUNITY, location, text.split("/")[2]))["properties"]
    eula = shown["communityMetadata"]["eula"]
    if not sys.stdin.isatty():
        raise Misuse(
            f"A community image comes with an agreement: {eula} Read it, and accept it by --accept-term."
        )
    typer.confirm(f"Do you accept the agreement of this community image? {eula}", abort=True, err=True)


def is_shared(text: str) -> bool:
    """Whether an image is named as one shared beside roles."""
    return text.lower().startswith(("/sharedgalleries/", "/communitygalleries/"))


def member(text: str) -> str:
    """In which member of a reference the id of an image stands."""
    if not is_shared(text):
        return "id"
    return (
        "sharedGalleryImageId" if text.lower().startswith("/sharedgalleries/") else "communityGalleryImageId"
    )


def _view(entry: dict[str, Any]) -> dict[str, Any]:
    """With `uniqueId` where az shows it."""
    shown = dict(entry)
    shown["uniqueId"] = (shown.pop("identifier", None) or {}).get("uniqueId")
    return shown


def _show(arm: "ArmClient", kind: str, location: str, *names: str) -> Any:
    return _view(arm.get(place(arm, kind, location, *names)))


def _list(arm: "ArmClient", kind: str, location: str, shared_to: str | None, *names: str) -> Any:
    parent = place(arm, kind, location, *names)
    collection = (kind, "images", "versions")[len(names)]
    query = {"sharedTo": "tenant"} if shared_to == "tenant" else None
    return [_view(entry) for entry in arm.list(parent, f"{parent.type}/{collection}", query)]


def add_gallery_verbs(app: typer.Typer) -> None:
    """`list-shared`, `show-shared`, `list-community`, `show-community` of galleries."""

    @verb(app, "list-shared", ["gallery sig list-shared -l westcentralus -o table"], columns=COLUMNS)
    def list_shared(arm: "ArmClient", location: Region, shared_to: SharedTo = None) -> Any:
        """List the galleries shared with the subscription, or with its tenant."""
        return _list(arm, SHARED, location, shared_to)

    @verb(
        app, "show-shared", ["gallery sig show-shared -l westcentralus --gallery-unique-name $NAME"],
        columns=COLUMNS,
    )  # fmt: skip
    def show_shared(arm: "ArmClient", location: Region, gallery_unique_name: UniqueName) -> Any:
        """Show a gallery that is shared with the subscription or its tenant."""
        return _show(arm, SHARED, location, gallery_unique_name)

    @verb(app, "list-community", ["gallery sig list-community -l westcentralus -o table"], columns=COLUMNS)
    def list_community(
        arm: "ArmClient",
        location: Annotated[
            str | None, typer.Option("--location", "-l", metavar="REGION", help="Only those seen there.")
        ] = None,
        marker: Annotated[
            str | None, typer.Option("--marker", metavar="TOKEN", help="Where the page before ended.")
        ] = None,
        show_next_marker: Annotated[
            bool, typer.Option("--show-next-marker", help="Tell where the page ends.")
        ] = False,
    ) -> Any:
        """List the community galleries."""
        region = "".join((location or "").lower().split())
        where = f"| where location == '{region}' " if region else ""
        options: dict[str, Any] = {"$top": PAGE, **({"$skipToken": marker} if marker else {})}
        url = arm.url(QUERY_PATH, QUERY_VERSION)
        answer = arm.request("POST", url, {"query": QUERY + where, "options": options}).json()
        found: list[Any] = [
            {
                "id": entry["id"],
                "location": entry["location"],
                "name": entry["name"],
                "communityMetadata": entry["properties"]["communityMetadata"],
                "uniqueId": entry["properties"]["identifier"]["uniqueId"],
            }
            for entry in answer["data"]
        ]
        return [*found, {"nextMarker": answer.get("$skipToken")}] if show_next_marker else found

    @verb(
        app, "show-community", ["gallery sig show-community -l westcentralus --public-gallery-name $NAME"],
        columns=COLUMNS,
    )  # fmt: skip
    def show_community(arm: "ArmClient", location: Region, public_gallery_name: PublicName) -> Any:
        """Show a community gallery: its publisher, and the agreement that comes with it."""
        return _show(arm, COMMUNITY, location, public_gallery_name)


def add_definition_verbs(app: typer.Typer) -> None:
    """The same of image definitions."""
    word = "gallery sig image-definition"
    shared, community = (
        "-l westcentralus --gallery-unique-name $NAME",
        "-l westcentralus --public-gallery-name $NAME",
    )

    @verb(app, "list-shared", [f"{word} list-shared {shared}"], columns=COLUMNS)
    def list_shared(
        arm: "ArmClient", location: Region, gallery_unique_name: UniqueName, shared_to: SharedTo = None
    ) -> Any:
        """List the image definitions of a shared gallery."""
        return _list(arm, SHARED, location, shared_to, gallery_unique_name)

    @verb(app, "show-shared", [f"{word} show-shared {shared} -i myImageDefinition"], columns=COLUMNS)
    def show_shared(
        arm: "ArmClient",
        location: Region,
        gallery_unique_name: UniqueName,
        gallery_image_definition: Definition,
    ) -> Any:
        """Show an image definition of a shared gallery."""
        return _show(arm, SHARED, location, gallery_unique_name, gallery_image_definition)

    @verb(app, "list-community", [f"{word} list-community {community}"], columns=COLUMNS)
    def list_community(arm: "ArmClient", location: Region, public_gallery_name: PublicName) -> Any:
        """List the image definitions of a community gallery."""
        return _list(arm, COMMUNITY, location, None, public_gallery_name)

    @verb(app, "show-community", [f"{word} show-community {community} -i myImageDefinition"], columns=COLUMNS)
    def show_community(
        arm: "ArmClient",
        location: Region,
        public_gallery_name: PublicName,
        gallery_image_definition: Definition,
    ) -> Any:
        """Show an image definition of a community gallery."""
        return _show(arm, COMMUNITY, location, public_gallery_name, gallery_image_definition)


def add_version_verbs(app: typer.Typer) -> None:
    """The same of image versions."""
    word = "gallery sig image-version"
    image = "-i myImageDefinition"
    shared = f"-l westcentralus --gallery-unique-name $NAME {image}"
    community = f"-l westcentralus --public-gallery-name $NAME {image}"

    @verb(app, "list-shared", [f"{word} list-shared {shared}"], columns=COLUMNS)
    def list_shared(
        arm: "ArmClient",
        location: Region,
        gallery_unique_name: UniqueName,
        gallery_image_definition: Definition,
        shared_to: SharedTo = None,
    ) -> Any:
        """List the versions of a shared image that can be used in a region."""
        return _list(arm, SHARED, location, shared_to, gallery_unique_name, gallery_image_definition)

    @verb(app, "show-shared", [f"{word} show-shared {shared} -e 1.0.0"], columns=COLUMNS)
    def show_shared(
        arm: "ArmClient",
        location: Region,
        gallery_unique_name: UniqueName,
        gallery_image_definition: Definition,
        gallery_image_version: Version,
    ) -> Any:
        """Show a version of a shared image."""
        names = (gallery_unique_name, gallery_image_definition, gallery_image_version)
        return _show(arm, SHARED, location, *names)

    @verb(app, "list-community", [f"{word} list-community {community}"], columns=COLUMNS)
    def list_community(
        arm: "ArmClient",
        location: Region,
        public_gallery_name: PublicName,
        gallery_image_definition: Definition,
    ) -> Any:
        """List the versions of a community image that can be used in a region."""
        return _list(arm, COMMUNITY, location, None, public_gallery_name, gallery_image_definition)

    @verb(app, "show-community", [f"{word} show-community {community} -e 1.0.0"], columns=COLUMNS)
    def show_community(
        arm: "ArmClient",
        location: Region,
        public_gallery_name: PublicName,
        gallery_image_definition: Definition,
        gallery_image_version: Version,
    ) -> Any:
        """Show a version of a community image."""
        names = (public_gallery_name, gallery_image_definition, gallery_image_version)
        return _show(arm, COMMUNITY, location, *names)
