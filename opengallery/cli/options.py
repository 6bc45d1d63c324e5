"""The options that commands share, with az's names, and the resources that they name."""

from typing import Annotated, Literal

import typer

from opengallery.arm.resource_id import MalformedId, ResourceId
from opengallery.cli.failure import Misuse

Group = Annotated[str, typer.Option("--resource-group", "-g", metavar="NAME", help="Resource group.")]
GroupOrNone = Annotated[
    str | None, typer.Option("--resource-group", "-g", metavar="NAME", help="Resource group.")
]
Name = Annotated[str, typer.Option("--name", "-n", metavar="NAME", help="Name of the resource.")]
NameOrNone = Annotated[str | None, typer.Option("--name", "-n", metavar="NAME", help="Name of the resource.")]
Gallery = Annotated[str, typer.Option("--gallery-name", "-r", metavar="NAME", help="Gallery.")]
GalleryOrNone = Annotated[str | None, typer.Option("--gallery-name", "-r", metavar="NAME", help="Gallery.")]
Definition = Annotated[
    str, typer.Option("--gallery-image-definition", "-i", metavar="NAME", help="Image definition.")
]
DefinitionOrNone = Annotated[
    str | None, typer.Option("--gallery-image-definition", "-i", metavar="NAME", help="Image definition.")
]
Version = Annotated[
    str, typer.Option("--gallery-image-version", "-e", metavar="X.Y.Z", help="Image version.")
]
VersionOrNone = Annotated[
    str | None, typer.Option("--gallery-image-version", "-e", metavar="X.Y.Z", help="Image version.")
]
Location = Annotated[
    str | None,
    typer.Option("--location", "-l", metavar="REGION", help="Region; by default the resource group's."),
]
Ids = Annotated[
    list[str] | None,
    typer.Option("--ids", metavar="ID...", help="Resource ids, instead of the names above."),
]
Tags = Annotated[
    list[str] | None, typer.Option("--tags", metavar="KEY=VALUE...", help='Tags; "" clears them.')
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return before the work is done.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
OsType = Literal["Linux", "Windows"]
OsTypeOption = Annotated[OsType, typer.Option("--os-type", case_sensitive=False, help="Operating system.")]
OsTypeOrNone = Annotated[
    OsType | None, typer.Option("--os-type", case_sensitive=False, help="Operating system.")
]
Generation = Annotated[
    Literal["V1", "V2"] | None,
    typer.Option(
        "--hyper-v-generation", case_sensitive=False, help="Firmware: V1 starts by BIOS, V2 by UEFI."
    ),
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE...", help="Set a property.")]
Adds = Annotated[
    list[str] | None,
    typer.Option("--add", metavar="PATH KEY=VALUE...", help="Add an object, or values, to a list."),
]
Removes = Annotated[
    list[str] | None, typer.Option("--remove", metavar="PATH [INDEX]", help="Take a property away.")
]


def check_name(name: str) -> str:
    """The name. Raises `Misuse` for what would name something else in the path of a URL, or nothing at all."""
    if not name or ".." in name or not name.isprintable() or any(sign in name for sign in "/\\?#%"):
        raise Misuse(
            f"invalid name {name!r}: a name is not empty, and has no '/', '\\', '..', '?', '#', '%' "
            "and no control characters."
        )
    return name


def parse_id(text: str, option: str) -> ResourceId:
    """Read a resource id that stands after `option`. Raises `Misuse`."""
    try:
        return ResourceId.parse(text)
    except MalformedId:
        raise Misuse(f"{option}: '{text}' is not a resource id.") from None


def named(
    subscription: str, resource_type: str, ids: list[str] | None, group: str | None, **names: str | None
) -> list[ResourceId]:
    """The resources that a command line names: by `--ids`, or by resource group and names.

    `names` are the values of the options in the order of the type's levels, by the option's name.
    Raises `Misuse` when an option is missing, or an id is of another type.
    """
    if ids:
        resources = [parse_id(word, "--ids") for text in ids for word in text.split()]
        for resource in resources:
            if resource.type.lower() != resource_type.lower():
                raise Misuse(f"--ids: '{resource}' is not of type {resource_type}.")
        return resources
    given = {"resource_group": group, **names}
    if missing := [f"--{option.replace('_', '-')}" for option, value in given.items() if not value]:
        raise Misuse(f"Missing {', '.join(missing)} (or --ids).")
    assert group
    return [resource_id(subscription, group, resource_type, *(name or "" for name in names.values()))]


def resource_id(subscription: str, group: str, resource_type: str, *names: str) -> ResourceId:
    """The id of a resource in a group. The type has as many levels as there are names. Raises `Misuse`."""
    for name in (group, *names):
        check_name(name)
    namespace, *types = resource_type.split("/")
    return ResourceId(subscription, group, namespace, tuple(types), names)


def id_or_name(subscription: str, group: str, resource_type: str, text: str) -> ResourceId:
    """`text` is an id, or the name of a resource of this type in the group."""
    if text.startswith("/"):
        return parse_id(text, "A source")
    return resource_id(subscription, group, resource_type, text)


def confirm(question: str, is_confirmed: bool) -> None:
    """Ask, unless `--yes` was given. Raises `Misuse` where nobody can answer, `Abort` on no."""
    import sys

    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise Misuse("There is no terminal to ask for confirmation. Use --yes.")
    typer.confirm(question, abort=True, err=True)
