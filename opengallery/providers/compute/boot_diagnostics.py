"""Boot diagnostics: a machine's serial console and its screen, behind signed URLs."""

import base64
import hashlib
import hmac
import re
import time
from typing import Any
from urllib.parse import urlencode

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from opengallery.arm.call import Call
from opengallery.arm.errors import invalid_parameter
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.hypervisors.machine import HypervisorError
from opengallery.providers.compute import machines
from opengallery.replication.keys import secret_file

LOG, SCREEN = "serialconsole.log", "screenshot.png"
_LIFE_MINUTES, _MAX_LIFE_MINUTES = 120, 1440


def boot_diagnostics(call: Call, machine: Resource, _body: dict[str, Any]) -> dict[str, str]:
    """URLs that read this machine's console log and its screen, for two hours unless the query says else."""
    text = call.option("sasuriexpirationtimeinminutes") or str(_LIFE_MINUTES)
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= _MAX_LIFE_MINUTES:
        raise invalid_parameter(
            "sasUriExpirationTimeInMinutes",
            f"The URLs can't expire after '{text}' minutes. Give 1 to {_MAX_LIFE_MINUTES} (--expire).",
        )
    name, end = machines.machine_id(machine), int(time.time()) + 60 * int(text)

    def url(file: str) -> str:
        query = {"se": end, "sig": _signature(call.services, name, file, end)}
        return f"{call.base_url}/consoles/{name}/{file}?{urlencode(query)}"

    return {"serialConsoleLogBlobUri": url(LOG), "consoleScreenshotBlobUri": url(SCREEN)}


def _signature(services: Services, name: str, file: str, end: int) -> str:
    key = secret_file(services.settings.data / "console.key")
    digest = hmac.new(key, f"{file}\n{name}\n{end}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).decode()


class BootDiagnosticsEndpoint:
    """Answers the paths under `/consoles`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        """The routes to mount."""
        return [Route("/consoles/{name}/{file}", self.answer, methods=["GET"])]

    async def answer(self, request: Request) -> Response:
        """The log as text or the screen as PNG, or 403 for a wrong or old signature."""
        name, file = request.path_params["name"], request.path_params["file"]
        end, given = request.query_params.get("se", ""), request.query_params.get("sig", "")
        if (
            len(request.query_params.multi_items()) != len(request.query_params)
            or not re.fullmatch("[0-9]{1,12}", end)
            or int(end) < time.time()
            or not hmac.compare_digest(
                _signature(self._services, name, file, int(end)).encode(), given.encode()
            )
        ):
            return PlainTextResponse("The URL is wrong or too old. Ask for the boot log again.", 403)
        try:
            if file == SCREEN:
                screen = await to_thread.run_sync(self._services.hypervisor.screenshot, name)
                return Response(screen, media_type="image/png")
            log = await to_thread.run_sync(self._services.hypervisor.console(name).read_bytes)
            return Response(log, media_type="text/plain; charset=utf-8")
        except FileNotFoundError:
            return PlainTextResponse("The machine has no console log. Start it first.", 404)
        except HypervisorError as error:
            return PlainTextResponse(str(error), 404)
