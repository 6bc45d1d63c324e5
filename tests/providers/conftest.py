"""A whole server in this process, on SQLite and on PostgreSQL: `api` asks it over ASGI, with a real token."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dbos import DBOS
from starlette.testclient import TestClient

from opengallery import app
from opengallery.arm.services import Services
from opengallery.identity.first_start import FirstStart, read_first_start
from opengallery.settings import ImageSettings, MachineSettings, RegionSettings, Settings, StoreSettings

from .files import FileServer

VERSIONS = {
    "microsoft.compute/galleries": "2024-03-03",
    "microsoft.compute/disks": "2025-01-02",
    "microsoft.compute/snapshots": "2025-01-02",
    "microsoft.compute": "2024-07-01",
    "microsoft.network": "2022-01-01",
    "microsoft.features": "2021-07-01",
    "microsoft.resources": "2024-11-01",
}
DEADLINE_S = 120


@dataclass
class Api:
    """A client of one server: paths are relative to the first subscription unless they begin with `/`."""

    client: TestClient
    services: Services
    first: FirstStart
    token: str = ""
    groups: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        """The path as it is asked, with an api-version that fits its type."""
        if not path.startswith("/"):
            path = f"/subscriptions/{self.first.subscription_id}/{path}"
        if "api-version=" in path:
            return path
        return f"{path}{'&' if '?' in path else '?'}api-version={_version(path)}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request with the administrator's token."""
        sent = {
            "Authorization": f"Bearer {self.token}",
            **{name.replace("_", "-"): v for name, v in headers.items()},
        }
        return self.client.request(method, self.url(path), json=body, headers=sent)

    def get(self, path: str) -> Any:
        """GET that has to succeed; the body."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, path: str, body: Any) -> Any:
        """PUT that has to succeed, its operation too; the resource afterwards."""
        answer = self.ask("PUT", path, body)
        assert answer.status_code in (200, 201, 202), answer.text
        self.finish(answer)
        return self.get(path)

    def delete(self, path: str) -> None:
        """DELETE that has to succeed."""
        answer = self.ask("DELETE", path)
        assert answer.status_code in (200, 202, 204), answer.text
        self.finish(answer)

    def act(self, path: str, body: Any = None) -> Any:
        """POST that has to succeed; its result."""
        answer = self.ask("POST", path, body)
        assert answer.status_code in (200, 202), answer.text
        if answer.status_code == 200:
            return answer.json() if answer.content else None
        self.finish(answer)
        result = self.ask("GET", answer.headers["Location"].split("testserver")[1])
        return result.json() if result.content else None

    def finish(self, answer: Any) -> None:
        """Wait for the operation of an answer, if it has one, and require that it succeeded."""
        operation = self.operation(answer)
        assert operation is None or operation["status"] == "Succeeded", operation

    def operation(self, answer: Any) -> Any:
        """Wait for the operation of an answer; how it ended, or None."""
        if "Azure-AsyncOperation" not in answer.headers:
            return None
        assert answer.headers["Retry-After"] == "1"
        url = answer.headers["Azure-AsyncOperation"].split("testserver")[1]
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            state = self.ask("GET", url).json()
            if state["status"] != "InProgress":
                return state
            time.sleep(0.05)
        raise AssertionError(f"{url} did not end in {DEADLINE_S} s")

    def refused(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str]:
        """Status, code and message of a request that has to be refused in ARM's form."""
        answer = self.ask(method, path, body, **headers)
        assert 400 <= answer.status_code < 500, answer.text
        error = answer.json()["error"]
        assert error["code"] and error["message"], error
        return answer.status_code, error["code"], error["message"]

    def group(self, name: str, location: str = "westcentralus") -> str:
        """Make a resource group that goes with the test; its path."""
        self.put(f"resourcegroups/{name}", {"location": location})
        self.groups.append(name)
        return f"resourceGroups/{name}"


def _version(path: str) -> str:
    parts = path.lower().split("?")[0].split("/providers/")
    last = parts[-1] if len(parts) > 1 else "microsoft.resources"
    found = [version for prefix, version in VERSIONS.items() if last.startswith(prefix)]
    if last.startswith("microsoft.") and "/" not in last.replace("/register", ""):
        return VERSIONS["microsoft.resources"]
    if "/locations" in path or path.count("/") < 3 or path.startswith("/tenants"):
        return "2022-12-01"
    return found[0]


NAMED_REGION, NAMED_STORES = "swedencentral", ("sc-a", "sc-b")
MAX_IMAGE_BYTES = 128 * 1024**2


@pytest.fixture(scope="package")
def file_server() -> Iterator[FileServer]:
    """A web server of files; our server may fetch those under `/allowed/`."""
    serving = FileServer()
    yield serving
    serving.close()


def _settings(data: Path, url: str | None, files: FileServer) -> Settings:
    """Small pages, small images, and one region that names its stores."""
    stores = [StoreSettings(name, str(data / "named" / name)) for name in NAMED_STORES]
    return Settings(
        data=data,
        database_url=url,
        page_size=5,
        images=ImageSettings(max_size_bytes=MAX_IMAGE_BYTES, fetch_allow=[f"{files.url}/allowed/"]),
        machines=MachineSettings(ssh_wait_s=0),  # the images that most tests use boot nothing
        regions={NAMED_REGION: RegionSettings(stores)},
    )


@contextmanager
def serving(
    request: pytest.FixtureRequest, make_settings: Callable[[Path, str | None], Settings]
) -> Iterator[Api]:
    """A server on the kind of database that the fixture asks for, and its administrator."""
    data = Path(tempfile.mkdtemp(prefix="opengallery-test-"))
    url = None
    if request.param == "postgresql":
        postgresql = request.getfixturevalue("postgresql")
        url = postgresql.url(postgresql.create())
    services = app.build_services(make_settings(data, url))
    application = app.build_application(services)
    app.start_work(services)
    first = read_first_start(data)
    assert first is not None
    with TestClient(application, base_url="https://testserver") as client:
        api = Api(client, services, first)
        answer = client.post(
            f"/{first.tenant_id}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": first.app_id,
                "client_secret": first.client_secret,
                "scope": f"{services.settings.endpoint}/.default",
            },
        )
        api.token = answer.json()["access_token"]
        yield api
    app.stop_work(services)
    DBOS.destroy(workflow_completion_timeout_sec=5)
    services.database.close()
    shutil.rmtree(data)


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, file_server: FileServer) -> Iterator[Api]:
    """One server for all tests on one kind of database."""
    with serving(request, lambda data, url: _settings(data, url, file_server)) as api:
        yield api


@pytest.fixture
def api(server: Api) -> Iterator[Api]:
    """The server, without the resource groups of the test when it is over."""
    yield server
    for name in server.groups:
        server.delete(f"resourceGroups/{name}")
    server.groups.clear()
