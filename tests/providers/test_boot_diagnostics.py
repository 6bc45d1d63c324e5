"""Boot diagnostics: the console's log and the screen of a machine, behind signed URLs."""

import struct
import time
from typing import Any

import pytest

from .conftest import Api
from .images import COMPUTE, REGION, definition, machine_body, managed_image, version_body


@pytest.fixture
def machine(api: Api) -> str:
    """A running machine in the group of the test."""
    group = api.group("diagnostics")
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "image", 1), REGION))
    path = f"{group}/{COMPUTE}/virtualMachines/vm"
    api.put(path, machine_body(api, version))
    return path


def urls(api: Api, machine: str, query: str = "") -> dict[str, str]:
    """What `az vm boot-diagnostics get-boot-log-uris` gets."""
    return dict(api.act(f"{machine}/retrieveBootDiagnosticsData{query}"))


def test_the_screen_is_a_picture(api: Api, machine: str) -> None:
    url = urls(api, machine)["consoleScreenshotBlobUri"]
    for _ in range(2):
        answer = api.client.get(url)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        assert answer.content[:8] == b"\x89PNG\r\n\x1a\n"
        assert answer.content[-8:-4] == b"IEND"
        width, height = struct.unpack(">II", answer.content[16:24])
        assert width >= 640
        assert height >= 400
    api.act(f"{machine}/deallocate")
    stopped = api.client.get(url)
    assert stopped.status_code == 404
    assert "Start it first" in stopped.text
    assert api.client.get(urls(api, machine)["serialConsoleLogBlobUri"]).status_code == 200


def test_a_url_opens_one_thing_for_some_time(api: Api, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = urls(api, machine)
    log, screen = found["serialConsoleLogBlobUri"], found["consoleScreenshotBlobUri"]
    swapped: Any = log.split("?")[0] + "?" + screen.split("?")[1]
    assert api.client.get(log).status_code == 200
    for wrong in (swapped, screen.replace("sig=", "sig=x"), screen.split("?")[0]):
        assert api.client.get(wrong).status_code == 403
    short = urls(api, machine, "?sasUriExpirationTimeInMinutes=1")["serialConsoleLogBlobUri"]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 90)
    assert api.client.get(short).status_code == 403
    assert api.client.get(log).status_code == 200
    monkeypatch.undo()
    for bad in ("0", "1441", "soon"):
        path = f"{machine}/retrieveBootDiagnosticsData?sasUriExpirationTimeInMinutes={bad}"
        assert api.refused("POST", path)[0] == 400
