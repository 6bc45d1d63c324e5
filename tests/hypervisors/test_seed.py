"""Seeds: what cloud-init finds on the volume."""

import gzip
import io
import json
from email import message_from_bytes
from email.message import Message

import pycdlib
import pytest

from opengallery.hypervisors import Seed
from opengallery.hypervisors.metadata_link import BOOT_COMMAND
from opengallery.hypervisors.seed import MERGE, seed_iso, user_data

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 someone"


def config(text: str) -> dict[str, object]:
    """Read our cloud-config."""
    header, _, content = text.partition("\n")
    assert header == "#cloud-config"
    parsed: dict[str, object] = json.loads(content)
    return parsed


def parts(custom_data: bytes) -> list[Message]:
    """Return the parts that cloud-init walks over."""
    message = message_from_bytes(user_data(Seed("web", "azureuser", (KEY,), custom_data=custom_data)))
    return [part for part in message.walk() if not part.is_multipart()]


@pytest.mark.parametrize("names", ["rr_path", "joliet_path"])
def test_the_volume_is_labelled_and_named_for_cloud_init(names: str) -> None:
    iso = pycdlib.PyCdlib()
    iso.open_fp(io.BytesIO(seed_iso(Seed("web", "azureuser", (KEY,)), "machine-7")))
    assert iso.pvd.volume_identifier.decode().strip() == "cidata"
    files = {}
    for name in ("meta-data", "user-data"):
        content = io.BytesIO()
        iso.get_file_from_iso_fp(content, **{names: f"/{name}"})
        files[name] = content.getvalue().decode()
    assert json.loads(files["meta-data"]) == {"instance-id": "machine-7", "local-hostname": "web"}
    (user,) = config(files["user-data"])["users"]
    assert (user["name"], user["ssh_authorized_keys"], user["lock_passwd"]) == ("azureuser", [KEY], True)
    iso.close()


def test_a_password_is_handed_over_as_its_hash_and_opens_ssh() -> None:
    read = config(user_data(Seed("web", "azureuser", password_hash="$6$salt$hash")).decode())
    (user,) = read["users"]
    assert (user["hashed_passwd"], user["lock_passwd"], read["ssh_pwauth"]) == ("$6$salt$hash", False, True)


def test_a_key_cannot_add_lines_and_any_letter_survives_in_ascii() -> None:
    text = user_data(Seed("web", "azureuser", ('ssh-ed25519 AAAA Zoë 😀"\nroot: x',))).decode("ascii")
    assert '"ssh-ed25519 AAAA Zo\\U000000eb \\U0001f600\\"\\nroot: x"' in text


@pytest.mark.parametrize(
    ("custom_data", "content_type", "content"),
    [
        # cloud-init looks at the first line of text/plain, and unpacks gzip by itself.
        (b"#cloud-config\nhostname: theirs\n", "text/plain", b"#cloud-config\nhostname: theirs\n"),
        ("#!/bin/sh\necho ü\n".encode(), "text/plain", "#!/bin/sh\necho ü\n".encode()),
        (gzip.compress(b"#!/bin/sh\n", mtime=0), "application/gzip", gzip.compress(b"#!/bin/sh\n", mtime=0)),
        (b"\xff\x00\x01", "application/octet-stream", b"\xff\x00\x01"),
    ],
)
def test_custom_data_stands_beside_ours_unchanged(
    custom_data: bytes, content_type: str, content: bytes
) -> None:
    theirs, ours = parts(custom_data)
    assert (theirs.get_content_type(), theirs.get_payload(decode=True)) == (content_type, content)
    # Ours is merged into theirs, and yields to it.
    assert (ours.get_content_type(), ours["Merge-Type"]) == ("text/cloud-config", MERGE)
    assert config(ours.get_payload(decode=True).decode())["hostname"] == "web"


def test_custom_data_of_several_parts_keeps_them() -> None:
    several = (
        b'Content-Type: multipart/mixed; boundary="X"\nMIME-Version: 1.0\n\n'
        b"--X\nContent-Type: text/cloud-config\n\n#cloud-config\n"
        b"--X\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--X--\n"
    )
    types = [part.get_content_type() for part in parts(several)]
    assert types == ["text/cloud-config", "text/x-shellscript", "text/cloud-config"]


def test_commands_for_every_boot_join_those_of_the_custom_data() -> None:
    assert config(user_data(Seed("web", "azureuser"), [BOOT_COMMAND]).decode())["bootcmd"] == [BOOT_COMMAND]
    custom = b"#cloud-config\nbootcmd: [echo mine]\n"
    message = message_from_bytes(user_data(Seed("web", "azureuser", custom_data=custom), [BOOT_COMMAND]))
    mine, ours = (part.get_payload(decode=True) for part in message.walk() if not part.is_multipart())
    assert isinstance(mine, bytes)
    assert isinstance(ours, bytes)
    assert mine.strip() == custom.strip()
    assert config(ours.decode())["bootcmd"] == [BOOT_COMMAND]
    assert "list(append)" in MERGE
    assert not set(BOOT_COMMAND) & set('"\\')
