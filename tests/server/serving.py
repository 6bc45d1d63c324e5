"""`gallery serve` as a process: started, killed, started again; and the requests of a client."""

import contextlib
import os
import select
import shlex
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".venv/bin/gallery"
READY_TIMEOUT_S = 60
DEADLINE_S = 150
VERSIONS = {
    "microsoft.compute/galleries": "2024-03-03",
    "microsoft.compute/disks": "2025-01-02",
    "microsoft.compute/snapshots": "2025-01-02",
    "microsoft.compute": "2024-07-01",
    "microsoft.network": "2022-01-01",
}


class Gallery:
    """One data folder, and the server on it while there is one. Paths are below the first subscription."""

    def __init__(self, data: Path, config: str = "") -> None:
        self.data = data
        self.port = free_port()
        self.log = data.parent / "serve.log"
        self.options: list[object] = []
        if config:
            file = data.parent / "opengallery.toml"
            file.write_text(config)
            self.options = ["--config", file]
        self.process: subprocess.Popen[str] | None = None
        self.variables: dict[str, str] = {}
        self._client: httpx.Client | None = None
        self.trust: ssl.SSLContext | bool = True

    def serve(self) -> None:
        """Start the server, and sign in."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", "--data", self.data, "--port", str(self.port), *map(str, self.options)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout
        readable, _, _ = select.select([self.process.stdout], [], [], READY_TIMEOUT_S)
        first = self.process.stdout.readline() if readable else ""
        assert first == f"ready https://localhost:{self.port}\n", f"{first!r}\n{self.log.read_text()[-4000:]}"
        self._sign_in()

    def _sign_in(self) -> None:
        lines = subprocess.run(
            [COMMAND, "env", "--data", self.data], capture_output=True, text=True, check=True
        ).stdout
        words = (word for line in lines.splitlines() for word in shlex.split(line, comments=True))
        self.variables = dict(word.split("=", 1) for word in words if "=" in word)
        self.trust = ssl.create_default_context(cafile=self.variables["REQUESTS_CA_BUNDLE"])
        self._client = httpx.Client(
            base_url=self.variables["GALLERY_ENDPOINT"],
            verify=self.trust,
            timeout=60,
        )
        if "AZURE_CLIENT_SECRET" not in self.variables:
            return  # an external issuer gives the tokens
        answer = self._client.post(
            f"/{self.variables['AZURE_TENANT_ID']}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.variables["AZURE_CLIENT_ID"],
                "client_secret": self.variables["AZURE_CLIENT_SECRET"],
                "scope": f"{self.variables['GALLERY_ENDPOINT']}/.default",
            },
        )
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    @property
    def client(self) -> httpx.Client:
        """A signed-in client."""
        assert self._client is not None
        return self._client

    def kill(self) -> None:
        """End the server as `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """End the server in order; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def end(self) -> None:
        """End the server and whatever else works in its data folder."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.terminate()
            self.process.kill()
            self.process.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def pids(self) -> list[int]:
        """The machines and replica servers of this data folder, whoever started them."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    is_replica_server = b"opengallery.replica_server" in line and self._is_child(entry)
                    if f"{self.data}/".encode() in line or is_replica_server:
                        found.append(int(entry.name))
        return found

    def _is_child(self, entry: Path) -> bool:
        parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        return self.process is not None and parent == self.process.pid

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Send one request."""
        if not path.startswith(("/", "http")):
            path = f"/subscriptions/{self.variables['AZURE_SUBSCRIPTION_ID']}/{path}"
        if "api-version=" not in path:
            path += f"{'&' if '?' in path else '?'}api-version={_version(path)}"
        return self.client.request(method, path, json=body)

    def get(self, path: str) -> Any:
        """GET that has to succeed."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, path: str, body: Any) -> Any:
        """PUT that has to succeed, its operation too."""
        answer = self.ask("PUT", path, body)
        assert answer.status_code in (200, 201, 202), answer.text
        operation = self.ended(answer)
        assert operation["status"] == "Succeeded", operation
        return self.get(path)

    def act(self, method: str, path: str, body: Any = None) -> Any:
        """POST or DELETE that has to succeed; its output."""
        answer = self.ask(method, path, body)
        assert answer.status_code in (200, 202, 204), answer.text
        if answer.status_code == 200:
            return answer.json() if answer.content else None
        operation = self.ended(answer)
        assert operation["status"] == "Succeeded", operation
        return operation.get("properties", {}).get("output")

    def ended(self, answer: httpx.Response) -> Any:
        """How the operation of an answer ended."""
        url = answer.headers.get("Azure-AsyncOperation")
        if url is None:
            return {"status": "Succeeded"}
        return until(lambda: self._state(url))

    def _state(self, url: str) -> Any:
        state = self.ask("GET", url).json()
        return state if state["status"] != "InProgress" else None

    def power(self, machine: str) -> str:
        """The power state of a machine."""
        view = self.get(f"{machine}?$expand=instanceView")["properties"]["instanceView"]
        return str(view["statuses"][1]["code"].removeprefix("PowerState/"))

    def console(self, machine: str) -> str:
        """What a machine wrote to its serial port."""
        answer = self.ask("POST", f"{machine}/retrieveBootDiagnosticsData").json()
        return str(httpx.get(answer["serialConsoleLogBlobUri"], verify=self.trust).text)


def _version(path: str) -> str:
    last = path.lower().split("?")[0].split("/providers/")[-1]
    return next((version for kind, version in VERSIONS.items() if last.startswith(kind)), "2024-11-01")


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], timeout_s: float = DEADLINE_S) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"nothing came within {timeout_s} s")
