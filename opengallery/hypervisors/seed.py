"""Seeds: the NoCloud volume from which cloud-init learns a machine's name, user and keys.

An ISO 9660 volume labelled `cidata` with `meta-data` and `user-data`. All of it is written as JSON,
which is YAML too, in ASCII, since cloud-init reads the parts of a MIME message as Latin-1.
Source: cloud-init's documentation, "NoCloud", "User-data formats" and "Merging user-data sections".
"""

import io
import json
from collections.abc import Sequence
from email import message_from_bytes
from email.message import Message
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pycdlib

from opengallery.hypervisors.machine import Seed

BOUNDARY = "opengallery-seed"
# Ours comes last and yields: what the custom data says stands, and lists (of users, say) are joined.
MERGE = "dict(no_replace,recurse_list)+list(append)"


def seed_iso(seed: Seed, instance_id: str, boot_commands: Sequence[str] = ()) -> bytes:
    """Return the volume's bytes (some 400 KiB). cloud-init acts once for each `instance_id`.

    The guest's shell runs `boot_commands` at every boot.
    """
    meta_data = _yaml({"instance-id": instance_id, "local-hostname": seed.hostname})
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for iso_name, name, content in (
        ("METADATA", "meta-data", meta_data.encode()),
        ("USERDATA", "user-data", user_data(seed, boot_commands)),
    ):
        iso.add_fp(io.BytesIO(content), len(content), f"/{iso_name}.;1", rr_name=name, joliet_path=f"/{name}")
    volume = io.BytesIO()
    iso.write_fp(volume)
    iso.close()
    return volume.getvalue()


def user_data(seed: Seed, boot_commands: Sequence[str] = ()) -> bytes:
    """Return our cloud-config; with custom data, a MIME message that holds both."""
    ours = cloud_config(seed, boot_commands)
    if not seed.custom_data:
        return ours.encode()
    message = MIMEMultipart(boundary=BOUNDARY)
    message.attach(_custom_part(seed.custom_data))
    part = MIMEText(ours, "cloud-config", "us-ascii")
    part["Merge-Type"] = MERGE
    message.attach(part)
    return message.as_bytes()


def cloud_config(seed: Seed, boot_commands: Sequence[str] = ()) -> str:
    """Return the cloud-config that makes the seed's user, as JSON with one key a line."""
    user: dict[str, object] = {
        "name": seed.username,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": seed.password_hash is None,
        "ssh_authorized_keys": list(seed.ssh_keys),
    }
    if seed.password_hash is not None:
        user["hashed_passwd"] = seed.password_hash
    config: dict[str, object] = {
        "hostname": seed.hostname,
        "preserve_hostname": False,
        "ssh_pwauth": seed.password_hash is not None,
        "users": [user],
    }
    if boot_commands:
        config["bootcmd"] = list(boot_commands)
    return f"#cloud-config\n{_yaml(config)}\n"


def _custom_part(custom_data: bytes) -> Message:
    """Wrap custom data so that cloud-init finds out by itself what it is, as without a wrapper."""
    if custom_data[:2] == b"\x1f\x8b":
        return MIMEApplication(custom_data, "gzip")
    if custom_data.lstrip()[:13].lower() in (b"content-type:", b"mime-version:"):
        return message_from_bytes(custom_data.lstrip())
    try:
        return MIMEText(custom_data.decode(), "plain", "utf-8")
    except UnicodeDecodeError:
        return MIMEApplication(custom_data, "octet-stream")


def _yaml(content: dict[str, object]) -> str:
    """Return `content` as JSON, one key a line, but for YAML's escapes: JSON's know no emoji."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return "".join(character if character.isascii() else f"\\U{ord(character):08x}" for character in text)
