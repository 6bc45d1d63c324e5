"""`gallery principal`: the object ids under which an external issuer's people are known here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.serve import Data

User = Annotated[str | None, typer.Option("--user", metavar="VALUE", help="A user's id claim.")]
App = Annotated[str | None, typer.Option("--app", metavar="VALUE", help="An application's id claim.")]
Group = Annotated[str | None, typer.Option("--group", metavar="VALUE", help="A group, as tokens name it.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings that the server runs with."),
]

app = new_app("Users, applications and groups of an external issuer.")


@app.callback()
def _noun() -> None:
    """Keep `add` a word of its own: typer would make an app of one command that command."""


@verb(app, "add", ["gallery principal add --data ~/gallery --group image-readers"])
def add(data: Data, user: User = None, app: App = None, group: Group = None, config: Config = None) -> Any:
    """Make a user, application or group of the issuer known before it is seen, and print its object id.

    Roles are given to that id. Whoever signs in is known from then on; this is for those who haven't yet.
    """
    from opengallery.database import Database
    from opengallery.identity.external_principals import add as add_principal
    from opengallery.identity.first_start import read_first_start
    from opengallery.settings import SettingsError, load_settings

    given = [(kind, value) for kind, value in (("user", user), ("app", app), ("group", group)) if value]
    if len(given) != 1:
        raise Misuse("Give one of --user, --app and --group.")
    try:
        settings = load_settings(data, config)
    except SettingsError as error:
        raise CommandFailed(str(error)) from error
    first = read_first_start(settings.data)
    if settings.identity.issuer is None or first is None:
        raise CommandFailed(
            f"There is no gallery with an external issuer in {data}. Give the folder that `gallery serve` uses, "
            "and the settings with identity.issuer (--config)."
        )
    (kind, value), database = given[0], Database(settings.database)
    return {"id": add_principal(database, settings.identity, first.tenant_id, kind, value), kind: value}
