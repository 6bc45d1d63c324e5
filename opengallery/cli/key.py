"""`gallery key`: the master key of a data folder, under which every tenant's data key is kept."""

from pathlib import Path
from typing import Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed
from opengallery.cli.serve import Data

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings that the server runs with."),
]

app = new_app("The master key of a data folder: rotate.")


@app.callback()
def _noun() -> None:
    """Keep `rotate` a word of its own: typer would make an app of one command that command."""


@verb(app, "rotate", ["gallery key rotate --data ~/gallery"])
def rotate(data: Data, config: Config = None) -> Any:
    """Wrap the tenants' data keys with a new master key. No image is written again; the server may run.

    With the master key in GALLERY_MASTER_KEY, the new one is taken from GALLERY_NEW_MASTER_KEY.
    """
    from opengallery.database import Database
    from opengallery.replication.key_rotation import rotate as rotate_keys
    from opengallery.replication.keys import MasterKeyError
    from opengallery.settings import SettingsError, load_settings

    try:
        settings = load_settings(data, config)
        if settings.database_url is None and not (settings.data / "gallery.sqlite").exists():
            raise CommandFailed(f"There is no gallery in {data}: give the folder that `gallery serve` uses.")
        done = rotate_keys(settings.data, Database(settings.database))
    except (SettingsError, MasterKeyError) as error:
        raise CommandFailed(str(error)) from error
    return {"tenants": done.tenants, "masterKey": done.place}
