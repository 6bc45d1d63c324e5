"""A running server: keys and certificates change under it, its folder is closed, its answers are guarded."""

import base64
import http.client
import json
import os
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography import x509

from opengallery.database import now
from opengallery.identity.certificate import ensure_certificate
from opengallery.listener.tls import HEADER_SIZE_MAX_BYTES

from .serving import COMMAND, Gallery, until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def gallery() -> Iterator[Gallery]:
    folder = Path(tempfile.mkdtemp(prefix="opengallery-hardening-"))
    company = ensure_certificate(folder / "company")
    for name in ("server.pem", "server-key.pem"):
        shutil.copy(company.certificate.parent / name, folder / name)
    config = (
        f'[tls]\ncertificate = "{folder / "server.pem"}"\nkey = "{folder / "server-key.pem"}"\n'
        f'ca = "{company.ca}"\n'
    )
    data = folder / "data"
    data.mkdir(mode=0o755)
    (data / "console.key").write_text("ab" * 32)
    (data / "console.key").chmod(0o644)
    running = Gallery(data, config)
    running.serve()
    running.put("resourcegroups/rg", {"location": "westeurope"})
    yield running
    running.end()
    shutil.rmtree(folder)


def serial(gallery: Gallery) -> int:
    """The serial number of the certificate that a new connection is shown."""
    shown = ssl.get_server_certificate(("localhost", gallery.port))
    return x509.load_pem_x509_certificate(shown.encode()).serial_number


def disk(gallery: Gallery, name: str, size_bytes: int = 20 * MIB + 512) -> str:
    path = f"resourceGroups/rg/providers/Microsoft.Compute/disks/{name}"
    creation = {"createOption": "Upload", "uploadSizeBytes": size_bytes}
    body = {"location": "westeurope", "properties": {"osType": "Linux", "creationData": creation}}
    gallery.put(path, body)
    return path


def granted(gallery: Gallery, path: str, access: str = "Write") -> str:
    found = gallery.act("POST", f"{path}/beginGetAccess", {"access": access, "durationInSeconds": 3600})
    return str(found.get("accessSAS") or found["accessSas"])


def secrets_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["sig"][0]


def put_page(gallery: Gallery, url: str, body: bytes = b"x" * 512) -> httpx.Response:
    headers = {"x-ms-page-write": "update", "x-ms-range": f"bytes=0-{len(body) - 1}"}
    return httpx.put(f"{url}&comp=page", content=body, headers=headers, verify=gallery.trust)


