"""Credentials of applications and service principals: addPassword, removePassword, keyCredentials.

An application and its service principal have the same credentials here. The answer to addPassword is
the only one that ever holds a secret's text.
Source: Microsoft Graph REST API v1.0, application: addPassword, removePassword; keyCredential.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from opengallery.identity.applications import ClientCertificate
from opengallery.identity.client_secrets import generate_secret, hash_secret
from opengallery.identity.credentials import (
    CERTIFICATES_MAX,
    add_secret,
    list_certificates,
    read_certificate,
    remove_secret,
    set_certificates,
)
from opengallery.identity.directory import as_id
from opengallery.identity.directory_errors import InvalidValue
from opengallery.identity.graph.call import NOTHING, Answer, GraphCall, Right
from opengallery.identity.graph.changes import read_time, refuse_unknown
from opengallery.identity.graph.errors import GraphError, bad_request
from opengallery.identity.graph.objects import show_certificate, show_secret
from opengallery.identity.graph.operation import Operation
from opengallery.identity.graph.query import Shown, selected
from opengallery.identity.properties import Text

NAME = Text(256)
PASSWORD_MEMBERS = {
    "customKeyIdentifier", "displayName", "endDateTime", "hint", "keyId", "secretText", "startDateTime",
}  # fmt: skip
KEY_MEMBERS = {
    "customKeyIdentifier", "displayName", "endDateTime", "key", "keyId", "startDateTime", "type", "usage",
}  # fmt: skip


def credential_operations(one: str, find_app_id: Callable[[GraphCall], str], right: Right) -> list[Operation]:
    """addPassword and removePassword below the path `one`, of the application that `find_app_id` finds."""
    return [
        Operation(
            "POST",
            f"{one}/addPassword",
            lambda call: _add_password(call, find_app_id(call)),
            right,
            _prepare_secret,
        ),
        Operation(
            "POST", f"{one}/removePassword", lambda call: _remove_password(call, find_app_id(call)), right
        ),
    ]


def with_keys(call: GraphCall, shown: Shown, app_id: str) -> Shown:
    """What is shown, with the certificates' public keys when `$select` asks for `keyCredentials`."""
    if "keycredentials" in {name.lower() for name in selected(call) or ()}:
        kept = list_certificates(call.connection, [app_id])[app_id]
        shown["keyCredentials"] = [show_certificate(entry, with_key=True) for entry in kept]
    return shown


def _prepare_secret(_call: GraphCall) -> tuple[str, str]:
    """A new secret and its hash."""
    secret = generate_secret()
    return secret, hash_secret(secret)


def _add_password(call: GraphCall, app_id: str) -> Answer:
    """Add a secret with the name and the dates of the body, and show it this once."""
    asked = call.body.get("passwordCredential", {}) or {}
    if not isinstance(asked, dict):
        raise bad_request("Give passwordCredential as an object.")
    refuse_unknown(asked, PASSWORD_MEMBERS)
    if asked.get("secretText"):
        raise bad_request("A secret can't be chosen. Leave secretText out: the answer tells the new one.")
    secret, secret_hash = call.prepared
    kept = add_secret(
        call.connection,
        app_id,
        secret_hash,
        secret[:3],
        _name(asked),
        read_time("startDateTime", asked.get("startDateTime")),
        read_time("endDateTime", asked.get("endDateTime")),
    )
    content = {"@odata.context": call.context("microsoft.graph.passwordCredential")}
    return Answer({**content, **show_secret(kept, secret)})


def _remove_password(call: GraphCall, app_id: str) -> Answer:
    """Take the secret away that the body names by `keyId`."""
    key_id = call.text("keyId")
    if not as_id(key_id) or not remove_secret(call.connection, app_id, key_id):
        raise GraphError(
            400,
            "Request_BadRequest",
            "No password credential found with this keyId. List them to see which are.",
        )
    return NOTHING


def replace_certificates(call: GraphCall, app_id: str, entries: Any) -> None:
    """Give an application the certificates of a `keyCredentials`, and no others.

    An entry without `key` keeps the certificate with its `keyId`, as readers never see the keys.
    """
    if not isinstance(entries, list) or len(entries) > CERTIFICATES_MAX:
        raise InvalidValue("keyCredentials", f"Give a list of at most {CERTIFICATES_MAX}.")
    known = {entry.key_id: entry for entry in list_certificates(call.connection, [app_id])[app_id]}
    set_certificates(call.connection, app_id, [_certificate(entry, known) for entry in entries])


def _certificate(entry: Any, known: Mapping[str, ClientCertificate]) -> ClientCertificate:
    if not isinstance(entry, dict):
        raise InvalidValue("keyCredentials", "Give objects with 'type', 'usage' and 'key'.")
    refuse_unknown(entry, KEY_MEMBERS)
    given = entry.get("keyId")
    key_id = as_id(given) if isinstance(given, str) else ""
    if given is not None and not key_id:
        raise InvalidValue("keyCredentials", "A keyId is a UUID.")
    if entry.get("key") is None:
        if key_id not in known:
            raise InvalidValue("keyCredentials", "A new entry needs its certificate in 'key'.")
        return known[key_id]
    if entry.get("type") != "AsymmetricX509Cert" or entry.get("usage") != "Verify":
        raise InvalidValue("keyCredentials", "Only type 'AsymmetricX509Cert' with usage 'Verify' is known.")
    if not isinstance(entry["key"], str):
        raise InvalidValue("keyCredentials", "The key is a certificate in base64.")
    starts_at, expires_at = _times(entry)
    return read_certificate(entry["key"], key_id or None, _name(entry), starts_at, expires_at)


def _times(entry: Mapping[str, Any]) -> tuple[datetime | None, datetime | None]:
    return (
        read_time("startDateTime", entry.get("startDateTime")),
        read_time("endDateTime", entry.get("endDateTime")),
    )


def _name(entry: Mapping[str, Any]) -> str | None:
    value = entry.get("displayName")
    return None if value is None else NAME.check("displayName", value)
