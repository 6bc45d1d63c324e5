"""The life of a machine with the real az: SSH, the screen, commands in the guest, and capture."""

import ssl
import urllib.request

import pytest

from .running import BOOT_IMAGE, Shell
from .site import DEFINITION, IN_GROUP, USER, Site, ssh_place

pytestmark = pytest.mark.timeout(1800)
GOLDEN = (*IN_GROUP, "-n", "golden")


def test_ssh_works_right_after_a_machine_is_created(shell: Shell, site: Site) -> None:
    created = shell.az("vm", "create", *GOLDEN, "--image", f"{site.definition}/versions/1.0.0", *USER)
    (port,) = shell.gallery("vm", "show", "-d", *GOLDEN)["ports"].split(", ")
    address, taken = ssh_place(port.partition("->")[0])
    assert address == created["publicIpAddress"]
    warnings = [
        status["displayStatus"]
        for status in shell.az("vm", "get-instance-view", *GOLDEN)["instanceView"]["statuses"]
        if status["code"] == "PortForwarding/22"
    ]
    assert warnings == ([] if taken == 22 else [f"Port {taken} in place of 22"])
    assert site.ssh(address, taken, "hostname; whoami") == "golden\nazureuser"


def test_the_screen_is_a_picture(shell: Shell) -> None:
    uris = shell.az("vm", "boot-diagnostics", "get-boot-log-uris", *GOLDEN)
    trusted = ssl.create_default_context(cafile=shell.variables["REQUESTS_CA_BUNDLE"])
    with urllib.request.urlopen(uris["consoleScreenshotBlobUri"], context=trusted) as answer:
        picture = answer.read()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])
    assert width >= 640
    assert height >= 400


def run_command(shell: Shell, machine: str, *words: object) -> str:
    command = ("--command-id", "RunShellScript")
    answer = shell.az("vm", "run-command", "invoke", *IN_GROUP, "-n", machine, *command, *words)
    (status,) = answer["value"]
    assert status["code"] == "ProvisioningState/succeeded"
    return str(status["message"])


def test_commands_are_run_in_the_guest(shell: Shell) -> None:
    script = ('echo "$1 $level"', "echo golden > /disk/mark", "sync", "echo well >&2")
    said = run_command(shell, "golden", "--scripts", *script, "--parameters", "hello", "level=high")
    assert said == "Enable succeeded: \n[stdout]\nhello high\n\n[stderr]\nwell\n"
    assert "exit status=3" in run_command(shell, "golden", "--scripts", "exit 3")
    words = ("--command-id", "RunPowerShellScript", "--scripts", "ls")
    message = shell.refused("vm", "run-command", "invoke", *GOLDEN, *words)
    assert "RunShellScript on Linux" in message


def test_a_machine_becomes_an_image_and_versions(shell: Shell, site: Site) -> None:
    disk = shell.az("vm", "show", *GOLDEN)["storageProfile"]["osDisk"]["managedDisk"]["id"]
    shell.az("snapshot", "create", *IN_GROUP, "-n", "live", "--source", disk)
    snapshot = str(site.id.child("Microsoft.Compute/snapshots", "live"))
    assert "Generalized" in shell.refused("image", "create", *IN_GROUP, "-n", "early", "--source", "golden")
    shell.az("vm", "deallocate", *GOLDEN)
    shell.az("vm", "generalize", *GOLDEN)
    view = shell.az("vm", "get-instance-view", *GOLDEN)["instanceView"]
    assert "OSState/generalized" in [status["code"] for status in view["statuses"]]
    assert "generalized" in shell.refused("vm", "start", *GOLDEN)
    image = shell.az("image", "create", *IN_GROUP, "-n", "golden", "--source", "golden")
    assert image["provisioningState"] == "Succeeded"
    assert image["sourceVirtualMachine"]["id"] == str(
        site.id.child("Microsoft.Compute/virtualMachines", "golden")
    )
    sources = {
        "0.2.0": ("--managed-image", "golden"),
        "0.3.0": ("--virtual-machine", image["sourceVirtualMachine"]["id"]),
        "0.4.0": ("--os-snapshot", snapshot),
        "0.5.0": ("--os-snapshot", disk),
        "0.6.0": ("--image-version", f"{site.definition}/versions/0.2.0"),
    }
    whole = BOOT_IMAGE.stat().st_size
    for version, source in sources.items():
        site.publish(version, *source)
        assert site.stored_bytes(version) < whole / 50
    listed = shell.az("sig", "image-version", "list", *DEFINITION)
    assert {entry["name"] for entry in listed} == {"1.0.0", *sources}


def test_a_captured_version_boots_with_what_was_written(shell: Shell, site: Site) -> None:
    machine = ("--image", f"{site.definition}/versions/0.2.0", "--public-ip-address", "", "--nsg", "")
    shell.az("vm", "create", *IN_GROUP, "-n", "again", *machine, *USER)
    assert site.ready("again").endswith(" boots=2")
    assert "[stdout]\ngolden\n" in run_command(shell, "again", "--scripts", "cat /disk/mark")
    ids = [str(site.id.child("Microsoft.Compute/virtualMachines", name)) for name in ("again", "golden")]
    shell.az("vm", "delete", "--ids", *ids, "--yes")
