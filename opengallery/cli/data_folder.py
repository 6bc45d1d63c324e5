"""The database of a data folder, for the commands that work on it directly, beside a server or without one."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opengallery.cli.failure import CommandFailed

if TYPE_CHECKING:
    from opengallery.database import Database

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings that the server runs with."),
]


@contextmanager
def opened_database(data: Path, config: Path | None) -> Iterator["Database"]:
    """The database of the gallery in `data`, as the last server left its tables. Raises `CommandFailed`."""
    from sqlalchemy.exc import SQLAlchemyError

    from opengallery.database import Database, newest_revision
    from opengallery.settings import SettingsError, load_settings

    try:
        settings = load_settings(data, config)
        if settings.database_url is None and not (settings.data / "gallery.sqlite").exists():
            raise CommandFailed(f"There is no gallery in {data}: give the folder that `gallery serve` uses.")
        database = Database(settings.database)
        try:
            if database.revision() != newest_revision():
                raise CommandFailed(
                    f"The gallery in {data} has the tables of another version. Run `gallery serve` of this "
                    "version once; it brings them forward."
                )
            yield database
        finally:
            database.close()
    except SettingsError as error:
        raise CommandFailed(str(error)) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip()
        raise CommandFailed(f"The database can't be used: {reason}") from error
