"""Real object stores on loopback: Ceph's RGW (S3) and Azurite (Azure Blob), started for the tests that ask.

A test that asks for one that is not installed is skipped, with what to install.
"""

import base64
import email.utils
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from obstore.store import AzureStore, S3Store

ROOT = Path(__file__).parent.parent.parent
SERVERS = ROOT / "scripts/servers"
AZURE_ACCOUNT = "devstoreaccount1"
# Azurite's own, published and the same everywhere.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CLIENT = {"allow_http": True}

MakePlace = Callable[[str], Any]


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _signature(key: bytes, text: str, algorithm: str) -> str:
    return base64.b64encode(hmac.new(key, text.encode(), algorithm).digest()).decode()


@contextmanager
def s3_server(folder: Path) -> Iterator[MakePlace]:
    """Start Ceph's RGW; give a function that makes a bucket and returns its obstore store."""
    missing = [tool for tool in ("ceph-mon", "ceph-osd", "radosgw", "curl") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"no S3 server: {', '.join(missing)} missing (apt-get install ceph-mon ceph-osd radosgw)")
    port = free_port()
    environment = os.environ | {"STORE": os.environ.get("STORE", "memstore")}
    script = SERVERS / "ceph-s3.sh"
    started = subprocess.run(
        [script, "start", folder, str(port), str(free_port())],
        env=environment,
        capture_output=True,
        text=True,
    )

    def make(name: str) -> S3Store:
        url = f"http://127.0.0.1:{port}"
        date = email.utils.formatdate(usegmt=True)
        signature = _signature(b"testsecret", f"PUT\n\n\n{date}\n/{name}", "sha1")
        headers = {"Date": date, "Authorization": f"AWS test:{signature}"}
        httpx.put(f"{url}/{name}", headers=headers).raise_for_status()
        return S3Store(
            name,
            endpoint=url,
            access_key_id="test",
            secret_access_key="testsecret",
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options=CLIENT,
        )

    try:
        assert started.returncode == 0, started.stderr
        yield make
    finally:
        subprocess.run([script, "stop", folder], capture_output=True)


@contextmanager
def azure_server(folder: Path) -> Iterator[MakePlace]:
    """Start Azurite; give a function that makes a container and returns its obstore store."""
    home = Path(os.environ.get("AZURITE", ROOT / ".cache/azurite"))
    if not shutil.which("node") or not (home / "node_modules/azurite").is_dir():
        pytest.skip(f"no Azure Blob server: npm install azurite in {home} (or AZURITE=folder)")
    port = free_port()
    script = SERVERS / "azurite.sh"
    environment = os.environ | {"AZURITE": str(home)}
    started = subprocess.run(
        [script, "start", folder, str(port)], env=environment, capture_output=True, text=True
    )

    def make(name: str) -> AzureStore:
        url = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
        date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
        text = f"PUT{chr(10) * 12}x-ms-date:{date}\nx-ms-version:{version}\n"
        text += f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}\nrestype:container"
        signature = _signature(base64.b64decode(AZURE_KEY), text, hashlib.sha256().name)
        headers = {"x-ms-date": date, "x-ms-version": version}
        headers["Authorization"] = f"SharedKey {AZURE_ACCOUNT}:{signature}"
        httpx.put(f"{url}/{name}?restype=container", headers=headers).raise_for_status()
        return AzureStore(
            name, account_name=AZURE_ACCOUNT, account_key=AZURE_KEY, endpoint=url, client_options=CLIENT
        )

    try:
        assert started.returncode == 0, started.stderr
        yield make
    finally:
        subprocess.run([script, "stop", folder], capture_output=True)
