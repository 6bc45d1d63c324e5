"""A server whose people are those of a real OpenID Connect issuer, which runs beside it."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from opengallery.arm import access
from opengallery.arm.resource_id import ResourceId
from opengallery.database import Database
from opengallery.identity.external_principals import object_id
from opengallery.settings import load_settings

from .real_issuer import RealIssuer, new_key, require_issuer
from .serving import COMMAND, Gallery, until

CONFIG = """
[identity]
issuer = "{issuer}"
ca_file = "{ca_file}"
administrators = ["app:robot"]
name_claim = "sub"
token_proxy = true
token_proxy_fields = {{ resource = "{audience}" }}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="opengallery-issuer-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[tuple[Gallery, RealIssuer]]:
    require_issuer()
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


@pytest.fixture
def gallery(site: tuple[Gallery, RealIssuer]) -> Gallery:
    return site[0]


@pytest.fixture
def issuer(site: tuple[Gallery, RealIssuer]) -> RealIssuer:
    return site[1]


def ask(
    gallery: Gallery, token: str, method: str = "GET", path: str = "/subscriptions", body: Any = None
) -> httpx.Response:
    version = "2024-11-01" if "resourcegroups" in path else "2022-12-01"
    headers = {"Authorization": f"Bearer {token}"}
    return gallery.client.request(method, f"{path}?api-version={version}", headers=headers, json=body)


def subscription(gallery: Gallery) -> str:
    return f"/subscriptions/{gallery.variables['AZURE_SUBSCRIPTION_ID']}"


