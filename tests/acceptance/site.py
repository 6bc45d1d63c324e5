"""A resource group with a published image, and what is done to the machines in it, by az and by SSH."""

import re
import subprocess
from pathlib import Path
from typing import Any

from opengallery.arm.resource_id import ResourceId

from .running import BOOT_IMAGE, Shell, until

NAME, REGION = "site", "westcentralus"
IN_GROUP = ("-g", NAME)
DEFINITION = (*IN_GROUP, "--gallery-name", "gallery", "--gallery-image-definition", "linux")
USER = ("--admin-username", "azureuser", "--generate-ssh-keys")
SSH_OPTIONS = (
    "StrictHostKeyChecking=no",
    "UserKnownHostsFile=/dev/null",
    "BatchMode=yes",
    "ConnectTimeout=10",
)


class Site:
    """The group, its gallery, and version 1.0.0 of its image definition `linux`."""

    def __init__(self, shell: Shell) -> None:
        """Make them."""
        self.shell = shell
        self.id = ResourceId(shell.variables["AZURE_SUBSCRIPTION_ID"], NAME)
        shell.az("group", "create", "-n", NAME, "-l", REGION)
        shell.gallery("image", "import", BOOT_IMAGE, *IN_GROUP, "-n", "boot", "--os-type", "Linux")
        shell.gallery("sig", "create", *IN_GROUP, "--gallery-name", "gallery")
        shell.gallery(
            "sig", "image-definition", "create", *DEFINITION, "--publisher", "p", "--offer", "o", "--sku", "s",
            "--os-type", "Linux", "--hyper-v-generation", "V1",
        )  # fmt: skip
        self.publish("1.0.0", "--managed-image", "boot")

    @property
    def definition(self) -> str:
        """Id of the image definition: its latest version, where an image is asked for."""
        return str(self.id.child("Microsoft.Compute/galleries", "gallery").child("images", "linux"))

    def publish(self, version: str, *source: object) -> dict[str, Any]:
        """A version of the definition with two replicas."""
        where = (*DEFINITION, "--gallery-image-version", version)
        created = self.shell.az("sig", "image-version", "create", *where, "--replica-count", 2, *source)
        assert created["provisioningState"] == "Succeeded"
        return dict(created)

    def stored_bytes(self, version: str) -> int:
        """What a replica of a version added to its store."""
        entries = self.shell.gallery("replica", "list", "--version", f"{self.definition}/versions/{version}")
        assert [entry["state"] for entry in entries] == ["Completed"] * 2
        return max(int(entry["storedBytes"]) for entry in entries)

    def ssh(self, address: str, port: int, command: str) -> str:
        """What a command says in a guest, run with the key that az generated."""
        options = [word for option in SSH_OPTIONS for word in ("-o", option)]
        key = Path(self.shell.environment["HOME"]) / ".ssh/id_rsa"
        done = subprocess.run(
            ["ssh", *options, "-o", "LogLevel=ERROR", "-i", key, "-p", str(port), f"azureuser@{address}", command],
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ready(self, machine: str) -> str:
        """The line that a machine prints when it is up: checksum, version and number of boots."""

        def line() -> str | None:
            log = self.shell.az("vm", "boot-diagnostics", "get-boot-log", *IN_GROUP, "-n", machine)
            found = re.findall(r"READY \S+ ([0-9a-f]{16} version=\S+ boots=\d+) ", log or "")
            return found[-1] if found else None

        return str(until(line, every_s=3))


def ssh_place(answer: str) -> tuple[str, int]:
    """Address and port of `127.64.1.2:50000`."""
    address, _, port = answer.partition(":")
    return address, int(port)
