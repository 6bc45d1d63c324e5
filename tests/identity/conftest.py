"""A gallery's identity floor on a fresh database, with its HTTP routes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from opengallery.database import Database
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.first_start import FirstStart, bootstrap
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.http import identity_routes
from opengallery.identity.keys import SigningKeys
from opengallery.identity.tokens import Tokens

ENDPOINT = "https://localhost:8443"


class Clock:
    """A clock that tests put forward."""

    def __init__(self) -> None:
        self.time_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time_s


@dataclass
class Identity:
    """The parts of the floor, as the server puts them together."""

    data: Path
    database: Database
    first: FirstStart
    keys: SigningKeys
    tokens: Tokens
    clock: Clock
    client: TestClient

    def form(self, **changes: str) -> dict[str, str]:
        """The token request that az sends, with `changes`."""
        return {
            "grant_type": "client_credentials",
            "client_id": self.first.app_id,
            "client_secret": self.first.client_secret,
            "scope": f"{ENDPOINT}//.default",
            "client_info": "1",
            **changes,
        }

    @property
    def token_path(self) -> str:
        return f"/{self.first.tenant_id}/oauth2/v2.0/token"


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A signing key for all tests: to make one takes longer than most of them."""
    folder = IdentityFolder(tmp_path_factory.mktemp("keys"))
    SigningKeys.open(folder)
    return folder.read("token-keys.json") or b""


@pytest.fixture
def identity(database: Database, tmp_path: Path, key_file: bytes) -> Iterator[Identity]:
    IdentityFolder(tmp_path).write("token-keys.json", key_file)
    first = bootstrap(database, tmp_path)
    keys = SigningKeys.open(IdentityFolder(tmp_path))
    clock = Clock()
    tokens = Tokens(database, keys, ENDPOINT, clock)
    checker = SecretChecker(clock)
    app = Starlette(
        routes=identity_routes(ENDPOINT, database, keys, tokens, checker, IdentityFolder(tmp_path))
    )
    with TestClient(app, base_url=ENDPOINT) as client:
        yield Identity(tmp_path, database, first, keys, tokens, clock, client)
    checker.close()
