"""`gallery vm run-command invoke`: a script in a machine's guest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.deployment import MACHINES
from opengallery.cli.failure import Misuse
from opengallery.cli.options import Group, Name, NoWait, resource_id

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

run_command = new_app("Commands in a machine's guest.")


@run_command.callback()
def commands() -> None:
    """Commands in a machine's guest."""


@verb(
    run_command,
    "invoke",
    [
        "gallery vm run-command invoke -g myRG -n myVM --command-id RunShellScript "
        "--scripts 'echo \"$1 $level\"' --parameters hello level=high"
    ],
)
def invoke(
    arm: "ArmClient",
    resource_group: Group,
    name: Name,
    command_id: Annotated[str, typer.Option("--command-id", metavar="ID", help="RunShellScript.")],
    scripts: Annotated[
        list[str] | None, typer.Option("--scripts", metavar="LINE|@FILE...", help="The script's lines.")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameters", metavar="[NAME=]VALUE...", help="The script's parameters."),
    ] = None,
    no_wait: NoWait = False,
) -> Any:
    """Run a script in a running machine's guest, and show what it said."""
    body = {
        "commandId": command_id,
        "script": [_line(word) for word in scripts or []],
        "parameters": _parameters(parameters or []),
    }
    machine = resource_id(arm.subscription, resource_group, MACHINES, name)
    return arm.act(machine, "runCommand", body, wait=not no_wait)


def _line(word: str) -> str:
    if not word.startswith("@"):
        return word
    try:
        return Path(word[1:]).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"--scripts: '{word[1:]}' can't be read: {error}.") from error


def _parameters(words: list[str]) -> list[dict[str, str]]:
    """Named ones, and the others by their place: arg1, arg2 and so on."""
    found, unnamed = [], 0
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            unnamed += 1
            name, value = f"arg{unnamed}", word
        found.append({"name": name, "value": value})
    return found