def test_token_keys_rotate_under_a_running_server_and_nobody_is_signed_out(gallery: Gallery) -> None:
    tenant = gallery.variables["AZURE_TENANT_ID"]

    def listed() -> list[str]:
        found = gallery.client.get(f"/{tenant}/discovery/v2.0/keys").json()["keys"]
        return [key["kid"] for key in found]

    (first,) = listed()
    done = subprocess.run(
        [COMMAND, "key", "rotate", "--data", gallery.data, "--token-signing"],
        capture_output=True,
        text=True,
        check=True,
    )
    new = json.loads(done.stdout)["tokenKey"]
    until(lambda: listed() == [new, first], 10)
    before = gallery.client.headers["Authorization"]
    gallery._sign_in()
    after = str(gallery.client.headers["Authorization"])
    header = after.removeprefix("Bearer ").split(".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + "=="))["kid"] == new
    for authorization in (before, after):
        answer = gallery.client.get(
            "/subscriptions?api-version=2022-12-01", headers={"Authorization": authorization}
        )
        assert answer.status_code == 200


def test_another_certificate_is_shown_without_a_restart(gallery: Gallery) -> None:
    folder = gallery.data.parent
    before, pid = serial(gallery), gallery.process and gallery.process.pid
    company = ensure_certificate(folder / "company", now() + timedelta(days=820))
    with httpx.Client(base_url=f"https://localhost:{gallery.port}", verify=gallery.trust) as connected:
        assert connected.get("/metadata/endpoints").status_code == 200
        # The key first: until the other file follows they don't belong together.
        shutil.copy(company.key, folder / "server-key.pem")
        assert serial(gallery) == before
        late = company.certificate.read_bytes()
        (folder / "server.pem").write_bytes(late)
        # Its time hasn't come: the old one stays.
        time.sleep(2.5)
        assert serial(gallery) == before
        for name in ("server.pem", "server-key.pem"):
            (folder / "company/identity" / name).unlink()
        company = ensure_certificate(folder / "company")
        shutil.copy(company.key, folder / "server-key.pem")
        shutil.copy(company.certificate, folder / "server.pem")
        new = x509.load_pem_x509_certificate(company.certificate.read_bytes()).serial_number
        failures: list[Any] = []

        def is_shown() -> bool:
            try:
                answer = httpx.get(
                    f"https://localhost:{gallery.port}/metadata/endpoints", verify=gallery.trust
                )
                assert answer.status_code == 200
                return serial(gallery) == new
            except (httpx.HTTPError, OSError) as error:
                failures.append(error)
                return False

        until(is_shown, 20)
        assert len(failures) <= 2
        assert connected.get("/metadata/endpoints").status_code == 200
    assert gallery.process and gallery.process.poll() is None and gallery.process.pid == pid
    assert gallery.get("resourcegroups/rg")["name"] == "rg"


def test_older_tls_is_refused(gallery: Gallery) -> None:
    context = ssl.create_default_context(cafile=gallery.variables["REQUESTS_CA_BUNDLE"])
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", gallery.port)) as raw:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(raw, server_hostname="localhost")


def test_the_folder_of_a_server_is_for_its_owner_alone(gallery: Gallery) -> None:
    put_page(gallery, granted(gallery, disk(gallery, "walked")))
    public = {"ca.pem", "ca-bundle.pem", "server.pem"}
    wrong = {}
    for folder, _, files in os.walk(gallery.data):
        mode = stat.S_IMODE(Path(folder).stat().st_mode)
        if mode & 0o066:
            wrong[folder] = oct(mode)
        for name in files:
            path = Path(folder) / name
            mode = stat.S_IMODE(path.lstat().st_mode)
            is_public = path.parent.name == "identity" and name in public
            if mode & (0o022 if is_public else 0o077):
                wrong[str(path)] = oct(mode)
    assert wrong == {}
    assert (gallery.data / "gallery.sqlite-wal").exists()
    assert "console.key" in gallery.log.read_text()


def test_every_answer_is_guarded_whatever_answers(gallery: Gallery) -> None:
    url = granted(gallery, disk(gallery, "guarded"))
    for answer in (
        gallery.client.get("/metadata/endpoints"),
        gallery.client.get("/subscriptions?api-version=2022-12-01"),
        gallery.client.get("/subscriptions", headers={"Authorization": "Bearer x"}),
        gallery.client.post("/nowhere/oauth2/v2.0/token", data={}),
        gallery.client.request("TRACE", "/"),
        gallery.client.get("/consoles/x/serialconsole.log"),
        httpx.get(url, headers={"x-ms-range": "bytes=0-511"}, verify=gallery.trust),
        httpx.get(url.replace("sig=", "sig=0"), verify=gallery.trust),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff", answer.request.url
        assert "granian" not in str(answer.headers).lower()
        if not answer.request.url.path.startswith("/metadata"):
            assert answer.headers["cache-control"] == "no-store", answer.request.url


def test_headers_have_a_bound(gallery: Gallery) -> None:
    assert HEADER_SIZE_MAX_BYTES <= 128 * 1024
    context = ssl.create_default_context(cafile=gallery.variables["REQUESTS_CA_BUNDLE"])
    connection = http.client.HTTPSConnection("localhost", gallery.port, context=context, timeout=30)
    with pytest.raises((http.client.HTTPException, OSError, AssertionError)):
        connection.request("GET", "/metadata/endpoints", headers={"x-long": "y" * 4 * HEADER_SIZE_MAX_BYTES})
        answer = connection.getresponse()
        assert answer.status == 200, f"refused with {answer.status}"


def test_a_signed_url_is_for_one_object_one_right_and_one_time(gallery: Gallery) -> None:
    first, second = disk(gallery, "first"), disk(gallery, "second")
    url, other = granted(gallery, first), granted(gallery, second)
    assert put_page(gallery, url).status_code == 201
    base, _, query = url.partition("?")
    fields = {name: values[0] for name, values in parse_qs(query).items()}
    other_base = other.partition("?")[0]

    def status(target: str, **changes: str | None) -> int:
        changed = {name: value for name, value in {**fields, **changes}.items() if value is not None}
        return put_page(gallery, f"{target}?{httpx.QueryParams(changed)}").status_code

    assert status(base) == 201
    reordered = httpx.QueryParams(dict(reversed(fields.items())))
    assert put_page(gallery, f"{base}?{reordered}").status_code == 201
    assert status(other_base) == 403
    assert status(base.replace("/uploads/", "/downloads/")) == 403
    assert status(base.replace("disk.vhd", "other.vhd")) == 403
    assert status(base, se="2099-01-01T00:00:00Z") == 403
    assert status(base, sp="rwd") == 403
    assert status(base, sp="r") == 403
    assert status(base, sig=None) == status(base, sig="") == status(base, sig="é") == 403
    assert status(base, sig=fields["sig"][:-2]) == 403
    for name in ("sig", "se", "sp", "comp"):
        doubled = f"{url}&{name}={httpx.QueryParams({'': fields.get(name, 'page')})}".replace("==", "=")
        assert put_page(gallery, doubled).status_code == 403, name
    # The host is no part of the object: TLS says whom one talks to.
    elsewhere = httpx.put(
        f"{url}&comp=page",
        content=b"y" * 512,
        headers={"x-ms-page-write": "update", "x-ms-range": "bytes=0-511", "host": "elsewhere.example"},
        verify=gallery.trust,
    )
    assert elsewhere.status_code == 201
    gallery.act("POST", f"{first}/endGetAccess")
    assert status(base) == 403


def test_no_secret_is_in_the_log_or_in_an_answer(gallery: Gallery) -> None:
    path = disk(gallery, "secret")
    url = granted(gallery, path)
    secret = gallery.variables["AZURE_CLIENT_SECRET"]
    tenant = gallery.variables["AZURE_TENANT_ID"]
    form = {
        "grant_type": "client_credentials",
        "client_id": gallery.variables["AZURE_CLIENT_ID"],
        "client_secret": secret,
        "scope": f"{gallery.variables['GALLERY_ENDPOINT']}/.default",
    }
    token = gallery.client.post(f"/{tenant}/oauth2/v2.0/token", data=form).json()["access_token"]
    wrong, later = "Guessed" + secret[:8], {**form, "client_secret": "Guessed" + secret[:8]}
    upload = secrets_of(url)
    uploaded = put_page(gallery, url)
    assert uploaded.status_code == 201
    answers = [
        uploaded,
        gallery.client.post(f"/{tenant}/oauth2/v2.0/token", data=later),
        gallery.client.post(f"/{tenant}/oauth2/v2.0/token", data={**form, "scope": "x"}),
        gallery.client.post(f"/{tenant}/oauth2/v2.0/token", content=f"client_secret={secret}".encode()),
        gallery.client.get("/subscriptions", headers={"Authorization": f"Bearer {token}x"}),
        gallery.client.get(f"/subscriptions/{token}?api-version=2022-12-01", headers={"Authorization": "x"}),
        put_page(gallery, url.replace("disk.vhd", "other.vhd")),
        put_page(gallery, url, b"x" * 100),
        gallery.ask("GET", path),
    ]
    gallery.act("POST", f"{path}/endGetAccess")
    told = gallery.log.read_text() + "".join(answer.text + str(answer.headers) for answer in answers)
    assert "wrong secret" in told  # the log does tell of it
    for kept in (secret, wrong, upload, token, token.split(".")[-1]):
        assert kept not in told
    keys = json.loads((gallery.data / "identity/token-keys.json").read_text())["keys"]
    for private in (keys[0]["d"], keys[0]["p"], (gallery.data / "master.key").read_text().strip()):
        assert private not in told
