"""The cookie that lets one machine read one replica until a moment: `replica=<machine>.<expiry>.<hmac>`.

It stands in a header, so it stands in no argument list and in no access log.
"""

import hashlib
import hmac
import re
from functools import lru_cache

NAME = "replica"
MACHINE = re.compile(r"[A-Za-z0-9._~:/-]{1,1024}")


def sign(key: bytes, machine: str, store: str, tenant_id: str, image_id: str, expires_at_s: int) -> str:
    """The cookie, name and value. `expires_at_s` is in seconds since the epoch.

    Raises `ValueError` for a machine that a cookie can't carry.
    """
    if not MACHINE.fullmatch(machine):
        raise ValueError(f"Machine id '{machine}' can't stand in a cookie.")
    signature = _signature(key, machine, store, tenant_id, image_id, str(expires_at_s))
    return f"{NAME}={machine}.{expires_at_s}.{signature}"


# A machine shows the same cookie at every read.
@lru_cache(4096)
def expires_at_s(key: bytes, header: str, store: str, tenant_id: str, image_id: str) -> int:
    """When the last of a Cookie header's signatures for this replica expires; 0 when there is none."""
    latest_s = 0
    for cookie in header.split(";"):
        name, _, value = cookie.strip().partition("=")
        machine, _, rest = value.rpartition(".")
        machine, _, expiry = machine.rpartition(".")
        if name != NAME or not expiry.isascii() or not expiry.isdecimal() or len(expiry) > 12:
            continue
        expected = _signature(key, machine, store, tenant_id, image_id, expiry)
        if hmac.compare_digest(expected.encode(), rest.encode()):
            latest_s = max(latest_s, int(expiry))
    return latest_s


def _signature(key: bytes, *parts: str) -> str:
    # The first part keeps it apart from what else is signed with this key.
    return hmac.new(key, "\n".join((NAME, *parts)).encode(), hashlib.sha256).hexdigest()
