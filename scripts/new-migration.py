#!/usr/bin/env python3
"""Write a new Alembic migration: what the tables in the code have that the newest migration has not.

Usage: scripts/new-migration.py NUMBER "What changes", for instance 0002 "Keep snapshots". Read it before you commit.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.config import Config

from opengallery.database import MIGRATIONS, Database
from opengallery.providers import load_registry


def main() -> None:
    """Compare a fresh database at the newest migration with the declared tables, and write the difference."""
    number, message = sys.argv[1:]
    load_registry()
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{Path(folder) / 'empty.sqlite'}")
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with database.write() as connection:
            config.attributes["connection"] = connection
            if any((MIGRATIONS / "versions").glob("*.py")):
                command.upgrade(config, "head")
            command.revision(config, message, autogenerate=True, rev_id=number)
        database.close()
    for verb in (["check", "--fix"], ["format"]):
        subprocess.run(
            [Path(sys.executable).with_name("ruff"), *verb, "--quiet", MIGRATIONS / "versions"], check=False
        )


main()
