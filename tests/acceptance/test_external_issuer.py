"""The real az and an SDK where a real OpenID Connect issuer takes the place of the own directory."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..server.real_issuer import SECRET, RealIssuer, require_issuer
from ..server.serving import Gallery
from ..server.test_external_issuer import CONFIG
from .running import CommandRefused, Shell

CREDENTIAL = """
import os, time
from azure.core.credentials import AccessToken
from azure.mgmt.resource import ResourceManagementClient

class Given:
    def get_token(self, *scopes, **options):
        return AccessToken(os.environ["TOKEN"], int(time.time()) + 300)

endpoint = os.environ["GALLERY_ENDPOINT"]
client = ResourceManagementClient(
    Given(), os.environ["AZURE_SUBSCRIPTION_ID"], base_url=endpoint, credential_scopes=[endpoint + "/.default"]
)
assert "by-az" in [group.name for group in client.resource_groups.list()]
"""


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[Gallery, RealIssuer]]:
    require_issuer()
    folder = Path(tempfile.mkdtemp(prefix="opengallery-issuer-"))
    gallery = Gallery(folder / "data")
    audience = f"https://localhost:{gallery.port}"
    issuer = RealIssuer(folder, audience)
    config = folder / "opengallery.toml"
    config.write_text(CONFIG.format(issuer=issuer.url, ca_file=issuer.ca_file, audience=audience))
    gallery.options = ["--config", config]
    with issuer.serving():
        gallery.serve()
        yield gallery, issuer
        gallery.end()
    shutil.rmtree(folder)


def test_az_signs_a_service_principal_of_the_issuer_in(
    site: tuple[Gallery, RealIssuer], tmp_path: Path
) -> None:
    gallery, issuer = site
    shell = Shell({**gallery.variables, "AZURE_CLIENT_SECRET": SECRET}, tmp_path)
    shell.az(
        "cloud",
        "register",
        "-n",
        "opengallery",
        "--endpoint-resource-manager",
        shell.variables["GALLERY_ENDPOINT"],
    )
    shell.az("cloud", "set", "-n", "opengallery")
    login = ("login", "--service-principal", "-u", "robot", "--tenant", shell.variables["AZURE_TENANT_ID"])
    with pytest.raises(CommandRefused, match="client authentication failed"):
        shell.az(*login, "-p", "wrong")
    assert len(shell.az(*login, "-p", SECRET)) == 2
    shell.az("group", "create", "-n", "by-az", "-l", "westeurope")
    assert [group["name"] for group in shell.az("group", "list")] == ["by-az"]
    told = shell.refused("ad", "user", "list")
    assert issuer.url in told
    shell.environment["TOKEN"] = issuer.robot_token()
    shell.python("-c", CREDENTIAL)
