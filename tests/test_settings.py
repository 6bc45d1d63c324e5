"""Settings that each are right alone, but not together, stop the server with a message that names them."""

from pathlib import Path

import pytest

from opengallery.settings import SettingsError, load_settings

ISSUER = '[identity]\nissuer = "https://login.example/realm"\n'


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('[tls]\ncertificate = "server.pem"\n', "tls.key"),
        ('[tls]\nkey = "server-key.pem"\n', "tls.certificate"),
        ('[identity]\nadministrators = ["user:alice"]\n', "identity.issuer"),
        ('[identity]\nclients = ["web"]\n', "identity.issuer"),
        ('[identity]\naudiences = ["https://gallery"]\n', "identity.issuer"),
        ('[identity]\nissuer = "http://login.example"\n', "https"),
        ('[identity]\nissuer = "https://login.example/?tenant=a"\n', "https"),
        (ISSUER + 'administrators = ["role:alice"]\n', "role:alice"),
        (ISSUER + "required_claims = { tid = 7 }\n", "required_claims"),
        ("[identity]\ntoken_key_days = -1\n", "token_key_days"),
    ],
)
def test_settings_that_do_not_go_together_are_named(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "opengallery.toml").write_text(content)
    with pytest.raises(SettingsError, match=word):
        load_settings(tmp_path)


def test_an_issuer_and_its_administrators_are_read(tmp_path: Path) -> None:
    (tmp_path / "opengallery.toml").write_text(
        ISSUER + 'administrators = ["alice", "user:waad:x", "app:robot", "group:admins"]\n'
    )
    identity = load_settings(tmp_path).identity
    assert identity.issuer == "https://login.example/realm"
    assert len(identity.administrators) == 4
