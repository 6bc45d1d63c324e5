"""How one signs on to a new machine: user name, SSH keys and password, as az reads them."""

import getpass
import os
import re
import sys
from pathlib import Path
from typing import Any

from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.progress import note

PUBLIC_KEY = re.compile(r"(ssh-(rsa|ed25519)|ecdsa-sha2-\S+|sk-\S+) [A-Za-z0-9+/]+={0,3}( .*)?")
# Names that Azure takes for no administrator; az then uses another as its default.
REFUSED_USERS = {
    "1", "123", "a", "actuser", "adm", "admin", "admin1", "admin2", "administrator", "aspnet", "backup",
    "console", "guest", "owner", "root", "server", "sql", "support_388945a0", "support", "sys", "test",
    "test1", "test2", "test3", "user", "user1", "user2", "user3", "user4", "user5", "video",
}  # fmt: skip
DEFAULT_USER = "azureuser"
RSA_BITS = 3072


def os_profile(
    os_type: str,
    *,
    username: str | None,
    authentication: str | None,
    password: str | None,
    ssh_keys: list[str] | None,
    generates_keys: bool,
    ssh_folder: Path | None = None,
) -> dict[str, Any]:
    """The part of an `osProfile` that says who may sign on. Raises `Misuse`.

    authentication: `ssh`, `password` or `all`; by default the one that the other options speak of.
    """
    username = username or default_user()
    if username.lower() in REFUSED_USERS:
        raise Misuse(f"--admin-username: '{username}' is not allowed. Try another, like {DEFAULT_USER}.")
    if authentication is None:
        authentication = "password" if password or os_type == "Windows" else "ssh"
    if os_type == "Windows" and authentication != "password":
        raise Misuse("--authentication-type: Windows machines take a password.")
    profile: dict[str, Any] = {"adminUsername": username}
    if authentication in ("password", "all"):
        profile["adminPassword"] = _password(password, os_type)
    if os_type == "Windows":
        profile["windowsConfiguration"] = {}
    elif authentication in ("ssh", "all"):
        folder = ssh_folder or Path.home() / ".ssh"
        keys = [public_key(text, folder, generates_keys) for text in ssh_keys or [""]]
        place = f"/home/{username}/.ssh/authorized_keys"
        profile["linuxConfiguration"] = {
            "disablePasswordAuthentication": authentication == "ssh",
            "ssh": {"publicKeys": [{"keyData": key, "path": place} for key in keys]},
        }
    return profile


def default_user() -> str:
    """Who runs the command, or `azureuser` where Azure would refuse the name."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        return DEFAULT_USER
    return DEFAULT_USER if name.lower() in REFUSED_USERS else name


def public_key(text: str, folder: Path, generates: bool) -> str:
    """The public key that `text` is or names; without text, ~/.ssh/id_rsa.pub.

    Where the file is missing and `generates`, a pair is made; nothing is ever overwritten.
    """
    if PUBLIC_KEY.fullmatch(text.strip()):
        return text.strip()
    path = Path(text).expanduser() if text else folder / "id_rsa.pub"
    if path.is_file():
        key = path.read_text().strip()
        if not PUBLIC_KEY.fullmatch(key):
            raise Misuse(f"--ssh-key-values: {path} holds no public key.")
        return key
    if generates:
        return generate_keys(path)
    if text:
        raise Misuse(f"--ssh-key-values: '{text}' is neither a public key nor a file.")
    raise Misuse(f"{path} does not exist. Use --generate-ssh-keys or --ssh-key-values.")


def generate_keys(public_path: Path) -> str:
    """Make a pair of keys, or the public one of a private key that is there; return the public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    is_named_pub = public_path.suffix == ".pub"
    private_path = public_path.with_suffix("") if is_named_pub else public_path.with_suffix(".private")
    public_path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if private_path.exists():
        try:
            private = serialization.load_ssh_private_key(private_path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise CommandFailed(f"{private_path} can't be read without its passphrase: {error}") from error
    else:
        private = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        _write_new(
            private_path,
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            ),
            0o600,
        )
        note(f"New SSH keys: {private_path} and {public_path}. Keep them safe.")
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write_new(public_path, public + b"\n", 0o644)
    return public.decode()


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there yet."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)


def _password(password: str | None, os_type: str) -> str:
    if password is None:
        if not sys.stdin.isatty():
            raise Misuse("Missing --admin-password: there is no terminal to ask for it.")
        password = getpass.getpass("Admin password: ")
    longest = 72 if os_type == "Linux" else 123
    kinds = [r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9]"]
    if not 12 <= len(password) <= longest or sum(bool(re.search(kind, password)) for kind in kinds) < 3:
        raise Misuse(
            f"--admin-password: 12 to {longest} characters, three of lower case, upper case, digit, other."
        )
    return password
