"""Users, keys and passwords of new machines."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from opengallery.cli import sign_on
from opengallery.cli.failure import Misuse
from opengallery.cli.sign_on import os_profile, public_key

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLE me@here"
PASSWORD = "Correct-Horse-7"


def profile(
    os_type: str = "Linux", folder: Path = Path("/nonexistent"), **given: object
) -> dict[str, object]:
    arguments: dict[str, object] = {
        "username": "me",
        "authentication": None,
        "password": None,
        "ssh_keys": None,
        "generates_keys": False,
        **given,
    }
    return os_profile(os_type, ssh_folder=folder, **arguments)  # type: ignore[arg-type]


def test_keys_are_made_once_with_private_modes_and_fit_together(tmp_path: Path) -> None:
    folder = tmp_path / ".ssh"
    key = public_key("", folder, True)
    private_path = folder / "id_rsa"
    assert private_path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    private = serialization.load_ssh_private_key(private_path.read_bytes(), None)
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    assert key == public.decode()
    before = private_path.read_bytes(), (folder / "id_rsa.pub").read_bytes()
    assert public_key("", folder, True) == key
    assert (private_path.read_bytes(), (folder / "id_rsa.pub").read_bytes()) == before


def test_a_private_key_without_its_public_one_is_kept(tmp_path: Path) -> None:
    key = public_key("", tmp_path, True)
    (tmp_path / "id_rsa.pub").unlink()
    before = (tmp_path / "id_rsa").read_bytes()
    assert public_key("", tmp_path, True) == key
    assert (tmp_path / "id_rsa").read_bytes() == before


def test_keys_by_value_and_by_file(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(KEY + "\n")
    profile_keys = profile(ssh_keys=[KEY, str(tmp_path / "key.pub")])["linuxConfiguration"]
    place = "/home/me/.ssh/authorized_keys"
    assert profile_keys == {
        "disablePasswordAuthentication": True,
        "ssh": {"publicKeys": [{"keyData": KEY, "path": place}] * 2},
    }


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "id_rsa.pub").write_text("-----BEGIN PRIVATE KEY-----")
    for text in ("", "no key", str(tmp_path / "absent")):
        with pytest.raises(Misuse):
            public_key(text, tmp_path, False)
    with pytest.raises(Misuse, match="--generate-ssh-keys"):
        public_key("", tmp_path / "empty", False)


def test_a_password_alone_means_no_keys() -> None:
    assert profile(password=PASSWORD) == {"adminUsername": "me", "adminPassword": PASSWORD}


def test_all_wants_both(tmp_path: Path) -> None:
    made = profile(authentication="all", password=PASSWORD, ssh_keys=[KEY])
    assert made["adminPassword"] == PASSWORD
    assert made["linuxConfiguration"]["disablePasswordAuthentication"] is False  # type: ignore[index]


def test_windows_takes_a_password_and_no_keys() -> None:
    assert profile("Windows", password=PASSWORD)["windowsConfiguration"] == {}
    with pytest.raises(Misuse):
        profile("Windows", authentication="ssh")


@pytest.mark.parametrize("password", ["Short-1", "alllowercaseletters", "x" * 73])
def test_a_weak_password_is_refused(password: str) -> None:
    with pytest.raises(Misuse, match="--admin-password"):
        profile(password=password)


def test_root_becomes_azureuser_and_may_not_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_on.getpass, "getuser", lambda: "root")
    assert profile(username=None, ssh_keys=[KEY])["adminUsername"] == "azureuser"
    with pytest.raises(Misuse, match="root"):
        profile(username="root", ssh_keys=[KEY])
