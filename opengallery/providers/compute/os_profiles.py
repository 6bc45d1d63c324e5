"""OS profiles: who may sign in to a machine. A password is kept as its hash only, and never shown."""

import base64
import re
import subprocess
from typing import Annotated, Any

from msgspec import Meta, field

from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.hypervisors.machine import Seed

Line = Annotated[str, Meta(max_length=16384, pattern=r"^[^\n\r\x00]*$")]


_PUBLIC_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+[ \t]+[A-Za-z0-9+/]{4,}={0,2}([ \t].*)?")
_PASSWORD_CLASSES = ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]")
_RESERVED_NAMES = frozenset({
    "1", "123", "a", "actuser", "adm", "admin", "admin1", "admin2", "administrator", "aspnet",
    "backup", "console", "david", "guest", "john", "owner", "root", "server", "sql", "support",
    "support_388945a0", "sys", "test", "test1", "test2", "test3", "user", "user1", "user2", "user3",
    "user4", "user5",
})  # fmt: skip


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
    _check_sign_on(profile, password)
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


def _check_sign_on(profile: dict[str, Any], password: str | None) -> None:
    """Raise 400 for a user's name, keys or password that Azure doesn't take either."""
    username = profile.get("adminUsername", "")
    if username.lower() in _RESERVED_NAMES:
        raise invalid_parameter(
            "osProfile.adminUsername",
            f"The user name '{username}' is reserved. Choose another one, such as 'azureuser'.",
        )
    if password is not None and (
        not 12 <= len(password) <= 72
        or sum(bool(re.search(kind, password)) for kind in _PASSWORD_CLASSES) < 3
    ):
        raise invalid_parameter(
            "osProfile.adminPassword",
            "The password must have 12 to 72 characters, of three kinds at least: lower case, upper case, digits, "
            "others. Choose another one.",
        )
    wanted = f"/home/{username}/.ssh/authorized_keys"
    where = "osProfile.linuxConfiguration.ssh.publicKeys"
    for index, key in enumerate(profile.get("linuxConfiguration", {}).get("ssh", {}).get("publicKeys", [])):
        if not _PUBLIC_KEY.fullmatch(key["keyData"].strip()):
            raise invalid_parameter(
                f"{where}[{index}].keyData",
                "This is no public key in OpenSSH's form. Give the content of a file such as ~/.ssh/id_ed25519.pub.",
            )
        if key.get("path", wanted) != wanted:
            raise invalid_parameter(
                f"{where}[{index}].path", f"A public key's path can only be '{wanted}'. Give that, or none."
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
