"""Every credential of azure-identity that signs in at the gallery; run by the Python that has the SDK.

Each gets a token and lists the subscriptions with it. Arguments: the certificate's file and its
application's client id.
"""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import requests
from azure.core.pipeline.transport import AsyncioRequestsTransport
from azure.identity import (
    AuthorizationCodeCredential,
    CertificateCredential,
    ClientSecretCredential,
    DeviceCodeCredential,
    InteractiveBrowserCredential,
    UsernamePasswordCredential,
)
from azure.identity.aio import CertificateCredential as AsyncCertificateCredential

ENDPOINT = os.environ["GALLERY_ENDPOINT"]
TENANT = os.environ["AZURE_TENANT_ID"]
SCOPE = f"{ENDPOINT}/.default"
OTHER_SCOPE = "https://management.azure.com/.default"
CLI = "04b07795-8ddb-461a-bbee-02f9e1bf7b46"
USER = {"authority": ENDPOINT, "tenant_id": TENANT, "disable_instance_discovery": True}
PLACE = {"authority": ENDPOINT, "disable_instance_discovery": True}


def check(name: str, get_token: Callable[..., Any], *scopes: str) -> None:
    """The token that `get_token` brings is good for the gallery, one for each scope."""
    for scope in scopes:
        token = get_token(scope).token
        url = f"{ENDPOINT}/subscriptions?api-version=2022-12-01"
        answer = requests.get(url, headers={"authorization": f"Bearer {token}"}, timeout=30)
        assert answer.status_code == 200, f"{name}: {answer.text}"
        assert answer.json()["value"], f"{name} sees no subscription"
    print(f"{name}: good", file=sys.stderr)


def browse(*words: str) -> None:
    """A user with a browser does what the program asks for."""
    subprocess.Popen([*os.environ["BROWSER"].replace(" %s &", "").split(), *words])


def authorization_code() -> tuple[str, str]:
    """A code for the CLI's client and its redirect URI, as a web application would get it."""
    import http.server

    codes = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            codes.append(parse_qs(urlsplit(self.path).query))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            pass

    server = http.server.HTTPServer(("localhost", 0), Receiver)
    redirect_uri = f"http://localhost:{server.server_port}/signed-in"
    query = {
        "client_id": os.environ["WEB_CLIENT_ID"],
        "response_type": "code",
        "redirect_uri": redirect_uri,
        "scope": f"{SCOPE} offline_access openid profile",
        "state": "a state",
    }
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    browse(f"{ENDPOINT}/{TENANT}/oauth2/v2.0/authorize?{urlencode(query)}")
    thread.join(30)
    server.server_close()
    assert codes[0]["state"] == ["a state"]
    return codes[0]["code"][0], redirect_uri


async def asynchronous(client_id: str, certificate: str) -> None:
    """The SDK's asynchronous credential signs its assertions by other code."""
    transport = AsyncioRequestsTransport()
    async with AsyncCertificateCredential(
        TENANT, client_id, certificate, transport=transport, **PLACE
    ) as credential:
        for scope in (SCOPE, OTHER_SCOPE):
            assert (await credential.get_token(scope)).token
    print("AsyncCertificateCredential: good", file=sys.stderr)


def main(certificate: str, client_id: str) -> None:
    """Try one after the other."""
    both = (SCOPE, OTHER_SCOPE)
    secret = ClientSecretCredential(
        TENANT, os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"], **PLACE
    )
    check("ClientSecretCredential", secret.get_token, *both)
    check(
        "CertificateCredential",
        CertificateCredential(TENANT, client_id, certificate, **PLACE).get_token,
        *both,
    )
    asyncio.run(asynchronous(client_id, certificate))
    name, password = os.environ["USERNAME"], os.environ["PASSWORD"]
    check(
        "UsernamePasswordCredential", UsernamePasswordCredential(CLI, name, password, **USER).get_token, *both
    )
    device = DeviceCodeCredential(prompt_callback=lambda uri, code, _until: browse(uri, code), **USER)
    check("DeviceCodeCredential", device.get_token, *both)
    browser = InteractiveBrowserCredential(login_hint=name, **USER)
    check("InteractiveBrowserCredential", browser.get_token, *both)
    code, redirect_uri = authorization_code()
    web = AuthorizationCodeCredential(
        TENANT,
        os.environ["WEB_CLIENT_ID"],
        code,
        redirect_uri,
        client_secret=os.environ["WEB_SECRET"],
        **PLACE,
    )
    check("AuthorizationCodeCredential", web.get_token, SCOPE)  # it refreshes for one scope only


if __name__ == "__main__":
    main(*sys.argv[1:])
