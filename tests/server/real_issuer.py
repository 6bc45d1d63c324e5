"""A real OpenID Connect issuer on loopback: the certified `oidc-provider`, with a certificate of our own."""

import json
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwk

from opengallery.identity.certificate import ensure_certificate

from .serving import ROOT, free_port, until

HOME = Path(os.environ.get("OIDC_ISSUER", ROOT / ".cache/oidc-issuer"))
SECRET = "a-secret-of-the-robot-in-the-tests"
CALLBACK = "http://127.0.0.1/callback"


class RealIssuer:
    """One issuer, its keys and its clients."""

    def __init__(self, folder: Path, audience: str) -> None:
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self._audience = audience
        self._settings = folder / "issuer.json"
        self._files = ensure_certificate(folder)
        self.ca_file = self._files.ca
        self.client = httpx.Client(verify=ssl.create_default_context(cafile=str(self.ca_file)), timeout=30)
        self._process: subprocess.Popen[str] | None = None
        self.keys: list[Any] = []
        self.set_keys(new_key("RS256"))

    @contextmanager
    def serving(self) -> Iterator["RealIssuer"]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        script = str(ROOT / "scripts/servers/oidc-issuer.mjs")
        environment = {**os.environ, "OIDC_ISSUER": str(HOME)}
        self._process = subprocess.Popen(
            ["node", script, self._settings],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def set_keys(self, *keys: Any) -> None:
        """Let the issuer have these keys, the first of which signs; a running one takes them at once."""
        self.keys = list(keys)
        settings = {
            "port": self.port,
            "certificate": str(self._files.certificate),
            "key": str(self._files.key),
            "audience": self._audience,
            "keys": [key.as_dict(private=True) for key in keys],
        }
        self._settings.write_text(json.dumps(settings))
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)
            kids = {key.kid for key in keys}
            until(lambda: {key["kid"] for key in self.get("/jwks")["keys"]} == kids, 10)

    def get(self, path: str) -> Any:
        return self.client.get(self.url + path).json()

    def robot_token(self, resource: str | None = None) -> str:
        """An access token of the client that speaks for itself."""
        form = {"grant_type": "client_credentials", "client_id": "robot", "client_secret": SECRET}
        form["resource"] = resource or self._audience
        answer = self.client.post(f"{self.url}/token", data=form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def user_tokens(self, name: str) -> dict[str, Any]:
        """What a user gets who signs in on the issuer's pages: code flow with PKCE."""
        verifier = secrets.token_urlsafe(48)
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": "cli",
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid gallery",
            "resource": self._audience,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        with httpx.Client(verify=ssl.create_default_context(cafile=str(self.ca_file)), timeout=30) as browser:
            answer = browser.get(f"{self.url}/auth", params=query)
            while not answer.headers.get("location", "").startswith(CALLBACK):
                if answer.is_redirect:
                    answer = browser.get(answer.url.join(answer.headers["location"]))
                    continue
                form = re.search(r'action="([^"]+)"', answer.text)
                prompt = re.search(r'name="prompt" value="([^"]+)"', answer.text)
                assert form and prompt, answer.text
                fields = {"prompt": prompt[1], "login": name, "password": "any"}
                answer = browser.post(answer.url.join(form[1]), data=fields)
        code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
        form_fields = {
            "grant_type": "authorization_code",
            "client_id": "cli",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
            "resource": self._audience,
        }
        found = self.client.post(f"{self.url}/token", data=form_fields)
        assert found.status_code == 200, found.text
        return dict(found.json())


def new_key(algorithm: str) -> Any:
    """A new key that signs by `algorithm`."""
    parameters = {"use": "sig", "alg": algorithm, "kid": f"key-{time.monotonic_ns()}"}
    if algorithm == "ES256":
        return jwk.ECKey.generate_key("P-256", parameters)
    return jwk.RSAKey.generate_key(2048, parameters)


def require_issuer() -> None:
    """Skip where the issuer isn't installed."""
    if not shutil.which("node") or not (HOME / "node_modules/oidc-provider").is_dir():
        pytest.skip("no OpenID issuer: it needs node and npm; then make develop-setup installs it")
