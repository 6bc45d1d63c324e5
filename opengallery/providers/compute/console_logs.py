"""Console logs: what a machine wrote to its serial port, behind a signed URL as boot diagnostics has it."""

import base64
import hashlib
import hmac
import re
import time
from urllib.parse import urlencode

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from opengallery.arm.call import Call
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import MachineNotFound
from opengallery.providers.compute import machines
from opengallery.replication.keys import secret_file

_LIFE_S = 3600


def console_log_url(call: Call, machine: Resource) -> str:
    """A URL that reads this machine's console log for an hour."""
    name, end = machines.machine_id(machine), int(time.time()) + _LIFE_S
    query = {"se": end, "sig": _signature(call.services, name, end)}
    return f"{call.base_url}/consoles/{name}/serialconsole.log?{urlencode(query)}"


def _signature(services: Services, name: str, end: int) -> str:
    key = secret_file(services.settings.data / "console.key")
    digest = hmac.new(key, f"console\n{name}\n{end}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode()


class ConsoleLogEndpoint:
    """Answers the paths under `/consoles`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The routes to mount."""
        return [Route("/consoles/{name}/serialconsole.log", self.answer, methods=["GET"])]

    async def answer(self, request: Request) -> Response:
        """The log as text, or 403 for a wrong or old signature."""
        name, end = request.path_params["name"], request.query_params.get("se", "")
        given = request.query_params.get("sig", "")
        if (
            not re.fullmatch("[0-9]{1,12}", end)
            or int(end) < time.time()
            or not hmac.compare_digest(_signature(self._services, name, int(end)).encode(), given.encode())
        ):
            return PlainTextResponse("The URL is wrong or too old. Ask for the boot log again.", 403)
        content = await to_thread.run_sync(self._read, name)
        if content is None:
            return PlainTextResponse("The machine has no console log. Start it first.", 404)
        return Response(content, media_type="text/plain; charset=utf-8")

    def _read(self, name: str) -> bytes | None:
        try:
            return self._services.hypervisor.console(name).read_bytes()
        except (FileNotFoundError, MachineNotFound):
            return None
