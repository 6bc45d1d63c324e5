"""The environment for clients: complete, quoted, and honest when there is no gallery."""

import subprocess
from pathlib import Path

import pytest

from opengallery.identity.certificate import ensure_certificate
from opengallery.identity.environment import NoGallery, environment, record_endpoint, shell_lines
from opengallery.settings import load_settings

from .conftest import Identity


def test_every_variable_of_the_contract_is_there(identity: Identity) -> None:
    ensure_certificate(identity.data)
    record_endpoint(load_settings(identity.data, port=9999))
    # `gallery env` is not told the port that `gallery serve` was started with.
    variables = environment(load_settings(identity.data))
    first, folder = identity.first, identity.data.resolve() / "identity"
    assert variables == {
        "GALLERY_ENDPOINT": "https://localhost:9999",
        "AZURE_TENANT_ID": first.tenant_id,
        "AZURE_CLIENT_ID": first.app_id,
        "AZURE_CLIENT_SECRET": first.client_secret,
        "AZURE_SUBSCRIPTION_ID": first.subscription_id,
        "GALLERY_SUBSCRIPTION_ID_2": first.second_subscription_id,
        "AZURE_AUTHORITY_HOST": "https://localhost:9999",
        "REQUESTS_CA_BUNDLE": str(folder / "ca-bundle.pem"),
        "SSL_CERT_FILE": str(folder / "ca-bundle.pem"),
        "NODE_EXTRA_CA_CERTS": str(folder / "ca.pem"),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
        "AZURE_CONFIG_DIR": str(folder / "azure"),
    }


def test_what_is_for_others_holds_nothing_of_the_administrator(identity: Identity) -> None:
    ensure_certificate(identity.data)
    whole = environment(load_settings(identity.data))
    public = environment(load_settings(identity.data), with_credentials=False)
    assert whole.keys() - public.keys() == {"AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CONFIG_DIR"}
    assert identity.first.client_secret not in shell_lines(public)


def test_the_configured_port_counts_until_a_server_was_started(identity: Identity) -> None:
    ensure_certificate(identity.data)
    assert environment(load_settings(identity.data))["GALLERY_ENDPOINT"] == "https://localhost:8443"


def test_a_folder_without_a_gallery_says_what_to_do(tmp_path: Path) -> None:
    for data in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NoGallery, match="gallery serve --data"):
            environment(load_settings(data))
        assert not (data / "identity").exists()


@pytest.mark.parametrize("value", ["plain", "it's", '$HOME `id` "x" \\', "two\nlines", "", "'; false '"])
def test_a_shell_reads_back_exactly_what_was_meant(value: str) -> None:
    lines = shell_lines({"A": value, "B": "end"})
    assert lines.startswith("export A='")
    script = 'set -e\neval "$1"\nprintf %s "$A|$B"'
    done = subprocess.run(["sh", "-c", script, "sh", lines], capture_output=True, text=True, check=True)
    assert done.stdout == f"{value}|end"
