"""Signed URLs of a disk's bytes, in the form of the Blob service's shared access signatures.

A signature is bound to one object (its id in the path), its rights and its end, under a key of that grant alone:
taking the key away ends the URL. The order of the parameters doesn't matter; one that is given twice is
refused, as two readers could take two values for it. The host is no part of the object: TLS vouches for it.
Source: Azure Storage, service SAS (`sv`, `sr`, `sp`, `se`, `sig`).
"""

import base64
import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from urllib.parse import urlencode

from starlette.requests import Request

from opengallery.database import now

VERSION = "2021-12-02"
BLOB = "disk.vhd"
END_FORM = "%Y-%m-%dT%H:%M:%SZ"
_NO_KEY = "00" * 32


def new_key() -> str:
    """A key that signs the URLs of one grant."""
    return secrets.token_hex(32)


def signed_url(base_url: str, folder: str, object_id: str, key: str, rights: str, until: datetime) -> str:
    """The URL that allows `rights` on one object, `/folder/object_id`, until a time."""
    end = until.astimezone(UTC).strftime(END_FORM)
    query = {"sv": VERSION, "sr": "b", "sp": rights, "se": end}
    query["sig"] = _signature(key, object_id, rights, end)
    return f"{base_url}/{folder}/{object_id}/{BLOB}?{urlencode(query)}"


def allows(request: Request, object_id: str, key: str | None, right: str) -> bool:
    """Whether the request's URL is signed with `key` for this object and right, and its time isn't over.

    `key` is `None` for an object that isn't there or has no grant.
    """
    query = request.query_params
    rights, end = query.get("sp", ""), query.get("se", "")
    expected = _signature(key or _NO_KEY, object_id, rights, end)
    is_right = hmac.compare_digest(expected.encode(), query.get("sig", "").encode())
    if not is_right or key is None:
        return False
    names = [name.lower() for name, _ in query.multi_items()]
    if len(names) != len(set(names)) or request.path_params.get("blob") != BLOB or right not in rights:
        return False
    # It is right, so it was written by `signed_url`.
    return datetime.strptime(end, END_FORM).replace(tzinfo=UTC) > now()


def _signature(key: str, object_id: str, rights: str, end: str) -> str:
    text = "\n".join((object_id, rights, end)).encode()
    return base64.b64encode(hmac.new(bytes.fromhex(key), text, hashlib.sha256).digest()).decode()
