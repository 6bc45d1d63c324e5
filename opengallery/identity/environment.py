"""The environment that az, the SDKs and other clients need to use this gallery: `gallery env`.

Everything is read from DIR, so it works whether or not the server runs.
"""

from opengallery.identity.certificate import certificate_files
from opengallery.identity.first_start import read_first_start
from opengallery.identity.folder import IdentityFolder
from opengallery.settings import Settings

ENDPOINT = "endpoint"
ISSUER = "issuer"
AZ_FOLDER = "azure"


class NoGallery(Exception):
    """DIR holds no gallery yet; the message says what to do."""


def record_endpoint(settings: Settings) -> None:
    """Keep the URL that a server was started for, and its issuer: `gallery env` isn't told the settings."""
    folder = IdentityFolder(settings.data)
    for name, value in ((ENDPOINT, settings.endpoint), (ISSUER, settings.identity.issuer or "")):
        content = value.encode()
        if (folder.read(name) or b"") != content:
            folder.write(name, content)


def environment(settings: Settings, with_credentials: bool = True) -> dict[str, str]:
    """Names and values of the variables, those of the last started server. Raises `NoGallery`.

    Without credentials they are for anybody: no secret, and no folder of the administrator's.
    """
    first = read_first_start(settings.data)
    files = certificate_files(settings.data)
    if first is None or not files.ca_bundle.exists():
        raise NoGallery(
            f"There is no gallery in {settings.data} yet. "
            f"Run `gallery serve --data {settings.data}` first and wait for its line `ready`."
        )
    folder = IdentityFolder(settings.data)
    recorded = folder.read(ENDPOINT)
    endpoint = recorded.decode() if recorded else settings.endpoint
    administrator = {}
    if with_credentials:
        administrator["AZURE_CONFIG_DIR"] = str(folder.path / AZ_FOLDER)
        if not folder.read(ISSUER):  # with an external issuer the own administrator can't sign in
            administrator |= {"AZURE_CLIENT_ID": first.app_id, "AZURE_CLIENT_SECRET": first.client_secret}
    return {
        "GALLERY_ENDPOINT": endpoint,
        "AZURE_TENANT_ID": first.tenant_id,
        **administrator,
        "AZURE_SUBSCRIPTION_ID": first.subscription_id,
        "GALLERY_SUBSCRIPTION_ID_2": first.second_subscription_id,
        "AZURE_AUTHORITY_HOST": endpoint,
        "REQUESTS_CA_BUNDLE": str(files.ca_bundle),
        "SSL_CERT_FILE": str(files.ca_bundle),
        "NODE_EXTRA_CA_CERTS": str(files.ca),
        "AZURE_CORE_INSTANCE_DISCOVERY": "false",
        "AZURE_CORE_COLLECT_TELEMETRY": "false",
    }


def shell_lines(variables: dict[str, str]) -> str:
    """Lines for a POSIX shell to `eval`; every value is quoted."""
    quoted = {name: value.replace("'", "'\\''") for name, value in variables.items()}
    return "".join(f"export {name}='{value}'\n" for name, value in quoted.items())
