"""The certificate that the server shows: one of our own authority, or that of the settings' files.

Either is kept as `shown.pem` and `shown-key.pem` in DIR/identity, which only ever hold a pair that belongs
together and that the server can show: so files that are replaced one after the other, or that are broken,
change nothing until they are right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from opengallery.database import now
from opengallery.identity.certificate import CertificateFiles, ensure_certificate
from opengallery.identity.folder import IdentityFolder
from opengallery.settings import Settings, SettingsError

SHOWN = "shown.pem"
SHOWN_KEY = "shown-key.pem"
RSA_BITS = range(2048, 8193)
FILE_SIZE_MAX_BYTES = 1024 * 1024

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """Where the pair lies that the server shows, and when its certificate ends."""

    certificate: Path
    key: Path
    ends_at: datetime


class CertificateSource:
    """Follows where the certificate comes from."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = now) -> None:
        """Read as the settings say; touches nothing."""
        self._settings = settings
        self._clock = clock
        self._folder = IdentityFolder(settings.data)
        self._refused: tuple[bytes, bytes] | None = None

    def first(self) -> ShownCertificate:
        """The pair to begin with. Raises `SettingsError` when there is none that can be shown."""
        files = self._ensure_own()
        try:
            content = self._read(files)
            ends_at = checked(*content, self._clock())
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The certificate can't be used: {error} Look at [tls] in the settings."
            ) from error
        return self._show(content, ends_at)

    def renewed(self) -> ShownCertificate | None:
        """The pair to show from now on, if it is another one; files that can't be used change nothing."""
        content = (b"", b"")
        try:
            content = self._read(self._ensure_own())
            normal = normalised(*content)
            if (self._folder.read(SHOWN), self._folder.read(SHOWN_KEY)) == normal:
                return None
            ends_at = checked(*content, self._clock())
        except (OSError, ValueError) as error:
            if content != self._refused:
                log.warning("the new certificate can't be used: the old one stays", reason=str(error))
            self._refused = content
            return None
        log.info("the certificate was renewed", ends_at=ends_at.isoformat())
        return self._show(content, ends_at)

    def _ensure_own(self) -> CertificateFiles:
        return ensure_certificate(
            self._settings.data, self._clock(), Path(self._settings.tls.ca) if self._settings.tls.ca else None
        )

    def _read(self, own: CertificateFiles) -> tuple[bytes, bytes]:
        """Certificate and key as their files hold them. Raises `OSError` and `ValueError`."""
        tls = self._settings.tls
        places = (own.certificate, own.key)
        if tls.certificate and tls.key:
            places = (Path(tls.certificate), Path(tls.key))
        certificate, key = (_read_bounded(place) for place in places)
        return certificate, key

    def _show(self, content: tuple[bytes, bytes], ends_at: datetime) -> ShownCertificate:
        certificate, key = normalised(*content)
        return ShownCertificate(
            self._folder.write(SHOWN, certificate), self._folder.write(SHOWN_KEY, key), ends_at
        )


def checked(certificate: bytes, key: bytes, moment: datetime) -> datetime:
    """When the certificate ends. Raises `ValueError` that says why the pair can't be shown."""
    chain = x509.load_pem_x509_certificates(certificate)
    private = _private_key(key)
    if chain[0].public_key() != private.public_key():
        raise ValueError("The key is not that of the (first) certificate.")
    if not chain[0].not_valid_before_utc <= moment < chain[0].not_valid_after_utc:
        raise ValueError("The certificate has ended or doesn't hold yet.")
    return chain[0].not_valid_after_utc


def normalised(certificate: bytes, key: bytes) -> tuple[bytes, bytes]:
    """The chain and its key in one plain form: OpenSSL and the server's TLS read more forms than they share."""
    chain = x509.load_pem_x509_certificates(certificate)
    pem = serialization.Encoding.PEM
    plain = _private_key(key).private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return b"".join(entry.public_bytes(pem) for entry in chain), plain


PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def _private_key(content: bytes) -> PrivateKey:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise ValueError("The key is encrypted. Give one without a password, mode 0600.") from None
    is_known = (
        (isinstance(key, rsa.RSAPrivateKey) and key.key_size in RSA_BITS)
        or (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in ("secp256r1", "secp384r1"))
        or isinstance(key, ed25519.Ed25519PrivateKey)
    )
    if not is_known:
        raise ValueError("The key is none of RSA (2048 bits or more), P-256, P-384, Ed25519.")
    assert isinstance(key, PrivateKey)
    return key


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(FILE_SIZE_MAX_BYTES + 1)
    if len(content) > FILE_SIZE_MAX_BYTES:
        raise ValueError(f"{path} is larger than a certificate.")
    return content
