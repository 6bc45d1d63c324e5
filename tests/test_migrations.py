"""Migrations: they give exactly the tables that the code declares, on both databases."""

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from opengallery.database import MIGRATIONS, Database, metadata, newest_revision

from .conftest import import_tables


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    """A database without tables."""
    database = Database(database_url)
    yield database
    database.close()


def test_the_migrations_give_the_declared_tables(empty: Database) -> None:
    import_tables()
    empty.migrate()
    with empty.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, metadata) == []
        assert set(inspect(connection).get_table_names()) == {*metadata.tables, "alembic_version"}


def test_migrating_again_changes_nothing(empty: Database) -> None:
    empty.migrate()
    with empty.write() as connection:
        connection.execute(text("insert into tenants values ('t', 'name', 'a')"))
    for database in (empty, Database(empty.engine.url.render_as_string(hide_password=False))):
        database.migrate()
        with database.read() as connection:
            assert connection.scalar(text("select count(*) from tenants")) == 1
            assert connection.scalar(text("select version_num from alembic_version")) == newest_revision()
        if database is not empty:
            database.close()


def test_an_older_gallerys_administrator_keeps_its_secret(empty: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with empty.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("insert into tenants values ('t', 'name', 'o')"))
        connection.execute(
            text("insert into principals values ('o', 't', 'ServicePrincipal', 'a', 'Administrator', true)")
        )
        connection.execute(text("insert into client_secrets values ('a', 'k', 'hash', null)"))
    empty.migrate()
    with empty.read() as connection:
        kept = connection.execute(text("select app_id, key_id, hash from client_secrets")).one()
        assert tuple(kept) == ("a", "k", "hash")
        assert connection.scalar(text("select display_name from applications")) == "Administrator"


def test_every_migration_can_be_taken_back(empty: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    empty.migrate()
    with empty.write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with empty.read() as connection:
        assert set(inspect(connection).get_table_names()) == {"alembic_version"}
