"""`gallery`: the nouns, each in a module of its own that is loaded when it is used."""

import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
import typer.core
import typer.main

from opengallery.cli.failure import CommandFailed


class Noun(NamedTuple):
    """A word after `gallery`: the module whose `app` it is, and what `gallery --help` says of it."""

    module: str
    help: str


NOUNS = {
    "serve": Noun("serve", "Run the server in the foreground."),
    "env": Noun("environment", "Print the shell lines that lead clients to a server."),
    "account": Noun("account", "Subscriptions and regions."),
    "provider": Noun("provider", "Resource providers of a subscription."),
    "feature": Noun("feature", "Preview features of a subscription."),
    "group": Noun("group", "Resource groups."),
    "role": Noun("role", "Role assignments and definitions."),
    "sig": Noun("sig", "Galleries, image definitions and image versions."),
    "image": Noun("image", "Managed images; `image import` makes one of a file."),
    "disk": Noun("disk", "Managed disks."),
    "snapshot": Noun("snapshot", "Snapshots of disks."),
    "vm": Noun("vm", "Virtual machines."),
    "vmss": Noun("vmss", "Scale sets."),
    "monitor": Noun("monitor", "The activity log: who did what."),
    "replica": Noun("replica", "The replicas of an image version."),
    "plan": Noun("plan", "How many replicas a boot storm needs."),
    "key": Noun("key", "The keys of a data folder: rotate."),
    "principal": Noun("principal", "Users, applications and groups of an external issuer."),
    "tenant": Noun("tenant", "The tenants of a data folder: create, list."),
    "subscription": Noun("subscription", "The subscriptions of a data folder: create, list."),
    "store": Noun("store", "The stores of a data folder: verify, collect, stats."),
}


class Nouns(typer.core.TyperGroup):
    """The root: knows every noun by name, and loads one when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All nouns, in the order of the table."""
        return list(NOUNS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load the noun's module."""
        if cmd_name not in NOUNS:
            return None
        module = import_module(f"opengallery.cli.{NOUNS[cmd_name].module}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        self.commands[cmd_name] = command
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Keep typer's suggestions for a misspelt noun: it makes them of `commands`."""
        if args and args[0] not in NOUNS:
            self.commands = dict.fromkeys(NOUNS, self)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the nouns without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, noun.help) for name, noun in NOUNS.items()])


app = typer.Typer(
    cls=Nouns,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"gallery {version('opengallery')}")
        raise typer.Exit


@app.callback()
def gallery(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Open Gallery: a self-hosted Shared Image Gallery.

    Nouns, verbs and options are those of az. Begin with `gallery serve --data DIR`, then, in another
    shell, `eval "$(gallery env --data DIR)"`.
    """


def main() -> None:
    """The entry point. Exit code 1: a request failed; 2: the command line is wrong; 130: Ctrl-C."""
    try:
        app(prog_name="gallery")
    except CommandFailed as failure:
        sys.stdout.flush()
        print(f"ERROR: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
