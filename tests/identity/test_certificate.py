"""Certificates: strict clients accept them, they are renewed in time, their keys stay private."""

import socket
import ssl
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from opengallery.database import now
from opengallery.identity import certificate
from opengallery.identity.certificate import CertificateFiles, ensure_certificate


def _not_after(files: CertificateFiles) -> object:
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).not_valid_after_utc


def _handshake(files: CertificateFiles, trusted: Path, name: str) -> str | None:
    """Connect as a client as strict as Python 3.13, and return the protocol version."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(trusted))
    client.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_accepts_the_certificate(tmp_path: Path, name: str) -> None:
    files = ensure_certificate(tmp_path)
    assert _handshake(files, files.ca, name) == "TLSv1.3"
    assert _handshake(files, files.ca_bundle, name) == "TLSv1.3"


def test_other_names_and_other_authorities_are_refused(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path / "one")
    other = ensure_certificate(tmp_path / "two")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(files, files.ca, "gallery.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(files, other.ca, "localhost")


def test_keys_are_private_and_certificates_are_not(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files.ca.parent.iterdir()}
    assert modes == {
        "ca.pem": 0o644,
        "ca-bundle.pem": 0o644,
        "server.pem": 0o644,
        "ca-key.pem": 0o600,
        "server-key.pem": 0o600,
        "lock": 0o600,
    }
    assert stat.S_IMODE(files.ca.parent.stat().st_mode) == 0o700


def test_a_second_start_keeps_everything(tmp_path: Path) -> None:
    files = ensure_certificate(tmp_path)
    before = {path.name: path.read_bytes() for path in files.ca.parent.iterdir()}
    ensure_certificate(tmp_path)
    assert {path.name: path.read_bytes() for path in files.ca.parent.iterdir()} == before


def test_a_certificate_is_renewed_when_its_end_is_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ensure_certificate(tmp_path)
    authority, first = files.ca.read_bytes(), _not_after(files)
    later = now() + certificate.CERTIFICATE_LIFETIME - timedelta(days=31)
    monkeypatch.setattr(certificate, "now", lambda: later)
    ensure_certificate(tmp_path)
    assert _not_after(files) == first
    monkeypatch.setattr(certificate, "now", lambda: later + timedelta(days=2))
    ensure_certificate(tmp_path)
    assert _not_after(files) != first
    assert files.ca.read_bytes() == authority


@pytest.mark.parametrize("lost", ["server.pem", "server-key.pem", "ca.pem", "ca-key.pem", "ca-bundle.pem"])
def test_a_lost_file_is_made_again(tmp_path: Path, lost: str) -> None:
    files = ensure_certificate(tmp_path)
    (files.ca.parent / lost).unlink()
    ensure_certificate(tmp_path)
    assert _handshake(files, files.ca_bundle, "localhost")


def test_the_bundle_keeps_the_system_s_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = ensure_certificate(tmp_path / "system").ca
    monkeypatch.setattr(certificate, "SYSTEM_AUTHORITIES", system)
    files = ensure_certificate(tmp_path / "gallery")
    bundle = x509.load_pem_x509_certificates(files.ca_bundle.read_bytes())
    known = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (files.ca, system)]
    assert bundle == known
    monkeypatch.setattr(certificate, "SYSTEM_AUTHORITIES", tmp_path / "nothing")
    ensure_certificate(tmp_path / "gallery")
    assert files.ca_bundle.read_bytes() == files.ca.read_bytes()
