"""Credentials of applications: client secrets and certificates, made, listed and taken away.

A secret's text is shown by whoever makes it, once; here only its hash comes in.
Source: Microsoft Graph REST API v1.0, passwordCredential and keyCredential.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, delete, func, insert, select

from opengallery.database import now
from opengallery.identity.applications import ClientCertificate, client_certificates, client_secrets
from opengallery.identity.directory import as_id
from opengallery.identity.directory_errors import InvalidValue, TooMany

# At a sign-in a secret is compared with each of its application's, tens of milliseconds each.
SECRETS_MAX = 10
CERTIFICATES_MAX = 20
CERTIFICATE_LENGTH_MAX = 32 * 1024
KEY_BITS_MIN = 2048
KEY_BITS_MAX = 8192
LIFETIME = timedelta(days=365)
LATEST = datetime(2299, 12, 31, tzinfo=UTC)
CLOCKS_APART_MAX = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class KeptSecret:
    """What can be shown of a client secret. `hint` is its first letters."""

    key_id: str
    hint: str | None
    display_name: str | None
    starts_at: datetime | None
    expires_at: datetime | None


def add_secret(
    connection: Connection,
    app_id: str,
    secret_hash: str,
    hint: str,
    display_name: str | None = None,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> KeptSecret:
    """Add a secret, which expires after a year unless told otherwise. Raises `InvalidValue`, `TooMany`."""
    count = select(func.count()).select_from(client_secrets).where(client_secrets.c.app_id == app_id)
    if (connection.scalar(count) or 0) >= SECRETS_MAX:
        raise TooMany(f"An application has at most {SECRETS_MAX} secrets. Remove one first.")
    starts_at = starts_at or now()
    expires_at = expires_at or starts_at + LIFETIME
    if starts_at > now() + CLOCKS_APART_MAX:
        raise InvalidValue("startDateTime", "A secret works at once; leave startDateTime out.")
    if not now() < expires_at <= LATEST or expires_at <= starts_at:
        raise InvalidValue(
            "endDateTime", f"Give a time that is to come, {LATEST.year} at the latest, after startDateTime."
        )
    kept = KeptSecret(str(uuid4()), hint, display_name, starts_at, expires_at)
    row = {
        "app_id": app_id,
        "key_id": kept.key_id,
        "hash": secret_hash,
        "hint": hint,
        "display_name": display_name,
        "starts_at": starts_at,
        "expires_at": expires_at,
    }
    connection.execute(insert(client_secrets).values(row))
    return kept


def remove_secret(connection: Connection, app_id: str, key_id: str) -> bool:
    """Take a secret away. Returns whether it was there."""
    done = connection.execute(
        delete(client_secrets).where(
            client_secrets.c.app_id == app_id, client_secrets.c.key_id == as_id(key_id)
        )
    )
    return done.rowcount > 0


def list_secrets(connection: Connection, app_ids: Iterable[str]) -> dict[str, list[KeptSecret]]:
    """The secrets of each of these applications, the newest first."""
    wanted = list(app_ids)
    query = (
        select(client_secrets)
        .where(client_secrets.c.app_id.in_(wanted))
        .order_by(client_secrets.c.starts_at.desc(), client_secrets.c.key_id)
    )
    found: dict[str, list[KeptSecret]] = {app_id: [] for app_id in wanted}
    for row in connection.execute(query):
        kept = KeptSecret(row.key_id, row.hint, row.display_name, row.starts_at, row.expires_at)
        found[row.app_id].append(kept)
    return found


def list_certificates(connection: Connection, app_ids: Iterable[str]) -> dict[str, list[ClientCertificate]]:
    """The certificates of each of these applications, the newest first."""
    wanted = list(app_ids)
    query = (
        select(client_certificates)
        .where(client_certificates.c.app_id.in_(wanted))
        .order_by(client_certificates.c.starts_at.desc(), client_certificates.c.key_id)
    )
    found: dict[str, list[ClientCertificate]] = {app_id: [] for app_id in wanted}
    for row in connection.execute(query):
        found[row.app_id].append(
            ClientCertificate(
                row.key_id, row.thumbprint, row.pem, row.starts_at, row.expires_at, row.display_name
            )
        )
    return found


def set_certificates(connection: Connection, app_id: str, certificates: list[ClientCertificate]) -> None:
    """Give an application these certificates and no others. Raises `TooMany`, `InvalidValue`."""
    if len(certificates) > CERTIFICATES_MAX:
        raise TooMany(f"An application has at most {CERTIFICATES_MAX} certificates. Leave some out.")
    if len({entry.key_id for entry in certificates}) < len(certificates):
        raise InvalidValue("keyCredentials", "Two of them have the same keyId.")
    connection.execute(delete(client_certificates).where(client_certificates.c.app_id == app_id))
    rows = [
        {
            "app_id": app_id,
            "key_id": entry.key_id,
            "thumbprint": entry.thumbprint,
            "pem": entry.pem,
            "display_name": entry.display_name,
            "starts_at": entry.starts_at,
            "expires_at": entry.expires_at,
        }
        for entry in certificates
    ]
    if rows:
        connection.execute(insert(client_certificates), rows)


def read_certificate(
    text: str,
    key_id: str | None = None,
    display_name: str | None = None,
    starts_at: datetime | None = None,
    expires_at: datetime | None = None,
) -> ClientCertificate:
    """Read a certificate, base64 of its DER or PEM form; it counts while its own dates and those given do.

    Raises `InvalidValue`.
    """
    certificate = _parse(text)
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey) or not KEY_BITS_MIN <= key.key_size <= KEY_BITS_MAX:
        raise InvalidValue(
            "keyCredentials", f"Use a certificate with an RSA key of {KEY_BITS_MIN} to {KEY_BITS_MAX} bits."
        )
    earliest, latest = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    starts_at, expires_at = max(starts_at or earliest, earliest), min(expires_at or latest, latest)
    if expires_at <= max(now(), starts_at):
        raise InvalidValue("keyCredentials", "The certificate has expired, or would before it begins.")
    return ClientCertificate(
        key_id or str(uuid4()),
        certificate.fingerprint(SHA256()).hex(),
        certificate.public_bytes(Encoding.PEM).decode(),
        starts_at,
        expires_at,
        display_name,
    )


def _parse(text: str) -> x509.Certificate:
    if len(text) > CERTIFICATE_LENGTH_MAX:
        raise InvalidValue("keyCredentials", f"A key has at most {CERTIFICATE_LENGTH_MAX} characters.")
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
        if content.startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except (binascii.Error, ValueError) as error:
        raise InvalidValue("keyCredentials", "The key is no base64 of an X.509 certificate.") from error