def claims_of(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_an_application_of_the_issuer_that_the_settings_name_administers(
    gallery: Gallery, issuer: RealIssuer
) -> None:
    token = issuer.robot_token()
    assert len(ask(gallery, token).json()["value"]) == 2
    group = f"{subscription(gallery)}/resourcegroups/by-robot"
    assert ask(gallery, token, "PUT", group, {"location": "westeurope"}).status_code == 201


def test_a_user_has_the_roles_of_the_groups_in_the_token(gallery: Gallery, issuer: RealIssuer) -> None:
    scope = subscription(gallery)
    reader, other = (issuer.user_tokens(name)["access_token"] for name in ("alice+readers", "bob"))
    assert ask(gallery, reader).json()["value"] == []
    refused = ask(gallery, reader, path=scope)
    assert refused.status_code == 403
    settings = load_settings(gallery.data, Path(str(gallery.options[1])))
    assert object_id(settings.identity, "User", "alice+readers") in refused.text
    added = subprocess.run(
        [
            COMMAND,
            "principal",
            "add",
            "--data",
            gallery.data,
            *map(str, gallery.options),
            "--group",
            "readers",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    group = json.loads(added.stdout)["id"]
    database = Database(f"sqlite:///{gallery.data / 'gallery.sqlite'}")
    with database.write() as connection:
        access.assign(connection, group, access.READER, ResourceId.parse(scope).key)
    database.close()
    assert ask(gallery, reader, path=scope).status_code == 200
    assert (
        ask(gallery, reader, "PUT", f"{scope}/resourcegroups/mine", {"location": "westeurope"}).status_code
        == 403
    )
    assert ask(gallery, other, path=scope).status_code == 403


def test_what_is_changed_meant_for_others_or_no_access_token_is_refused(
    gallery: Gallery, issuer: RealIssuer
) -> None:
    token, tokens = issuer.robot_token(), issuer.user_tokens("alice+readers")
    header, claims, signature = token.split(".")
    told = {**claims_of(token), "sub": "somebody", "groups": ["admins"]}
    forged = base64.urlsafe_b64encode(json.dumps(told).encode()).rstrip(b"=").decode()
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    for wrong in (
        f"{header}.{forged}.{signature}",
        f"{unsigned}.{claims}.",
        f"{header}.{claims}.{signature[:-8]}AAAAAAA{signature[-1]}",
        tokens["id_token"],
        issuer.robot_token("https://localhost:1"),
        "opaque",
    ):
        answer = ask(gallery, wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "InvalidAuthenticationToken")
        assert issuer.url in answer.headers["www-authenticate"]


def test_the_issuer_rotates_its_keys_while_the_server_runs(gallery: Gallery, issuer: RealIssuer) -> None:
    old = issuer.robot_token()
    assert ask(gallery, old).status_code == 200
    (first,) = issuer.keys
    issuer.set_keys(new_key("ES256"), first)
    new = issuer.robot_token()
    until(lambda: ask(gallery, new).status_code == 200, 20)
    assert ask(gallery, old).status_code == 200
    issuer.set_keys(new_key("PS256"))
    newest = issuer.robot_token()
    until(lambda: ask(gallery, newest).status_code == 200, 20)
    assert ask(gallery, old).status_code == ask(gallery, new).status_code == 401


def test_the_server_goes_on_while_the_issuer_is_away(gallery: Gallery, issuer: RealIssuer) -> None:
    token, later = issuer.robot_token(), issuer.robot_token()
    assert ask(gallery, token).status_code == 200
    issuer.stop()
    try:
        assert ask(gallery, token).status_code == 200
        assert ask(gallery, later).status_code == 200
    finally:
        issuer.start()


def test_the_own_directory_is_off_and_says_where_to_go(gallery: Gallery, issuer: RealIssuer) -> None:
    administrator = json.loads((gallery.data / "identity/administrator.json").read_text())
    assert "AZURE_CLIENT_SECRET" not in gallery.variables
    tenant = gallery.variables["AZURE_TENANT_ID"]
    form = {
        "grant_type": "client_credentials",
        "client_id": administrator["app_id"],
        "client_secret": administrator["client_secret"],
        "resource": f"https://localhost:{gallery.port}",
    }
    refused = gallery.client.post(f"/{tenant}/oauth2/token", data=form)
    assert refused.status_code == 400 and issuer.url in refused.json()["error_description"]
    device = gallery.client.post(f"/{tenant}/oauth2/v2.0/devicecode", data={"client_id": "cli"})
    assert device.status_code == 400 and "GALLERY_ACCESS_TOKEN" in device.json()["error_description"]
    graph = gallery.client.get("/v1.0/users")
    assert graph.status_code == 501 and issuer.url in graph.json()["error"]["message"]


def test_client_credentials_are_handed_on_to_the_issuer(gallery: Gallery, issuer: RealIssuer) -> None:
    tenant = gallery.variables["AZURE_TENANT_ID"]
    known = gallery.client.get(f"/{tenant}/v2.0/.well-known/openid-configuration").json()
    form = {
        "grant_type": "client_credentials",
        "client_id": "robot",
        "client_secret": "a-secret-of-the-robot-in-the-tests",
        "scope": f"https://localhost:{gallery.port}//.default",
        "client_info": "1",
        "claims": "{}",
    }
    answer = gallery.client.post(known["token_endpoint"], data=form)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert ask(gallery, answer.json()["access_token"]).status_code == 200
    wrong = gallery.client.post(known["token_endpoint"], data={**form, "client_secret": "guessed-secret"})
    assert wrong.status_code == 401
    assert "guessed-secret" not in wrong.text + gallery.log.read_text()
    for grant in ("password", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"):
        other = gallery.client.post(known["token_endpoint"], data={**form, "grant_type": grant})
        assert other.json()["error"] == "unsupported_grant_type"


def test_the_gallery_command_takes_a_token_from_the_environment(gallery: Gallery, issuer: RealIssuer) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AZURE_")},
        **gallery.variables,
        "GALLERY_ACCESS_TOKEN": issuer.robot_token(),
    }

    def run(**changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, "account", "list"], env={**environment, **changes}, capture_output=True, text=True
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 2
    refused = run(GALLERY_ACCESS_TOKEN=f"{environment['GALLERY_ACCESS_TOKEN'][:-4]}AAAA")
    assert refused.returncode == 1
    assert "access token is invalid" in refused.stderr
    assert environment["GALLERY_ACCESS_TOKEN"][:40] not in refused.stderr
