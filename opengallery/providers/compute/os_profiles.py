"""OS profiles: who may sign in to a machine. A password is kept as its hash only, and never shown."""

import base64
import subprocess
from typing import Annotated, Any

from msgspec import Meta, field

from opengallery.arm.errors import ArmError
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.hypervisors.machine import Seed

Line = Annotated[str, Meta(max_length=16384, pattern=r"^[^\n\r\x00]*$")]


class PublicKey(Properties):
    """A public key in OpenSSH's form, one line."""

    key_data: Line
    path: str | None = None


class Ssh(Properties):
    """The keys that may sign in."""

    public_keys: list[PublicKey] = []


class LinuxConfiguration(Properties):
    """How one signs in to a Linux machine."""

    disable_password_authentication: bool = False
    ssh: Ssh = field(default_factory=Ssh)


class OsProfile(Properties):
    """The machine's name, its first user, and what cloud-init gets."""

    admin_username: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
    computer_name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,62}[A-Za-z0-9])?$")] | None = (
        None
    )
    admin_password: Line | None = None
    custom_data: Annotated[str, Meta(max_length=87380)] | None = None
    linux_configuration: LinuxConfiguration = field(default_factory=LinuxConfiguration)


SECRETS = ("passwordHash", "customData")
"""What `hide_password` moves out of sight."""


def hide_password(new: Resource, old: Resource | None) -> None:
    """Move password and custom data out of what is shown; a machine needs a key or a password."""
    profile = new.properties.get("osProfile", {})
    profile.setdefault("computerName", new.id.name)
    password = profile.pop("adminPassword", None)
    if password:
        new.private["passwordHash"] = hash_password(password)
    if custom_data := profile.pop("customData", None):
        try:
            base64.b64decode(custom_data, validate=True)
        except ValueError as error:
            raise ArmError(
                "InvalidParameter", f"Custom data must be in Base64: {error}.", target="osProfile.customData"
            ) from error
        new.private["customData"] = custom_data
    keys = profile.get("linuxConfiguration", {}).get("ssh", {}).get("publicKeys")
    if old is None and not keys and "passwordHash" not in new.private:
        raise ArmError(
            "InvalidParameter",
            "A machine needs a public key or a password. Give --generate-ssh-keys, --ssh-key-values or "
            "--admin-password.",
            target="osProfile",
        )


def seed(machine: Resource) -> Seed:
    """What the guest is told at its first boot."""
    profile: dict[str, Any] = machine.properties["osProfile"]
    keys = profile.get("linuxConfiguration", {}).get("ssh", {}).get("publicKeys", [])
    custom_data = machine.private.get("customData")
    return Seed(
        hostname=profile["computerName"],
        username=profile["adminUsername"],
        ssh_keys=tuple(key["keyData"].strip() for key in keys),
        password_hash=machine.private.get("passwordHash"),
        custom_data=base64.b64decode(custom_data) if custom_data else None,
    )


def hash_password(password: str) -> str:
    """The crypt(3) hash (SHA-512) that a Linux guest's /etc/shadow takes."""
    done = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"],
        input=password,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    return done.stdout.strip()
