"""A disk's pages at its upload or download URL: the part of Azure's page blob protocol that this needs.

Source: Put Page, Get Blob, Get Page Ranges (Azure Blob Storage REST API, version 2021-12-02).
"""

import base64
import hashlib
import re
from typing import TYPE_CHECKING

from opengallery.cli.failure import CommandFailed

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

VERSION = {"x-ms-version": "2021-12-02"}


class PageBlob:
    """A page blob at a signed URL. Safe to use from several threads."""

    def __init__(self, arm: "ArmClient", url: str) -> None:
        """`url` carries its own signature: no token is sent."""
        self._arm = arm
        self._url = url

    def put(self, offset: int, data: bytes) -> None:
        """Write pages; both numbers are multiples of 512, the data is 4 MiB at most."""
        headers = {
            **VERSION,
            "x-ms-page-write": "update",
            "Range": f"bytes={offset}-{offset + len(data) - 1}",
            "Content-Type": "application/octet-stream",
        }
        self._arm.send_signed("PUT", f"{self._url}&comp=page", content=data, headers=headers)

    def has(self, offset: int, data: bytes) -> bool:
        """Whether the server gives just these bytes back; False also where it gives none."""
        headers = {**VERSION, "Range": f"bytes={offset}-{offset + len(data) - 1}"}
        try:
            return self._arm.send_signed("GET", self._url, headers=headers).content == data
        except CommandFailed as failure:
            if failure.status in (400, 403, 416):
                return False
            raise

    def size_bytes(self) -> int:
        """The size of the blob."""
        response = self._arm.send_signed("HEAD", self._url, headers=VERSION)
        return int(response.headers["Content-Length"])

    def get(self, offset: int, length: int) -> bytes:
        """Read 4 MiB at most, compared with the MD5 that comes along. Raises `CommandFailed`."""
        headers = {
            **VERSION,
            "Range": f"bytes={offset}-{offset + length - 1}",
            "x-ms-range-get-content-md5": "true",
        }
        response = self._arm.send_signed("GET", self._url, headers=headers)
        digest = hashlib.md5(response.content, usedforsecurity=False).digest()
        if len(response.content) != length or base64.b64encode(digest).decode() != response.headers.get(
            "Content-MD5"
        ):
            raise CommandFailed(f"What came from byte {offset} is not what was sent. Try again.")
        return response.content

    def ranges(self) -> list[tuple[int, int]]:
        """Start and end (exclusive) of what was written already, ascending; [] if the server can't say."""
        found: list[tuple[int, int]] = []
        marker = ""
        while True:
            url = f"{self._url}&comp=pagelist" + (f"&marker={marker}" if marker else "")
            try:
                text = self._arm.send_signed("GET", url, headers=VERSION).text
            except CommandFailed as failure:
                if failure.status in (400, 404, 405, 501):
                    return []
                raise
            # The server's own, small answer; no need of an XML parser.
            for start, end in re.findall(r"<PageRange>\s*<Start>(\d+)</Start>\s*<End>(\d+)</End>", text):
                found.append((int(start), int(end) + 1))
            next_marker = re.search(r"<NextMarker>([^<]+)</NextMarker>", text)
            if not next_marker:
                return merged(found)
            marker = next_marker[1]


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending ranges, neighbours joined."""
    result: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def holds(ranges: list[tuple[int, int]], offset: int, length: int) -> bool:
    """Whether merged `ranges` hold all of these bytes."""
    from bisect import bisect_right

    at = bisect_right(ranges, (offset, 1 << 63)) - 1
    return at >= 0 and ranges[at][0] <= offset and offset + length <= ranges[at][1]
