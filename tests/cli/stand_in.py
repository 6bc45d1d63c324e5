"""A small ARM on a real socket, to test the client before and beside the real server.

It keeps what is PUT, answers writes as long-running operations, takes pages as blob storage does, and
fails on demand. It judges nothing: rules are the server's affair.
"""

import copy
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

SUBSCRIPTION = "11111111-1111-1111-1111-111111111111"
TENANT = "22222222-2222-2222-2222-222222222222"
CLIENT = "33333333-3333-3333-3333-333333333333"
SECRET = "correct horse"


@dataclass
class Request:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    """What to send back. A body that is no bytes is sent as JSON; `None` for the connection to break."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class StandIn:
    """The server. `fault` may answer a request in its place; `requests` are all that came."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.resources: dict[str, dict[str, Any]] = {}
        self.operations: dict[str, dict[str, Any]] = {}
        self.blobs: dict[str, dict[int, bytes]] = {}
        self.fault: Callable[[Request], Answer | None] = lambda request: None
        self.on_put: Callable[[str, dict[str, Any]], None] = lambda path, resource: None
        self.polls = 1
        self.token = "token-1"
        self.page_size = 100
        self.lock = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                request = Request(
                    self.command, parts.path, query, dict(self.headers.items()), self.rfile.read(length)
                )
                with stand_in.lock:
                    stand_in.requests.append(request)
                    answer = stand_in.fault(request) or stand_in.answer(request)
                    body = answer.body
                    if not isinstance(body, bytes):
                        body = b"" if body is None else json.dumps(body).encode()
                if answer.status == 0:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_any

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def calls(self, method: str = "", pattern: str = "") -> list[Request]:
        """Requests of a method whose path matches."""
        return [
            request
            for request in self.requests
            if request.method.startswith(method) and re.search(pattern, request.path, re.IGNORECASE)
        ]

    def add(self, path: str, resource: dict[str, Any]) -> dict[str, Any]:
        """Put a resource there, as if it had been created."""
        full = {"id": path, "name": path.rsplit("/", 1)[1], **copy.deepcopy(resource)}
        self.resources[path.lower()] = full
        return full

    def answer(self, request: Request) -> Answer:
        path = request.path.lower()
        if path == "/metadata/endpoints":
            login = {"loginEndpoint": self.url, "audiences": [self.url + "/"], "tenant": "common"}
            return Answer(200, {"authentication": login})
        if path.endswith("/.well-known/openid-configuration"):
            return Answer(200, {"token_endpoint": f"{self.url}/{TENANT}/oauth2/v2.0/token"})
        if path.endswith("/oauth2/v2.0/token"):
            form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
            if (
                form.get("client_secret", form.get("password")) != SECRET
                or form["scope"] != f"{self.url}/.default"
            ):
                return Answer(401, {"error": "invalid_client", "error_description": "The secret is wrong."})
            return Answer(200, {"access_token": self.token, "expires_in": 3600})
        if path.startswith("/blobs/"):
            return self._blob(request)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _error(401, "InvalidAuthenticationToken", "The token is not valid.")
        assert "api-version" in request.query, request.path
        if path.startswith("/operations/"):
            return self._operation(path)
        return getattr(self, f"_{request.method.lower()}")(request, path)

    def _operation(self, path: str) -> Answer:
        operation = self.operations[path]
        operation["polls"] -= 1
        if operation["polls"] > 0:
            return Answer(200, {"status": "InProgress"}, {"Retry-After": "0"})
        if operation.get("error"):
            return Answer(200, {"status": "Failed", "error": operation["error"]})
        operation["finish"]()
        return Answer(200, {"status": "Succeeded"})

    def _begin(self, status: int, body: Any, finish: Callable[[], None], error: Any = None) -> Answer:
        path = f"/operations/{len(self.operations)}"
        self.operations[path] = {"polls": self.polls, "finish": finish, "error": error}
        url = f"{self.url}{path}?api-version=2024-01-01"
        return Answer(status, body, {"Azure-AsyncOperation": url, "Retry-After": "0"})

    def _get(self, request: Request, path: str) -> Answer:
        if path in self.resources:
            return Answer(200, self.resources[path])
        collection = re.fullmatch(r"(.*)/providers/([^/]+/[^/]+)", path)
        pattern = re.escape(path) + "/[^/]+"
        if collection:
            pattern = re.escape(collection[1]) + "(/.*)?/providers/" + re.escape(collection[2]) + "/[^/]+"
        members = [each for key, each in self.resources.items() if re.fullmatch(pattern, key)]
        is_collection = len(path.strip("/").split("/")) % 2 == 1 or collection
        if not is_collection:
            return _error(404, "ResourceNotFound", f"The Resource '{request.path}' was not found.")
        start = int(request.query.get("skip", 0))
        page: dict[str, Any] = {"value": members[start : start + self.page_size]}
        if start + self.page_size < len(members):
            version = request.query["api-version"]
            page["nextLink"] = f"{self.url}{request.path}?api-version={version}&skip={start + self.page_size}"
        return Answer(200, page)

    def _head(self, request: Request, path: str) -> Answer:
        return Answer(204 if path in self.resources else 404)

    def _put(self, request: Request, path: str) -> Answer:
        resource = self.add(request.path, request.json)
        self.blobs.pop(path, None)
        properties = resource.setdefault("properties", {})
        properties["provisioningState"] = "Creating"
        self.on_put(path, resource)

        def finish() -> None:
            properties["provisioningState"] = "Succeeded"

        return self._begin(201, resource, finish, properties.pop("error", None))

    def _delete(self, request: Request, path: str) -> Answer:
        if path not in self.resources:
            return Answer(204)
        return self._begin(202, None, lambda: self.resources.pop(path, None) and None)

    def _post(self, request: Request, path: str) -> Answer:
        resource, _, action = path.rpartition("/")
        if resource not in self.resources:
            return _error(404, "ResourceNotFound", f"The Resource '{request.path}' was not found.")
        if action == "begingetaccess":
            self.blobs.setdefault(resource, {})
            self.resources[resource]["properties"]["diskState"] = "ActiveUpload"
            return Answer(200, {"accessSAS": f"{self.url}/blobs{resource}?sig=secret"})
        if action == "endgetaccess":
            properties = self.resources[resource]["properties"]
            error = properties.get("uploadError")
            return self._begin(202, None, lambda: properties.update(diskState="Unattached"), error)
        return self._begin(202, None, lambda: None)

    def _blob(self, request: Request) -> Answer:
        assert request.query["sig"] == "secret"
        assert "Authorization" not in request.headers
        pages = self.blobs[request.path.lower().removeprefix("/blobs")]
        if request.query.get("comp") == "pagelist":
            ranges = "".join(
                f"<PageRange><Start>{offset}</Start><End>{offset + len(data) - 1}</End></PageRange>"
                for offset, data in sorted(pages.items())
            )
            return Answer(200, f"<PageList>{ranges}</PageList>".encode())
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"]).groups())  # type: ignore[union-attr]
        if request.method == "GET":
            return Answer(206, pages.get(first, b""))
        assert request.headers["x-ms-page-write"] == "update"
        assert first % 512 == 0 and (last + 1) % 512 == 0 and len(request.body) == last - first + 1
        assert len(request.body) <= 4 << 20
        pages[first] = request.body
        return Answer(201)

    def disk_bytes(self, disk: str) -> bytes:
        """What was uploaded to a disk."""
        pages = self.blobs[disk.lower()]
        content = bytearray(max(offset + len(data) for offset, data in pages.items()))
        for offset, data in pages.items():
            content[offset : offset + len(data)] = data
        return bytes(content)


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})
