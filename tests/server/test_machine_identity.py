"""A real machine's guest asks 169.254.169.254 who it is, and acts as its identity."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from opengallery.arm import assignments, roles
from opengallery.database import Database
from opengallery.settings import load_settings

from .publishing import COMPUTE, GROUP, REGION, definition, id_of, machine_body, upload, version_body
from .serving import Gallery, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
BOOT_TIMEOUT_S = 150
GALLERY = f"{GROUP}/{COMPUTE}/galleries/gallery"
VM = f"{GROUP}/{COMPUTE}/virtualMachines/vm"
USER_ASSIGNED = f"{GROUP}/providers/Microsoft.ManagedIdentity/userAssignedIdentities/worker"
_VERSIONS = {GALLERY: "2024-03-03", VM: "2024-07-01"}
HOST = "http://169.254.169.254/metadata"
TOKEN = "identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fmanagement.azure.com%2F"
# What cloud-init does at every boot; the test's image has none.
BOOT_COMMANDS = r"""sed -n 's/^ *"\(for card.*done\)"$/\1/p' /seed/user-data | sh"""


@pytest.fixture(scope="module")
def running(boot_image: Path) -> Iterator[Gallery]:
    """A server that keeps its machines, with one that has two identities and is up."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    gallery = Gallery(folder / "data")
    gallery.options.append("--keep-machines")
    gallery.serve()
    version = f"{definition(gallery)}/versions/1.0.0"
    gallery.put(version, version_body(gallery, upload(gallery, boot_image, "boot"), westcentralus=1))
    gallery.put(f"{USER_ASSIGNED}?api-version=2024-11-30", {"location": REGION})
    identity = {
        "type": "SystemAssigned, UserAssigned",
        "userAssignedIdentities": {id_of(gallery, USER_ASSIGNED): {}},
    }
    gallery.put(VM, {**machine_body(gallery, version, "vm"), "identity": identity})
    until(lambda: "READY vm " in gallery.console(VM), BOOT_TIMEOUT_S)
    run(gallery, BOOT_COMMANDS)
    yield gallery
    gallery.options.clear()
    gallery.end()
    shutil.rmtree(folder)


def run(gallery: Gallery, script: str) -> str:
    """What a script in the guest says on its standard output."""
    body = {"commandId": "RunShellScript", "script": [script]}
    answer = gallery.ask("POST", f"{VM}/runCommand", body)
    assert answer.status_code == 202, answer.text
    assert gallery.ended(answer)["status"] == "Succeeded"
    (status,) = gallery.ask("GET", answer.headers["Location"]).json()["value"]
    output, _, errors = status["message"].partition("[stdout]\n")[2].partition("\n[stderr]\n")
    assert "Enable succeeded" in status["message"], status["message"]
    assert not errors, errors
    return str(output)


def fetch(gallery: Gallery, path: str) -> str:
    """What the guest gets from the metadata service."""
    return run(gallery, f"wget -q -O - --header 'Metadata: true' '{HOST}/{path}'")


def as_guest(gallery: Gallery, token: dict[str, Any], path: str) -> int:
    """The status of a read with a guest's token."""
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    url = f"{gallery.variables['GALLERY_ENDPOINT']}{id_of(gallery, path)}?api-version={_VERSIONS[path]}"
    return httpx.get(url, headers=headers, verify=gallery.trust).status_code


def test_a_guest_reads_what_its_identity_may_and_nothing_else(running: Gallery) -> None:
    machine = running.get(VM)
    token = json.loads(fetch(running, TOKEN))
    assert token["token_type"] == "Bearer"
    assert token["resource"] == "https://management.azure.com/"
    assert as_guest(running, token, GALLERY) == 403
    with Database(load_settings(running.data).database).write() as connection:
        scope = id_of(running, GALLERY).lower()
        assignments.assign(connection, machine["identity"]["principalId"], roles.READER, scope)
    assert as_guest(running, token, GALLERY) == 200
    assert as_guest(running, token, VM) == 403

    other = json.loads(fetch(running, f"{TOKEN}&mi_res_id={id_of(running, USER_ASSIGNED)}"))
    assert other["client_id"] != token["client_id"]
    assert as_guest(running, other, GALLERY) == 403


def test_a_guest_knows_its_machine(running: Gallery) -> None:
    known = json.loads(fetch(running, "instance?api-version=2021-02-01"))
    assert known["compute"]["resourceId"] == id_of(running, VM)
    assert known["compute"]["vmId"] == running.get(VM)["properties"]["vmId"]
    assert fetch(running, "instance/compute/name?api-version=2021-02-01&format=text") == "vm"


def test_many_requests_follow_each_other(running: Gallery) -> None:
    path = "instance/compute/vmSize?api-version=2021-02-01&format=text"
    one = f"wget -q -O - --header 'Metadata: true' '{HOST}/{path}'"
    loop = f"for i in $(seq 8); do {one}; done"
    assert run(running, loop) == "Standard_D2s_v5" * 8


def test_without_the_header_it_is_refused(running: Gallery) -> None:
    said = run(running, f"wget -O - '{HOST}/{TOKEN}' 2>&1 || true")
    assert "400 Bad Request" in said


def test_the_link_leads_nowhere_else(running: Gallery) -> None:
    """Neither other ports of the address, nor this host's loopback, where the server listens."""
    tries = [f"nc -w 2 {address} {port} </dev/null && echo open" for address, port in (
        ("169.254.169.254", 22),
        ("169.254.169.254", running.port),
        ("169.254.169.2", running.port),
        ("169.254.169.2", 80),
        ("169.254.169.3", 53),
    )]  # fmt: skip
    assert run(running, f"({'; '.join(tries)}; ip route) 2>/dev/null").count("open") == 0
    assert "default" not in run(running, "ip route show dev eth1")


def test_a_machine_that_was_kept_gets_tokens_from_the_next_server(running: Gallery) -> None:
    running.kill()
    running.serve()
    token = json.loads(until(lambda: _fetched(running), 60))
    assert as_guest(running, token, VM) == 403
    running.act("DELETE", VM)
    until(lambda: as_guest(running, token, VM) == 401, 30)  # seconds later at the most


def _fetched(gallery: Gallery) -> str:
    """A token, or nothing while the server has not taken the link up."""
    return run(gallery, f"timeout 5 wget -q -O - --header 'Metadata: true' '{HOST}/{TOKEN}' || true")
