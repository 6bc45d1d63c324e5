"""Scripts in real machines' guests, as `az vm run-command invoke` asks for them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .publishing import COMPUTE, GROUP, definition, machine_body, upload, version_body
from .serving import Gallery, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]
BOOT_TIMEOUT_S = 150
VM = f"{GROUP}/{COMPUTE}/virtualMachines/vm"


@pytest.fixture(scope="module")
def running(boot_image: Path) -> Iterator[Gallery]:
    """A server with a machine that is up."""
    folder = Path(tempfile.mkdtemp(prefix="opengallery-server-"))
    gallery = Gallery(folder / "data")
    gallery.serve()
    version = f"{definition(gallery)}/versions/1.0.0"
    gallery.put(version, version_body(gallery, upload(gallery, boot_image, "boot"), westcentralus=1))
    gallery.put(VM, machine_body(gallery, version, "vm"))
    until(lambda: "READY vm " in gallery.console(VM), BOOT_TIMEOUT_S)
    yield gallery
    gallery.end()
    shutil.rmtree(folder)


def invoke(gallery: Gallery, *script: str, **parameters: str) -> Any:
    """Ask for a script; the answer, before it has run."""
    given = [{"name": name, "value": value} for name, value in parameters.items()]
    body = {"commandId": "RunShellScript", "script": list(script), "parameters": given}
    answer = gallery.ask("POST", f"{VM}/runCommand", body)
    assert answer.status_code == 202, answer.text
    return answer


def said(gallery: Gallery, answer: Any) -> str:
    """What a script came to."""
    operation = gallery.ended(answer)
    assert operation["status"] == "Succeeded", operation
    (status,) = gallery.ask("GET", answer.headers["Location"]).json()["value"]
    assert status["code"] == "ProvisioningState/succeeded"
    return str(status["message"])


def test_a_script_gets_its_parameters_by_name_and_in_order(running: Gallery) -> None:
    script = ("echo $(hostname) $name $2", "echo trouble >&2", "id -u")
    message = said(running, invoke(running, *script, name="first", arg1="the second"))
    assert message == "Enable succeeded: \n[stdout]\nvm first the second\n0\n\n[stderr]\ntrouble\n"


def test_a_failing_script_says_so_in_its_message(running: Gallery) -> None:
    assert said(running, invoke(running, "echo so far", "exit 7")) == (
        "Enable failed: failed to execute command: command terminated with exit status=7\n"
        "[stdout]\nso far\n\n[stderr]\n"
    )


def test_of_long_output_the_last_is_shown(running: Gallery) -> None:
    message = said(running, invoke(running, "seq 1 100000"))
    assert len(message) < 4200
    assert message.endswith("99999\n100000\n\n[stderr]\n")


def test_nothing_of_a_script_is_kept_in_clear_or_left_behind(running: Gallery) -> None:
    secret = "a-secret-parameter"
    assert secret in said(running, invoke(running, "echo $1", arg1=secret))
    databases = list(running.data.glob("*.sqlite*"))
    assert len(databases) >= 2
    for file in databases:
        assert secret.encode() not in file.read_bytes(), file
    assert "run-command-" in said(running, invoke(running, "ls /run"))  # its own
    left = said(running, invoke(running, "ls -d /run/run-command-* | wc -l"))
    assert left.startswith("Enable succeeded: \n[stdout]\n1\n")


def test_other_commands_are_refused(running: Gallery) -> None:
    for command, script in (("RunPowerShellScript", ["ls"]), ("ifconfig", []), ("RunShellScript", [" "])):
        answer = running.ask("POST", f"{VM}/runCommand", {"commandId": command, "script": script})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidParameter")


def test_a_script_runs_once_although_the_server_is_killed(running: Gallery) -> None:
    answer = invoke(running, "echo this-ran > /dev/ttyS0", "sleep 8", "echo ended")
    until(lambda: "this-ran" in running.console(VM))
    running.kill()
    running.serve()
    assert said(running, answer) == "Enable succeeded: \n[stdout]\nended\n\n[stderr]\n"
    assert running.console(VM).count("this-ran") == 1
