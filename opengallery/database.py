"""The database of resources, roles, replicas and machines: SQLite or PostgreSQL, by SQLAlchemy Core.

Every floor declares its own tables on `metadata`; Alembic migrations in `opengallery/migrations`
bring a database to them. On SQLite a write transaction takes the write lock at its start
(`BEGIN IMMEDIATE`), so that it never fails in the middle with a lost race.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Engine,
    ExceptionContext,
    MetaData,
    TypeDecorator,
    create_engine,
    event,
    inspect,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

MIGRATIONS = Path(__file__).parent / "migrations"

Json = JSON


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, UTC, in both databases (SQLite keeps no zone of its own)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; SQLite gets it without the zone."""
        if value is None:
            return None
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give back an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """The current time, aware, UTC."""
    return datetime.now(UTC)


class Database:
    """Connections to one database. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        """Open `url`, an SQLAlchemy URL (`sqlite:///...` or `postgresql+psycopg://...`)."""
        self.engine = _engine(url)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes; committed (and on disk) when the block ends well."""
        with self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def migrate(self) -> None:
        """Bring the tables to the newest migration. Does nothing, fast, when they are there."""
        if self.revision() == newest_revision():
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def revision(self) -> str | None:
        """The migration that the tables stand at, `None` without any."""
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(text("select version_num from alembic_version")).scalar()


def newest_revision() -> str:
    """The newest migration's id: the file names sort, and begin with it."""
    return max(path.name for path in (MIGRATIONS / "versions").glob("*.py")).split("_")[0]


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _engine(url: str) -> Engine:
    # The standard library's JSON took half of the time to read a resource.
    options: dict[str, Any] = {"json_serializer": _encode, "json_deserializer": msgspec.json.decode}
    # An error's text names no values: some are secrets, and it goes into the log.
    options |= {"hide_parameters": True, "pool_size": 20, "max_overflow": 40}
    if not url.startswith("sqlite"):
        engine = create_engine(url, pool_pre_ping=True, **options)
        event.listen(engine, "handle_error", _hide_detail)
        return engine
    engine = create_engine(url, connect_args={"timeout": 30}, **options)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        # SQLAlchemy begins transactions itself, below; pysqlite must not.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=wal", "synchronous=full", "foreign_keys=on", "busy_timeout=30000"):
            cursor.execute(f"pragma {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("begin immediate" if writes else "begin")

    return engine


def _hide_detail(context: ExceptionContext) -> None:
    """Take the DETAIL out of PostgreSQL's errors: it holds the values of the row that failed."""
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            text = str(error.args[0])
            error.args = (text.split("\nDETAIL:")[0], *error.args[1:])
