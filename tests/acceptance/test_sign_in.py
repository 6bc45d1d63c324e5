"""Every way to sign in, with the real az and the real azure-identity."""

import datetime
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import delete, insert, update

from opengallery.arm import access
from opengallery.database import Database, now
from opengallery.identity.applications import applications, client_certificates, client_secrets
from opengallery.identity.client_secrets import hash_secret
from opengallery.identity.directory import principals, set_enabled
from opengallery.identity.refresh_tokens import token_families
from opengallery.identity.users import users

from .browser import Browser
from .forward import https_port_led_to
from .running import ROOT, Server, Shell

HERE = Path(__file__).parent
USER, PASSWORD = "kim@local", "correct horse battery staple"


@dataclass
class People:
    """Who signs in: rows of the server's own database, put there while it runs."""

    database: Database
    tenant_id: str
    subscription_id: str
    object_ids: list[str] = field(default_factory=list)
    app_ids: list[str] = field(default_factory=list)

    def add(self, kind: str, **values: Any) -> str:
        """A principal that may read the subscription; its object id."""
        object_id = str(uuid4())
        self.object_ids.append(object_id)
        row = {"object_id": object_id, "tenant_id": self.tenant_id, "kind": kind, "enabled": True, **values}
        with self.database.write() as connection:
            connection.execute(insert(principals).values(row))
            access.assign(connection, object_id, access.READER, f"/subscriptions/{self.subscription_id}")
        return object_id

    def add_user(self, name: str, password: str) -> str:
        """A user with a password."""
        object_id = self.add("User", display_name=name.partition("@")[0])
        row = {"user_principal_name": name, "user_principal_name_key": name, "details": {}}
        with self.database.write() as connection:
            connection.execute(
                insert(users).values(
                    object_id=object_id, password_hash=hash_secret(password), created_at=now(), **row
                )
            )
        return object_id

    def add_application(self, name: str, details: dict[str, Any]) -> str:
        """An application with its service principal; its client id."""
        app_id = str(uuid4())
        self.app_ids.append(app_id)
        self.add("ServicePrincipal", display_name=name, app_id=app_id)
        row = {"object_id": str(uuid4()), "app_id": app_id, "tenant_id": self.tenant_id, "display_name": name}
        with self.database.write() as connection:
            connection.execute(insert(applications).values(details=details, created_at=now(), **row))
        return app_id


@pytest.fixture(scope="module")
def people(server: Server, shell: Shell, signed_in: None) -> Iterator[People]:
    database = Database(f"sqlite:///{server.data / 'gallery.sqlite'}")
    names = shell.variables
    people = People(database, names["AZURE_TENANT_ID"], names["AZURE_SUBSCRIPTION_ID"])
    yield people
    with database.write() as connection:
        connection.execute(delete(applications).where(applications.c.app_id.in_(people.app_ids)))
        connection.execute(delete(principals).where(principals.c.object_id.in_(people.object_ids)))
    database.close()


@pytest.fixture(scope="module")
def kim(people: People) -> str:
    return people.add_user(USER, PASSWORD)


