"""The server's certificate, and the authority of our own that signs it.

The authority is made at the first start and kept; the certificate is renewed when less than 30 days of
it are left, by the running server too. A year before the authority ends it gets another certificate for
its old key and name, so that what it signed holds for those who trust the new one and for those who
trust the old. Both satisfy OpenSSL's strict checks, which Python 3.13 turned on by default.
`ca-bundle.pem` holds our authority and those of the system, for variables such as REQUESTS_CA_BUNDLE,
which replace what a program trusts and must not cut it off from the rest of the world.
Source: RFC 5280; RFC 6125.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from opengallery.database import now
from opengallery.identity.folder import PUBLIC, IdentityFolder

HOST_NAMES = ("localhost",)
ADDRESSES = ("127.0.0.1", "::1")
AUTHORITY_LIFETIME = timedelta(days=30 * 365)
CERTIFICATE_LIFETIME = timedelta(days=825)
AUTHORITY_RENEW_BEFORE = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
BACKDATED = timedelta(hours=1)  # for clients whose clock is slow

CA = "ca.pem"
CA_KEY = "ca-key.pem"
BUNDLE = "ca-bundle.pem"
SERVER = "server.pem"
SERVER_KEY = "server-key.pem"
SYSTEM_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where certificates and key lie: what the server shows, and what clients trust."""

    certificate: Path
    key: Path
    ca: Path
    ca_bundle: Path


def ensure_certificate(
    data: Path, moment: datetime | None = None, also_trusted: Path | None = None
) -> CertificateFiles:
    """Make or renew what is missing or nearly over at `moment` (now) in DIR `data`, and say where it lies.

    The authorities in the file `also_trusted` are put into the bundle, too.
    """
    moment = moment or now()
    folder = IdentityFolder(data)
    with folder.locked():
        authority, authority_key = _ensure_authority(folder, moment)
        if not _is_usable(folder, authority, moment):
            _make_server_certificate(folder, authority, authority_key, moment)
        bundle = _pem(authority)
        if also_trusted is not None:
            bundle += also_trusted.read_bytes()
        if SYSTEM_AUTHORITIES.exists():
            bundle += SYSTEM_AUTHORITIES.read_bytes()
        if folder.read(BUNDLE) != bundle:
            folder.write(BUNDLE, bundle, PUBLIC)
    return certificate_files(data)


def certificate_files(data: Path) -> CertificateFiles:
    """Where the files of DIR `data` lie, whether they exist or not."""
    path = IdentityFolder(data).path
    return CertificateFiles(path / SERVER, path / SERVER_KEY, path / CA, path / BUNDLE)


def _ensure_authority(
    folder: IdentityFolder, moment: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    # The key is written first, so a certificate without a key can't be there.
    key = _read_key(folder, CA_KEY) or _make_key(folder, CA_KEY)
    content = folder.read(CA)
    known = x509.load_pem_x509_certificate(content) if content else None
    if known is not None and known.public_key() != key.public_key():
        known = None
    if known is not None and known.not_valid_after_utc - moment >= AUTHORITY_RENEW_BEFORE:
        return known, key
    name = (
        known.subject
        if known is not None
        else x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Open Gallery"),
                # Two galleries' authorities in one bundle must not be taken for each other.
                x509.NameAttribute(
                    NameOID.COMMON_NAME, f"Open Gallery CA {x509.random_serial_number():x}"[:48]
                ),
            ]
        )
    )
    builder = _builder(name, name, key.public_key(), moment, AUTHORITY_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    certificate = builder.sign(key, hashes.SHA256())
    folder.write(CA, _pem(certificate), PUBLIC)
    return certificate, key


def _make_server_certificate(
    folder: IdentityFolder,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    moment: datetime,
) -> None:
    key = _make_key(folder, SERVER_KEY)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST_NAMES[0])])
    builder = _builder(name, authority.subject, key.public_key(), moment, CERTIFICATE_LIFETIME)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(digital_signature=True), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_names()), critical=False)
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    )
    identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
    )
    folder.write(SERVER, _pem(builder.sign(authority_key, hashes.SHA256())), PUBLIC)


def _is_usable(folder: IdentityFolder, authority: x509.Certificate, moment: datetime) -> bool:
    """Whether key and certificate are there, belong together, fit our names, and last long enough."""
    content, key = folder.read(SERVER), _read_key(folder, SERVER_KEY)
    if content is None or key is None:
        return False
    certificate = x509.load_pem_x509_certificate(content)
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # cryptography raises InvalidSignature, ValueError or TypeError: all mean no
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        certificate.public_key() == key.public_key()
        and list(names) == _names()
        and certificate.not_valid_after_utc - moment >= RENEW_BEFORE
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    moment: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    start = moment - BACKDATED
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=start + lifetime,
    )


def _names() -> list[x509.GeneralName]:
    return [
        *(x509.DNSName(name) for name in HOST_NAMES),
        *(x509.IPAddress(ip_address(address)) for address in ADDRESSES),
    ]


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _make_key(folder: IdentityFolder, name: str) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    private = serialization.PrivateFormat.PKCS8
    folder.write(name, key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    return key


def _read_key(folder: IdentityFolder, name: str) -> ec.EllipticCurvePrivateKey | None:
    content = folder.read(name)
    if content is None:
        return None
    key = serialization.load_pem_private_key(content, password=None)
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
