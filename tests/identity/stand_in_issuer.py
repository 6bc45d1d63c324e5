"""An issuer that does wrong what a test asks for: real HTTPS and real keys, for faults no good issuer has."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc import jwk

from opengallery.identity.certificate import ensure_certificate

KEYS = {
    "rsa": jwk.RSAKey.generate_key(2048),
    "other": jwk.RSAKey.generate_key(2048),
    "ec": jwk.ECKey.generate_key("P-256"),
}


class StandInIssuer:
    """Serves a discovery document and a key set, both of which tests change."""

    def __init__(self, folder: Path) -> None:
        files = ensure_certificate(folder)
        self.ca_file = str(files.ca)
        self.requests: list[str] = []
        self.forms: list[str] = []
        self.status = 200
        self.token_answer: dict[str, Any] = {"access_token": "made-elsewhere", "expires_in": 60}
        self.padding = 0
        self.pause_s = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}"
        self.document: Any = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "token_endpoint": f"{self.url}/token",
        }
        self.keys: Any = [self.public("rsa"), self.public("ec")]

    def public(self, name: str, **changes: Any) -> dict[str, Any]:
        """A public key as the key set lists it, under its own name, with `changes`."""
        return {**KEYS[name].as_dict(private=False), "kid": name, "use": "sig", **changes}

    @contextmanager
    def serving(self) -> Iterator["StandInIssuer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"keys": issuer.keys} if self.path == "/keys" else issuer.document)

            def do_POST(self) -> None:
                issuer.forms.append(self.rfile.read(int(self.headers["content-length"])).decode())
                self._answer(issuer.token_answer)

            def _answer(self, content: Any) -> None:
                issuer.requests.append(self.path)
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                body += b" " * issuer.padding
                self.send_response(issuer.status)
                if issuer.status == 302:
                    self.send_header("location", f"{issuer.url}/elsewhere")
                self.end_headers()
                try:
                    for piece in (body[:10], body[10:]):
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(issuer.pause_s)
                except OSError:
                    pass  # the client has had enough

            def log_message(self, *_: object) -> None:
                pass

        return Handler
