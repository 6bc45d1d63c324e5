"""The Graph endpoint on a fresh directory, asked by an administrator or by whom a test wants."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from opengallery.identity.client_secrets import SecretChecker, hash_secret
from opengallery.identity.directory import find_principal
from opengallery.identity.graph.http import GraphEndpoint
from opengallery.identity.principal import Principal
from opengallery.identity.tenants import create_tenant

from ..conftest import ENDPOINT, Identity

PASSWORD = "correct horse battery"


@dataclass
class Graph:
    """Asks the endpoint as `principal`; an answer with another status than expected fails the test."""

    identity: Identity
    client: TestClient
    administrators: set[str]
    principal: Principal
    ended: list[str] = field(default_factory=list)

    def send(self, method: str, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        """The content of the answer, `None` when it has none."""
        token = self.identity.tokens.issue(self.principal, f"{ENDPOINT}/").text
        headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
        response = self.client.request(method, f"/v1.0{path}", json=body, headers=headers, **options)
        assert response.status_code == status, response.text
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.json() if is_json else (response.text or None)

    def get(self, path: str, **params: str) -> Any:
        """GET; names of parameters with `_` in front of them get a `$`."""
        return self.send("GET", path, params={name.replace("_", "$", 1): params[name] for name in params})

    def post(self, path: str, body: Any = None, status: int = 201) -> Any:
        return self.send("POST", path, body, status)

    def patch(self, path: str, body: Any) -> None:
        self.send("PATCH", path, body, 204)

    def delete(self, path: str) -> None:
        self.send("DELETE", path, None, 204)

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str, str]:
        """Status, code and message of a refusal, whose form is checked."""
        status = options.pop("status")
        error = self.send(method, path, body, status, **options)["error"]
        assert {"date", "request-id", "client-request-id"} == set(error["innerError"])
        return status, error["code"], error["message"]

    def user(self, name: str, **changes: Any) -> dict[str, Any]:
        """Create a user as az does."""
        body = {
            "accountEnabled": True,
            "displayName": name.title(),
            "mailNickname": name,
            "userPrincipalName": f"{name}@local",
            "passwordProfile": {"forceChangePasswordNextSignIn": False, "password": PASSWORD},
            **changes,
        }
        return self.post("/users", body)

    def group(self, name: str, **changes: Any) -> str:
        """Create a group as az does; its id."""
        body = {"displayName": name, "mailEnabled": False, "mailNickname": name, "securityEnabled": True}
        return self.post("/groups", body | changes)["id"]

    def application(self, name: str, **changes: Any) -> dict[str, Any]:
        return self.post("/applications", {"displayName": name, "keyCredentials": [], **changes})

    def service_principal(self, name: str) -> dict[str, Any]:
        """Create an application and its service principal."""
        app_id = self.application(name)["appId"]
        return self.post("/servicePrincipals", {"appId": app_id, "accountEnabled": True})

    def add(self, path: str, object_id: str, status: int = 204) -> Any:
        """Add a reference, to members or owners."""
        reference = {"@odata.id": f"{ENDPOINT}/v1.0/directoryObjects/{object_id}"}
        return self.send("POST", f"{path}/$ref", reference, status)

    def seen_by(self, object_id: str) -> "Graph":
        """The same endpoint, asked by another principal."""
        with self.identity.database.read() as connection:
            principal = find_principal(connection, object_id)
        assert principal is not None
        return replace(self, principal=principal)


@pytest.fixture
def graph(identity: Identity) -> Iterator[Graph]:
    """The endpoint, asked by the first administrator."""
    administrators = {identity.first.object_id}
    ended: list[str] = []
    checker = SecretChecker(identity.clock)
    endpoint = GraphEndpoint(
        ENDPOINT,
        identity.database,
        identity.tokens,
        checker,
        lambda _connection, principal: principal.object_id in administrators,
        lambda _connection, object_id: ended.append(object_id),
    )
    with identity.database.read() as connection:
        principal = find_principal(connection, identity.first.object_id)
    assert principal is not None
    with TestClient(Starlette(routes=endpoint.routes()), base_url=ENDPOINT) as client:
        yield Graph(identity, client, administrators, principal, ended)
    checker.close()


@pytest.fixture
def stranger(graph: Graph) -> Graph:
    """The same endpoint, asked by the administrator of another tenant."""
    with graph.identity.database.write() as connection:
        new = create_tenant(connection, "Contoso", hash_secret("secret"), "sec")
    graph.administrators.add(new.object_id)
    return graph.seen_by(new.object_id)


def ids(answer: dict[str, Any]) -> set[str]:
    """Ids of the objects of a list."""
    return {entry["id"] for entry in answer["value"]}
