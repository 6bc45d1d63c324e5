"""What every test may use: a fresh database of each kind that the server runs on.

`database` and `database_url` run a test twice, on SQLite and on a real PostgreSQL server that is
started once for the whole run and ends with it. Its data is thrown away, so it never syncs.
"""

import contextlib
import importlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import opengallery
from opengallery.database import Database, metadata

PACKAGE = Path(opengallery.__file__).parent
START_TIMEOUT_S = 60
TEMPLATE = "gallery_template"


def import_tables() -> None:
    """Import every module that declares a table, so that `metadata` holds them all."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if "migrations" in path.parts or not re.search(r"\bTable\(", path.read_text()):
            continue
        name = ".".join(("opengallery", *path.relative_to(PACKAGE).with_suffix("").parts))
        importlib.import_module(name)


@dataclass
class PostgreSQL:
    """A running PostgreSQL server that belongs to this test run alone."""

    port: int
    password: str
    names: set[str] = field(default_factory=set)

    def url(self, name: str) -> str:
        """SQLAlchemy URL of the database `name`."""
        return f"postgresql+psycopg://gallery:{self.password}@127.0.0.1:{self.port}/{name}"

    def create(self, template: str = "template0") -> str:
        """Make a database, a copy of `template`, and return its name."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(sql.SQL("create database {} template {}"), name, template)
        return name

    def drop(self, name: str) -> None:
        """Delete the database `name`; who is still connected is cut off."""
        self._execute(sql.SQL("drop database if exists {} with (force)"), name)

    def template(self) -> str:
        """The database that holds all tables and no rows; made at the first call."""
        if TEMPLATE not in self.names:
            self._execute(sql.SQL("create database {} template template0"), TEMPLATE)
            self.names.add(TEMPLATE)
            _create_tables(Database(self.url(TEMPLATE)))
        return TEMPLATE

    def _execute(self, statement: sql.SQL, *names: str) -> None:
        with self._connect() as connection:
            connection.execute(statement.format(*(sql.Identifier(name) for name in names)))

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="gallery",
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )

    def wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Return when the server answers. Raises `RuntimeError` with its log when it ends or is too late."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(psycopg.OperationalError):
                self._connect().close()
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server on a port of its own, its data in a folder that goes away."""
    programs = _postgresql_programs()
    folder = Path(tempfile.mkdtemp(prefix="opengallery-postgresql-"))
    owner = _unprivileged_user()
    shutil.chown(folder, owner.pw_uid, owner.pw_gid)
    server = PostgreSQL(port=_free_port(), password=secrets.token_urlsafe(16))
    password_file, log = folder / "password", folder / "log"
    password_file.write_text(server.password)
    shutil.chown(password_file, owner.pw_uid, owner.pw_gid)
    data = str(folder / "data")
    initdb = [str(programs / "initdb"), "--pgdata", data, "--username=gallery", "--auth=password"]
    initdb += [f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C", "--no-sync"]
    postgres = [str(programs / "postgres"), "-D", data, "-p", str(server.port), "-k", str(folder)]
    for setting in (
        "listen_addresses=127.0.0.1",
        "fsync=off",
        "synchronous_commit=off",
        "full_page_writes=off",
        "shared_buffers=32MB",
        "max_connections=300",
    ):
        postgres += ["-c", setting]
    try:
        done = subprocess.run(
            _as_user(owner, initdb), cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        with log.open("wb") as output:
            process = subprocess.Popen(_as_user(owner, postgres), cwd=folder, stdout=output, stderr=output)
        try:
            server.wait_until_ready(process, log)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # the fast shutdown: it waits for no connection
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """`sqlite` or `postgresql`: the kind of database that this run of the test uses."""
    return str(request.param)


@pytest.fixture
def database_url(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """SQLAlchemy URL of an empty database: for servers, which migrate it themselves."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'gallery.sqlite'}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture
def database(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with all tables and no rows."""
    if database_kind == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'tables.sqlite'}")
        _create_tables(database, keep_open=True)
        yield database
        database.close()
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create(server.template())
    database = Database(server.url(name))
    yield database
    database.close()
    server.drop(name)


def _create_tables(database: Database, keep_open: bool = False) -> None:
    import_tables()
    with database.write() as connection:
        metadata.create_all(connection)
    if not keep_open:
        database.close()


def _postgresql_programs() -> Path:
    """The folder of the newest installed PostgreSQL server (Debian keeps it out of PATH)."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if folders:
        return max(folders, key=lambda folder: int(folder.parent.name))
    if found := shutil.which("postgres"):
        return Path(found).parent
    raise RuntimeError(
        "No PostgreSQL server is installed. `make test` installs it; or: apt-get install postgresql"
    )


def _unprivileged_user() -> pwd.struct_passwd:
    """Who runs the server: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _as_user(user: pwd.struct_passwd, command: list[str]) -> list[str]:
    """`command` as `user`, interrupted when this process dies, however it dies."""
    setpriv = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        setpriv += ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return [*setpriv, *command]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
