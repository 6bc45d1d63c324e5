"""Upload a VHD to the SAS of `az disk grant-access`, as a user of azure-storage-blob does.

Runs on az's own Python: upload_disk.py FILE SAS
"""

import sys
from pathlib import Path

from azure.storage.blob import BlobClient  # type: ignore[import-not-found]

PIECE_BYTES = 4 * 1024 * 1024  # the most that one request may write


def main(file: str, sas: str) -> None:
    """Write every page that isn't zero, the VHD's footer included."""
    blob = BlobClient.from_blob_url(sas)
    size_bytes = Path(file).stat().st_size
    assert blob.get_blob_properties().size == size_bytes, "the blob is not as large as the disk"
    with Path(file).open("rb") as source:
        for offset in range(0, size_bytes, PIECE_BYTES):
            piece = source.read(PIECE_BYTES)
            if piece.strip(b"\0"):
                blob.upload_page(piece, offset=offset, length=len(piece))


if __name__ == "__main__":
    main(*sys.argv[1:])
