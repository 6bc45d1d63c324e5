"""The command as a whole: every noun and verb, its help, its start."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from opengallery.cli import main as entry
from opengallery.cli.command import Verb

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, StandIn

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that there is, with the words that lead to it."""
    command = command or typer.main.get_command(entry.app)
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from commands(command.get_command(None, name), (*path, name))


EXPECTED = """
account list|account list-locations|account show|disk create|disk delete|disk grant-access|disk list
disk revoke-access|disk show|env|feature list|feature register|feature show|group create|group delete
group exists|group list|group show|image create|image delete|image import|image list|image show
key rotate|plan|sig image-version export|principal add
monitor activity-log list|provider list|provider register|provider show|replica list|role assignment create
role assignment delete|role assignment list|role definition list|serve|sig create|sig delete
sig image-definition create|sig image-definition delete|sig image-definition list
sig image-definition show|sig image-definition update|sig image-version create|sig image-version delete
sig image-version list|sig image-version show|sig image-version update|sig image-version wait|sig list
sig list-shared|sig show-shared|sig list-community|sig show-community
sig image-definition list-shared|sig image-definition show-shared
sig image-definition list-community|sig image-definition show-community
sig image-version list-shared|sig image-version show-shared
sig image-version list-community|sig image-version show-community
sig share add|sig share remove|sig share reset|sig share enable-community|sig share wait
sig show|sig update|snapshot create|snapshot delete|snapshot list|snapshot show|store collect|store stats
store verify|subscription create|subscription list|tenant create|tenant list
vm boot-diagnostics get-boot-log|vm create|vm deallocate|vm delete|vm generalize
vm get-instance-view|vm run-command invoke
vm list|vm show|vm start|vm stop|vmss create|vmss deallocate|vmss delete|vmss delete-instances|vmss list
vmss list-instances|vmss reimage|vmss restart|vmss scale|vmss show|vmss start|vmss stop
vmss update-instances
"""


def test_all_commands_are_there() -> None:
    expected = {tuple(line.split()) for line in EXPECTED.replace("|", "\n").splitlines() if line}
    assert {path for path, _ in commands()} == expected


@pytest.mark.parametrize("path", [path for path, _ in commands()], ids=" ".join)
def test_every_command_has_help_with_an_example(gallery: Gallery, path: tuple[str, ...]) -> None:
    outcome = gallery(*path, "--help")
    assert outcome.code == 0
    assert "Examples:\n" in outcome.out
    assert f"gallery {' '.join(path)}" in outcome.out.split("Examples:")[1]


def test_every_command_reads_lists_as_az_does() -> None:
    assert all(isinstance(command, Verb) for _, command in commands())


def test_the_root_help_names_every_noun_and_loads_none() -> None:
    code = (
        "import sys; sys.argv = ['gallery', '--help']\n"
        "from opengallery.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*[m for m in sys.modules if m in ('httpx', 'rich', 'opengallery.cli.sig')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert all(f"  {noun} " in done.stdout for noun in entry.NOUNS)


def test_a_list_needs_no_rich(arm: StandIn, gallery: Gallery) -> None:
    code = (
        "import sys; sys.argv = ['gallery', 'sig', 'list', '-o', 'table']\n"
        "from opengallery.cli.main import main\n"
        "main() if len(sys.argv) else 0\n"
    )
    check = "import atexit, sys; atexit.register(lambda: print('rich' in sys.modules, file=sys.stderr))\n"
    done = subprocess.run([sys.executable, "-c", check + code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sig", "create", "-g", "rg"], "--gallery-name"),
        (["sig", "show", "-g", "rg"], "Missing --gallery-name (or --ids)."),
        (["sig", "lst"], "Did you mean 'list'"),
        (["sgi", "list"], "Did you mean 'sig'"),
        (["sig", "list", "--query", "[].name"], "gallery has no --query"),
        (["vm", "delete", "-g", "rg", "-n", "vm"], "--yes"),
        (["sig", "show", "--ids", "nonsense"], "is not a resource id"),
        (["sig", "show", "--ids", f"{GROUP}/providers/Microsoft.Compute/disks/d"], "is not of type"),
        (["disk", "create", "-g", "rg", "-n", "d", "--upload-type", "Upload"], "--upload-size-bytes"),
        (["image", "create", "-g", "rg", "-n", "i", "--source", "https://x/y.vhd"], "--os-type"),
    ],
)
def test_a_wrong_command_line_ends_with_2_and_says_why(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    with Path("/dev/null").open() as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        outcome = gallery(*words)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.out == ""


def test_version(gallery: Gallery) -> None:
    assert gallery("--version").out.startswith("gallery ")


def test_completion_offers_nouns_verbs_and_options(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_GALLERY_COMPLETE", "complete_bash")
    for words, expected in (
        ("gallery s", "sig"),
        ("gallery sig i", "image-version"),
        ("gallery sig create --gal", "--gallery-name"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert expected in gallery().out.split()


def test_env_of_a_folder_without_gallery_says_what_to_do(gallery: Gallery, tmp_path: Path) -> None:
    outcome = gallery("env", "--data", str(tmp_path / "none"))
    assert outcome.code == 1
    assert "gallery serve --data" in outcome.err


def test_groups_and_features_keep_their_properties(arm: StandIn, gallery: Gallery) -> None:
    created = gallery("group", "create", "-n", "new", "-l", "westcentralus", "--tags", "a=1", "b=2")
    assert created.json["properties"] == {"provisioningState": "Succeeded"}
    assert created.json["tags"] == {"a": "1", "b": "2"}
    assert [group["name"] for group in gallery("group", "list").json] == ["rg", "new"]
    assert gallery("group", "exists", "-n", "new").out == "true\n"
    assert gallery("group", "delete", "-n", "new", "--yes").code == 0
    assert gallery("group", "exists", "-n", "new").out == "false\n"


def test_account_looks_like_azs(arm: StandIn, gallery: Gallery) -> None:
    arm.add(f"/subscriptions/{SUBSCRIPTION}", {"subscriptionId": SUBSCRIPTION, "displayName": "First"})
    shown = gallery("account", "show").json
    assert shown["id"] == SUBSCRIPTION
    assert shown["isDefault"] is True
    assert shown["user"]["type"] == "servicePrincipal"
    assert gallery("account", "list", "-o", "tsv").out.split("\t")[0] == "First"
