"""Grants: reads that need no second look, because one that differs only in its range was answered before.

A machine says the same head again and again. What was found out about it is kept under its bytes.
"""

import re
from typing import NamedTuple

from opengallery.replica_server.warming import Replica

RANGE_LINE = re.compile(rb"\r\nRange: bytes=(\d{1,19})-(\d{1,19})\r\n")
MAX_HEAD_BYTES = 2048
GRANTS = 4096


class Grant(NamedTuple):
    """Who may read what until when. `cookie` names the machine; `image` is what `CheckedBytes` knows it by."""

    replica: Replica
    image: tuple[str, str]
    size_bytes: int
    expires_at_s: int
    cookie: str
    is_kept: bool


class Grants:
    """The grants of the heads that were seen."""

    def __init__(self) -> None:
        """Know none yet."""
        self._grants: dict[tuple[bytes, bytes], Grant] = {}

    def add(self, head: bytes, grant: Grant) -> None:
        """Keep what was found out about a whole head, if it has one plain range."""
        found = RANGE_LINE.search(head)
        if found is None or len(head) > MAX_HEAD_BYTES:
            return
        if len(self._grants) >= GRANTS:
            self._grants.clear()
        first, end = found.span()
        self._grants[head[:first], head[end:]] = grant

    def find(self, received: bytes, now_s: float) -> tuple[Grant, int, int] | None:
        """The grant of just one whole head, and first byte and end of its range; None for anything else."""
        found = RANGE_LINE.search(received)
        if found is None:
            return None
        first, end = found.span()
        grant = self._grants.get((received[:first], received[end:]))
        if grant is None or now_s >= grant.expires_at_s:
            return None
        first, end = int(found[1]), min(int(found[2]) + 1, grant.size_bytes)
        return (grant, first, end) if first < end else None
