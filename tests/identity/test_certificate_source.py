"""The certificate that the server shows: renewed before it ends, and reread when its files change."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from opengallery.database import now
from opengallery.identity.certificate import (
    AUTHORITY_LIFETIME,
    AUTHORITY_RENEW_BEFORE,
    CERTIFICATE_LIFETIME,
    RENEW_BEFORE,
    ensure_certificate,
)
from opengallery.identity.certificate_source import CertificateSource
from opengallery.settings import Settings, SettingsError, TlsSettings


class Moment:
    """A clock of days that tests put forward."""

    def __init__(self) -> None:
        self.now = now()

    def __call__(self) -> datetime:
        return self.now


def pair(key: object = None, days: float = 10, begins: datetime | None = None) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begins = begins or now() - timedelta(hours=1)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), begins, begins + timedelta(days=days)
    ).sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def own(data: Path, moment: Moment) -> CertificateSource:
    return CertificateSource(Settings(data=data), moment)


def given(tmp_path: Path, moment: Moment, content: tuple[bytes, bytes]) -> CertificateSource:
    """A source that follows two files."""
    put(tmp_path, content)
    tls = TlsSettings(certificate=str(tmp_path / "given.pem"), key=str(tmp_path / "given-key.pem"))
    return CertificateSource(Settings(data=tmp_path / "data", tls=tls), moment)


def put(tmp_path: Path, content: tuple[bytes, bytes]) -> None:
    (tmp_path / "given.pem").write_bytes(content[0])
    (tmp_path / "given-key.pem").write_bytes(content[1])


def verified(authority: bytes, certificate: bytes, moment: datetime) -> None:
    """As a client checks it that trusts just this authority."""
    store = Store(x509.load_pem_x509_certificates(authority))
    verifier = PolicyBuilder().store(store).time(moment).build_server_verifier(x509.DNSName("localhost"))
    verifier.verify(x509.load_pem_x509_certificate(certificate), [])


def test_the_own_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    moment = Moment()
    source = own(tmp_path, moment)
    shown = source.first()
    first = shown.certificate.read_bytes()
    assert source.renewed() is None
    moment.now = shown.ends_at - RENEW_BEFORE - timedelta(days=1)
    assert source.renewed() is None
    moment.now += timedelta(days=2)
    renewed = source.renewed()
    assert renewed is not None
    assert renewed.ends_at - shown.ends_at >= CERTIFICATE_LIFETIME - 2 * RENEW_BEFORE
    assert renewed.certificate.read_bytes() != first
    assert renewed.key.stat().st_mode & 0o077 == 0
    verified((tmp_path / "identity/ca.pem").read_bytes(), renewed.certificate.read_bytes(), moment.now)
    assert source.renewed() is None


def test_the_own_authority_is_renewed_and_both_vouch_for_the_same_certificates(tmp_path: Path) -> None:
    moment = Moment()
    source = own(tmp_path, moment)
    source.first()
    old = (tmp_path / "identity/ca.pem").read_bytes()
    moment.now += AUTHORITY_LIFETIME - AUTHORITY_RENEW_BEFORE - timedelta(days=1)
    shown = source.renewed()
    assert shown is not None and (tmp_path / "identity/ca.pem").read_bytes() == old
    moment.now += timedelta(days=2)
    source.renewed()
    new = (tmp_path / "identity/ca.pem").read_bytes()
    assert new != old
    assert new in (tmp_path / "identity/ca-bundle.pem").read_bytes()
    # Who read the bundle long ago goes on, until the old authority ends.
    for authority in (old, new):
        verified(authority, shown.certificate.read_bytes(), moment.now)
    moment.now += AUTHORITY_RENEW_BEFORE + CERTIFICATE_LIFETIME
    later = source.renewed()
    assert later is not None
    verified(new, later.certificate.read_bytes(), moment.now)


def test_files_of_the_settings_are_reread_when_they_change(tmp_path: Path) -> None:
    one, two = pair(), pair()
    source = given(tmp_path, Moment(), one)
    assert source.first().certificate.read_bytes() == one[0]
    assert source.renewed() is None
    put(tmp_path, two)
    renewed = source.renewed()
    assert renewed is not None
    assert (renewed.certificate.read_bytes(), renewed.key.read_bytes()) == two


def test_half_replaced_files_change_nothing_until_they_belong_together(tmp_path: Path) -> None:
    one, two = pair(), pair()
    source = given(tmp_path, Moment(), one)
    shown = source.first()
    for half in ((two[0], one[1]), (one[0], two[1]), (two[0][:100], two[1]), (b"", b""), (two[0], b"x")):
        put(tmp_path, half)
        assert source.renewed() is None
        assert (shown.certificate.read_bytes(), shown.key.read_bytes()) == one
    (tmp_path / "given.pem").unlink()
    assert source.renewed() is None
    put(tmp_path, two)
    assert source.renewed() is not None


def test_a_certificate_that_has_ended_does_not_take_the_place_of_one_that_holds(tmp_path: Path) -> None:
    one = pair()
    source = given(tmp_path, Moment(), one)
    shown = source.first()
    for wrong in (pair(days=1, begins=now() - timedelta(days=2)), pair(begins=now() + timedelta(days=1))):
        put(tmp_path, wrong)
        assert source.renewed() is None
    assert shown.certificate.read_bytes() == one[0]


@pytest.mark.parametrize("kind", ["rsa", "p384", "ed25519"])
def test_each_usual_kind_of_key_can_be_shown(tmp_path: Path, kind: str) -> None:
    key = {
        "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    assert given(tmp_path, Moment(), pair(key)).first().ends_at > datetime.now(UTC)


@pytest.mark.parametrize("fault", ["weak", "curve", "encrypted", "other", "ended", "missing", "huge"])
def test_a_server_does_not_start_with_a_pair_that_it_can_not_show(tmp_path: Path, fault: str) -> None:
    good = pair()
    content = good
    if fault == "weak":
        content = pair(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    elif fault == "curve":
        content = pair(ec.generate_private_key(ec.SECP521R1()))
    elif fault == "encrypted":
        encryption = serialization.BestAvailableEncryption(b"password")
        key = serialization.load_pem_private_key(good[1], None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        content = (good[0], key)
    elif fault == "other":
        content = (good[0], pair()[1])
    elif fault == "ended":
        content = pair(days=1, begins=now() - timedelta(days=2))
    elif fault == "huge":
        content = (good[0] * 4000, good[1])
    source = given(tmp_path, Moment(), content)
    if fault == "missing":
        (tmp_path / "given-key.pem").unlink()
    with pytest.raises(SettingsError, match="certificate can't be used"):
        source.first()


def test_the_bundle_holds_the_authority_of_the_settings(tmp_path: Path) -> None:
    authority = pair()[0]
    (tmp_path / "company.pem").write_bytes(authority)
    files = ensure_certificate(tmp_path / "data", also_trusted=tmp_path / "company.pem")
    assert authority in files.ca_bundle.read_bytes()
    assert files.ca.read_bytes() in files.ca_bundle.read_bytes()
