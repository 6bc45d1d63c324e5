"""What azure-storage-blob does with the page blobs behind a disk's SAS URLs. Runs on az's own Python.

exercise_page_blob.py upload VHD SAS | download VHD SAS | refused SAS
"""

import contextlib
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, HttpResponseError  # type: ignore[import-not-found]
from azure.storage.blob import BlobClient  # type: ignore[import-not-found]

PIECE_BYTES = 1024 * 1024
BREAK_AFTER_BYTES = 5 * PIECE_BYTES


class BreakingForwarder:
    """Forwards TCP connections to a port, and cuts every one of them when enough has passed."""

    def __init__(self, port: int) -> None:
        self._target, self._left = port, BREAK_AFTER_BYTES
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near = self._listener.accept()[0]
            far = socket.create_connection(("127.0.0.1", self._target))
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                self._left -= len(content)
                if self._left < 0:
                    break
                target.sendall(content)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def pieces(content: bytes) -> list[tuple[int, bytes]]:
    """What is not zero, in pieces."""
    found = (
        (offset, content[offset : offset + PIECE_BYTES]) for offset in range(0, len(content), PIECE_BYTES)
    )
    return [(offset, piece) for offset, piece in found if piece.strip(b"\0")]


def write_all(blob: BlobClient, wanted: list[tuple[int, bytes]]) -> None:
    """Put Page, four at a time."""
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(lambda piece: blob.upload_page(piece[1], offset=piece[0], length=len(piece[1])), wanted)
        )


def held(blob: BlobClient) -> list[tuple[int, int]]:
    """Start and end of what is there."""
    return [(found.start, found.end + 1) for found in blob.list_page_ranges()]


def expect(status: int, action: object, *arguments: object, **options: object) -> None:
    """The call has to be refused with this status."""
    try:
        action(*arguments, **options)  # type: ignore[operator]
    except HttpResponseError as error:
        assert error.status_code == status, error
    else:
        raise AssertionError(f"{action} was not refused")


def upload(file: str, sas: str) -> None:
    content = Path(file).read_bytes()
    wanted = pieces(content)
    port = urlsplit(sas).port
    broken = BlobClient.from_blob_url(
        sas.replace(f":{port}/", f":{BreakingForwarder(port or 443).port}/"), retry_total=0
    )
    try:
        write_all(broken, wanted)
    except AzureError:
        pass
    else:
        raise AssertionError("the connection did not break")
    blob = BlobClient.from_blob_url(sas)
    assert blob.get_blob_properties().size == len(content)
    there = held(blob)
    assert there and sum(end - start for start, end in there) < sum(len(piece) for _, piece in wanted)
    missing = [
        (offset, piece)
        for offset, piece in wanted
        if not any(start <= offset and offset + len(piece) <= end for start, end in there)
    ]
    assert 0 < len(missing) < len(wanted)
    write_all(blob, missing)
    assert blob.download_blob(max_concurrency=4).readall() == content
    free = content.index(bytes(PIECE_BYTES)) // 512 * 512 + 512
    before = held(blob)
    blob.upload_page(b"x" * 512, offset=free, length=512)
    blob.clear_page(offset=free, length=512)
    assert held(blob) == before or blob.download_blob(offset=free, length=512).readall() == bytes(512)
    expect(416, blob.upload_page, bytes(512), offset=len(content), length=512)
    expect(416, blob.upload_page, bytes(1024), offset=len(content) - 512, length=1024)
    for wrong in (sas.replace("sig=", "sig=A"), sas.replace("sp=rw", "sp=rwd"), sas.replace("se=2", "se=3")):
        expect(403, BlobClient.from_blob_url(wrong, retry_total=0).get_page_ranges)


def download(file: str, sas: str) -> None:
    content = Path(file).read_bytes()
    blob = BlobClient.from_blob_url(sas)
    assert blob.get_blob_properties().size == len(content)
    assert blob.get_blob_properties().blob_type == "PageBlob"
    for options in ({"max_concurrency": 4}, {"validate_content": True}):
        got = blob.download_blob(**options).readall()
        # The footer is another one: its id and its time are the download's.
        assert got[:-512] == content[:-512] and got[-512:].startswith(b"conectix")
    data = bytearray(len(content))
    for start, end in held(blob):
        data[start:end] = blob.download_blob(offset=start, length=end - start).readall()
    assert data[:-512] == content[:-512]
    expect(403, blob.upload_page, bytes(512), offset=0, length=512)


def refused(sas: str) -> None:
    blob = BlobClient.from_blob_url(sas, retry_total=0)
    expect(403, blob.get_page_ranges)
    expect(403, blob.download_blob)
    expect(403, blob.upload_page, bytes(512), offset=0, length=512)


if __name__ == "__main__":
    {"upload": upload, "download": download, "refused": refused}[sys.argv[1]](*sys.argv[2:])