@pytest.fixture(scope="module")
def certificate(people: People, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A file with a key and its certificate, and the client id of the application that has it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "robot")])
    start, end = now() - datetime.timedelta(hours=1), now() + datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), start, end)
    ).sign(key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path_factory.mktemp("certificate") / "robot.pem"
    path.write_bytes(private + pem)
    app_id = people.add_application("certified", {})
    row = {"app_id": app_id, "key_id": str(uuid4()), "pem": pem.decode()}
    thumbprint = made.fingerprint(hashes.SHA256()).hex()
    with people.database.write() as connection:
        connection.execute(
            insert(client_certificates).values(thumbprint=thumbprint, starts_at=start, expires_at=end, **row)
        )
    return path, app_id


@pytest.fixture
def own_shell(shell: Shell, tmp_path: Path) -> Shell:
    """A shell with a profile of its own, in which nobody is signed in."""
    folder = tmp_path / "azure"
    own = Shell({**shell.variables, "AZURE_CONFIG_DIR": str(folder)}, tmp_path)
    script = f"{sys.executable} {HERE / 'browser.py'}"
    own.environment |= {"BROWSER": f"{script} %s &", "USERNAME": USER, "PASSWORD": PASSWORD}
    endpoint = shell.variables["GALLERY_ENDPOINT"]
    own.az("cloud", "register", "-n", "opengallery", "--endpoint-resource-manager", endpoint)
    own.az("cloud", "set", "-n", "opengallery")
    own.az("config", "set", "core.login_experience_v2=off")
    return own


@pytest.fixture
def https_port(shell: Shell) -> Iterator[None]:
    """The server is reached at the port 443, too."""
    port = urlsplit(shell.variables["GALLERY_ENDPOINT"]).port or 443
    try:
        with https_port_led_to(port):
            yield
    except OSError as error:
        pytest.skip(f"port 443 can't be had: {error}")


def signed_in_as(shell: Shell, people: People, name: str) -> None:
    """az acts as `name` in the one subscription that they may read."""
    account = shell.az("account", "show")
    assert (account["user"]["name"], account["id"]) == (name, people.subscription_id)
    assert shell.az("group", "list") is not None


def test_a_service_principal_signs_in_by_certificate(
    own_shell: Shell, people: People, certificate: tuple[Path, str]
) -> None:
    path, app_id = certificate
    own_shell.az(
        "login", "--service-principal", "-u", app_id, "--certificate", path, "--tenant", people.tenant_id
    )
    signed_in_as(own_shell, people, app_id)


def test_a_user_signs_in_by_password_and_is_refreshed_until_disabled(
    shell: Shell, own_shell: Shell, people: People, kim: str, https_port: None
) -> None:
    message = own_shell.refused("login", "-u", USER, "-p", "wrong")
    assert "AADSTS50126" in message
    own_shell.az("login", "-u", USER, "-p", PASSWORD)
    signed_in_as(own_shell, people, USER)
    cache = Path(own_shell.variables["AZURE_CONFIG_DIR"]) / "msal_token_cache.json"

    def expire() -> None:
        """As after an hour: the access tokens are over, and no refusal is remembered."""
        (cache.parent / "msal_http_cache.bin").unlink(missing_ok=True)
        text = re.sub(r'"(extended_)?expires_on": "\d+"', r'"\1expires_on": "1000000000"', cache.read_text())
        cache.write_text(text)

    first = own_shell.az("account", "get-access-token")["accessToken"]
    expire()
    second = own_shell.az("account", "get-access-token")["accessToken"]
    assert first != second
    expire()
    with people.database.write() as connection:
        set_enabled(connection, kim, False)
    assert "AADSTS50057" in own_shell.refused("account", "get-access-token")
    with people.database.write() as connection:
        set_enabled(connection, kim, True)
    expire()
    own_shell.az("account", "get-access-token")
    expire()
    with people.database.write() as connection:
        connection.execute(
            update(users).where(users.c.object_id == kim).values(password_hash=hash_secret(PASSWORD))
        )
    assert "AADSTS50173" in own_shell.refused("account", "get-access-token")
    own_shell.az("login", "-u", USER, "-p", PASSWORD)
    shell.az("ad", "user", "update", "--id", kim, "--account-enabled", "false")
    expire()
    assert "AADSTS" in own_shell.refused("account", "get-access-token")
    shell.az("ad", "user", "update", "--id", kim, "--account-enabled", "true")


def test_the_command_signs_a_user_in(own_shell: Shell, kim: str) -> None:
    del own_shell.environment["AZURE_CLIENT_SECRET"]
    own_shell.environment |= {"AZURE_USERNAME": USER, "AZURE_PASSWORD": PASSWORD}
    shown = own_shell.gallery("account", "list")
    assert [account["id"] for account in shown] == [own_shell.variables["AZURE_SUBSCRIPTION_ID"]]


def test_a_user_signs_in_by_device_code(own_shell: Shell, people: People, kim: str) -> None:
    command = [str(ROOT / ".venv-az/bin/az"), "login", "--use-device-code", "-o", "none"]
    process = subprocess.Popen(command, env=own_shell.environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    line = next(line for line in process.stderr if "enter the code" in line)
    found = re.search(r"open the page (\S+) and enter the code ([A-Z]+)", line)
    assert found
    browser = Browser(own_shell.variables["REQUESTS_CA_BUNDLE"])
    browser.open(found[1])
    browser.submit(user_code=found[2].lower())
    assert browser.response and "Microsoft Azure CLI" in browser.response.text
    browser.sign_in(USER, PASSWORD)
    assert "You have signed in" in browser.response.text
    assert process.wait(60) == 0
    signed_in_as(own_shell, people, USER)


def test_a_user_signs_in_with_a_browser(own_shell: Shell, people: People, kim: str) -> None:
    own_shell.az("login")
    signed_in_as(own_shell, people, USER)
    own_shell.az("account", "get-access-token", "--resource", "https://management.azure.com")
    with people.database.read() as connection:
        kept = str(connection.execute(token_families.select()).all())
    cache = (Path(own_shell.variables["AZURE_CONFIG_DIR"]) / "msal_token_cache.json").read_text()
    tokens = re.findall(r'"secret": "([^".]{20,}\.[^".]{20,})"', cache)
    assert tokens
    assert not [token for token in tokens if token.partition(".")[2] in kept]


def test_the_credentials_of_the_sdk_sign_in(
    own_shell: Shell, people: People, kim: str, certificate: tuple[Path, str], https_port: None
) -> None:
    path, app_id = certificate
    web = people.add_application("sign-in web", {"web": {"redirectUris": ["http://localhost/signed-in"]}})
    row = {"app_id": web, "key_id": str(uuid4()), "hash": hash_secret("web secret")}
    with people.database.write() as connection:
        connection.execute(insert(client_secrets).values(row))
    own_shell.environment |= {"WEB_CLIENT_ID": web, "WEB_SECRET": "web secret"}
    own_shell.python(HERE / "exercise_credentials.py", path, app_id)


def test_no_secret_is_in_the_server_s_log(server: Server, shell: Shell) -> None:
    log = server.log.read_text(errors="replace")
    assert PASSWORD not in log
    assert "web secret" not in log
    assert not re.search(r"eyJ[A-Za-z0-9_-]{20,}", log)
