"""The running application without its threads, and every request that its routes and its registry make possible."""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import httpx
from sqlalchemy import insert
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from opengallery.arm import operations, resources
from opengallery.arm.resource_id import RESOURCE_GROUPS, ResourceId
from opengallery.arm.resource_type import Registry, ResourceType
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.database import now
from opengallery.identity.directory import find_principal, principals, tenants
from opengallery.identity.first_start import FirstStart
from opengallery.identity.principal import Principal

VERBS = ("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE")
# Of the same length, so that nothing else differs when a name stands in an answer.
THERE, GONE = "isthere", "missing"
ORIGIN = "https://testserver"
CATCH_ALL = "/{path:path}"
VOLATILE = ("x-ms-request-id", "x-ms-correlation-request-id", "date")


@dataclass(frozen=True)
class Asked:
    """One request on what is there."""

    method: str
    path: str
    api_version: str

    @property
    def url(self) -> str:
        return f"{ORIGIN}{self.path}?api-version={self.api_version}"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Answered:
    """An answer to what was sent as it is."""

    status_code: int = 0
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Walked:
    """A server in this process: nothing of it runs but what answers requests."""

    application: Starlette
    services: Services
    registry: Registry
    first: FirstStart
    client: TestClient
    operation_id: str = ""

    @property
    def subscription(self) -> str:
        return self.first.subscription_id

    def send(self, method: str, url: str, token: str | None = None, **headers: str) -> httpx.Response:
        """Send a request as it stands, with a body where the method may have one."""
        given = {"Authorization": f"Bearer {token}"} if token is not None else {}
        body = {"location": "westcentralus"} if method in ("PUT", "PATCH", "POST") else None
        return self.client.request(
            method, url, headers={**given, **headers}, json=body, follow_redirects=False
        )

    def send_as_is(self, method: str, path: str, query: str = "", token: str | None = None) -> Answered:
        """Send a path that a client would tidy up before (`/./`, `//`), as a raw socket can."""
        assert self.client.portal is not None
        return self.client.portal.call(self._send_as_is, method, path, query, token)

    async def _send_as_is(self, method: str, path: str, query: str, token: str | None) -> Answered:
        headers = [(b"host", b"testserver")]
        headers += [(b"authorization", f"Bearer {token}".encode())] if token is not None else []
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 443),
        }
        answered = Answered()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answered.status_code = message["status"]
                answered.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answered.text += message.get("body", b"").decode()

        await self.application(scope, receive, send)
        return answered

    def newcomer(
        self, kind: str = "ServicePrincipal", tenant_id: str = "", enabled: bool = True
    ) -> Principal:
        """A principal without roles."""
        object_id = str(uuid.uuid4())
        row = {"object_id": object_id, "tenant_id": tenant_id or self.first.tenant_id, "kind": kind}
        row |= {"app_id": str(uuid.uuid4()), "display_name": "newcomer"}
        with self.services.database.write() as connection:
            connection.execute(insert(principals).values(**row, enabled=enabled))
            found = find_principal(connection, object_id)
        assert found is not None
        return found

    def other_tenant(self) -> str:
        """A second tenant; its id."""
        tenant_id = str(uuid.uuid4())
        row = {"id": tenant_id, "display_name": "Other", "administrator_id": str(uuid.uuid4())}
        with self.services.database.write() as connection:
            connection.execute(insert(tenants).values(**row))
        return tenant_id

    def fill(self) -> None:
        """Write one resource of every type, and an operation, all by the name of what is there."""
        with self.services.database.write() as connection:
            for declared in sorted(self.registry.types(), key=lambda one: one.type.count("/")):
                one = Resource(self.id_of(declared), location="westcentralus")
                resources.save(connection, one)
            administrator = find_principal(connection, self.first.object_id)
            group = ResourceId(self.subscription, THERE)
            operation = operations.Operation(
                str(group), group.key, "PUT", {}, {"object_id": "x"}, ORIGIN, status=operations.SUCCEEDED,
                ended_at=now(),
            )  # fmt: skip
            assert administrator is not None
            connection.execute(insert(operations.operations).values(operation.__dict__))
            self.operation_id = operation.id

    def id_of(self, declared: ResourceType) -> ResourceId:
        """The id of the resource of a type that is there."""
        if declared.type == RESOURCE_GROUPS:
            return ResourceId(self.subscription, THERE)
        namespace, *kinds = declared.type.split("/")
        return ResourceId(self.subscription, THERE, namespace, tuple(kinds), (THERE,) * len(kinds))

    def requests(self) -> Iterator[Asked]:
        """Every request that ARM takes, or might: each type, list, element, action, operation and route."""
        for declared in self.registry.types():
            yield from self._of_type(declared)
        for route in self.registry.routes:
            yield from self._every_verb(self.filled(route.path), route.api_versions[0])
        group = ResourceId(self.subscription, THERE)
        gallery = self.id_of(self.registry.require("Microsoft.Compute/galleries", None))
        for extension in self.registry.extensions:
            for scope in ("", ResourceId(self.subscription), group, gallery):
                yield from self._every_verb(
                    f"{scope}{self.filled(extension.path)}", extension.api_versions[0]
                )
        for kind in ("operations", "operationResults", "operationStatuses"):
            for place in ("", "/providers/Microsoft.Compute/locations/global"):
                path = f"/subscriptions/{self.subscription}{place}/{kind}/{self.operation_id}"
                yield from self._every_verb(path, "2024-03-03")

    def _of_type(self, declared: ResourceType) -> Iterator[Asked]:
        version, resource = declared.api_versions[0], self.id_of(declared)
        yield from self._every_verb(str(resource), version)
        for place in self._lists(declared, resource):
            yield from self._every_verb(place, version)
        for name in (*declared.actions, "noSuchAction"):
            yield from self._every_verb(f"{resource}/{name}", version)
        for name in declared.embedded:
            yield from self._every_verb(f"{resource}/{name}", version)
            yield from self._every_verb(f"{resource}/{name}/{THERE}", version)

    def _lists(self, declared: ResourceType, resource: ResourceId) -> list[str]:
        above = ResourceId(self.subscription)
        if declared.type == RESOURCE_GROUPS:
            return [f"{above}/resourceGroups", f"{above}/resources", f"{resource}/resources"]
        if len(resource.types) > 1:
            return [f"{resource.parent}/{resource.types[-1]}"]
        return [f"{place}/providers/{declared.type}" for place in (above, resource.group)]

    def _every_verb(self, path: str, version: str) -> Iterator[Asked]:
        for method in VERBS:
            yield Asked(method, path, version)

    def filled(self, pattern: str) -> str:
        """A route's path with names of what is there."""
        known = {"subscription": self.subscription, "namespace": "Microsoft.Compute"}
        known |= {"location": "westcentralus", "feature": "GalleryPreview"}
        return re.sub(r"\{(\w+)(:\w+)?\}", lambda found: known.get(found[1], THERE), pattern)

    def twins(self, path: str) -> Iterator[tuple[str, dict[str, str]]]:
        """The same path with one after another of its names, from the last, of what is not there.

        With each comes what was put in whose place.
        """
        parts = path.split("/")
        for place, part in reversed(list(enumerate(parts))):
            other = {THERE: GONE, self.subscription: str(uuid.uuid4()), self.operation_id: str(uuid.uuid4())}
            if part in other:
                yield "/".join([*parts[:place], other[part], *parts[place + 1 :]]), {other[part]: part}


def mounted(application: Starlette) -> list[Route]:
    """The application's routes, but for the one that takes all the rest."""
    found: list[Any] = list(application.routes)
    flat: list[Route] = []
    while found:
        one = found.pop(0)
        if isinstance(one, Mount):
            found += one.routes
        elif one.path != CATCH_ALL:
            flat.append(one)
    return flat


def seen(
    answer: httpx.Response | Answered, replaced: dict[str, str] | None = None
) -> tuple[int, str, dict[str, str]]:
    """All that a caller sees of an answer, but for ids that every answer has of its own."""
    text = answer.text
    for name, other in (replaced or {}).items():
        text = text.replace(name, other)
    headers = {name: value for name, value in answer.headers.items() if name not in VOLATILE}
    return answer.status_code, text, headers
