"""`gallery key`: the keys of a data folder: the master key over the tenants' data keys, and those of tokens."""

from pathlib import Path
from typing import Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.serve import Data

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings that the server runs with."),
]

TokenSigning = Annotated[
    bool, typer.Option("--token-signing", help="Rotate the key that signs access tokens, not the master key.")
]

ForgetOld = Annotated[
    bool,
    typer.Option(
        "--forget-old",
        help="With --token-signing: end every token now, since others know the key. All have to sign in again.",
    ),
]

app = new_app("The keys of a data folder: rotate.")


@app.callback()
def _noun() -> None:
    """Keep `rotate` a word of its own: typer would make an app of one command that command."""


@verb(
    app,
    "rotate",
    ["gallery key rotate --data ~/gallery", "gallery key rotate --data ~/gallery --token-signing"],
)
def rotate(
    data: Data, config: Config = None, token_signing: TokenSigning = False, forget_old: ForgetOld = False
) -> Any:
    """Wrap the tenants' data keys with a new master key. No image is written again; the server may run.

    With the master key in GALLERY_MASTER_KEY, the new one is taken from GALLERY_NEW_MASTER_KEY.
    With --token-signing, a new key signs access tokens from now on; nobody is signed out.
    """
    if token_signing:
        return _rotate_token_key(data, forget_old)
    if forget_old:
        raise Misuse("--forget-old goes with --token-signing.")
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


def _rotate_token_key(data: Path, forgets_old: bool) -> Any:
    from opengallery.identity.folder import IdentityFolder
    from opengallery.identity.keys import FILE, read_keys, rotate

    folder = IdentityFolder(data.resolve())
    if not (folder.path / FILE).exists():
        raise CommandFailed(f"There is no gallery in {data}: give the folder that `gallery serve` uses.")
    key_id = rotate(folder, forgets_old)
    return {"tokenKey": key_id, "verifyingKeys": len(read_keys(folder))}
