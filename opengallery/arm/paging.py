"""Paging: how long a page of a list is, where it begins, and the link to the next one."""

import base64
import binascii
from urllib.parse import quote, urlencode

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError


def page_size(call: Call) -> int:
    """How many a page holds: the settings' limit, or less by `$top`. Raises 400 for a `$top` that is no number."""
    limit = call.services.settings.page_size
    top = call.option("$top")
    if top is None:
        return limit
    if not (top.isascii() and top.isdigit()) or len(top) > 9 or int(top) == 0:
        raise ArmError("InvalidParameter", f"$top is '{top}'. Give a number from 1 on.", target="$top")
    return min(int(top), limit)


def after(call: Call) -> str:
    """The key of the last resource of the page before, by `$skiptoken`; empty on the first page."""
    return read_token(call.option("$skiptoken"))


def read_token(text: str | None) -> str:
    """The key in a token of ours; empty for none. Raises 400 for another text."""
    if not text:
        return ""
    try:
        key = base64.b64decode(text.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        key = ""
    if not key.isprintable() or not key.startswith("/"):
        raise ArmError(
            "InvalidSkipToken", "The $skiptoken is none of ours. Start again without it.", target="$skiptoken"
        )
    return key


def token(key: str) -> str:
    """The token of the page after the one that ends with `key`."""
    return base64.urlsafe_b64encode(key.encode()).decode()


def next_link(call: Call, path: str, last: str) -> str:
    """The URL of the page after the one that ends with the key `last`, of the list at `path`."""
    query = {name: value for name, value in call.query.items() if name.lower() != "$skiptoken"}
    query["$skiptoken"] = token(last)
    return f"{call.base_url}{quote(path)}?{urlencode(query, safe='$')}"
