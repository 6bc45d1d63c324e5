"""What boots of an image read, in the order of first use: a small file for each image.

`DIR/boot-pieces/<tenant id>/<image id>.json`. Replica servers learn it and read it ahead of machines. It is
advice only: a file that is missing, damaged or of another kind means that nothing is known.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

PIECE_BYTES: Final = 65536
MAX_PIECES = 4096
_MAX_FILE_BYTES = 1 << 20


class _BootPieces(msgspec.Struct, forbid_unknown_fields=True):
    format: Literal[1]
    piece_bytes: Literal[65536]
    pieces: list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]]


def load(data: Path, tenant_id: str, image_id: str) -> list[int]:
    """Numbers of the pieces that boots read, the first first, each once; empty when nothing is known."""
    try:
        with _path(data, tenant_id, image_id).open("rb") as file:
            found = msgspec.json.decode(file.read(_MAX_FILE_BYTES), type=_BootPieces)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return []
    return list(dict.fromkeys(found.pieces))[:MAX_PIECES]


def add(data: Path, tenant_id: str, image_id: str, pieces: list[int]) -> None:
    """Put pieces behind those that are known already, as far as there is room.

    Two servers that add at the same time may lose what one of them had: the next boot brings it again.
    """
    known = load(data, tenant_id, image_id)
    merged = list(dict.fromkeys(known + pieces))[:MAX_PIECES]
    if merged == known:
        return
    path = _path(data, tenant_id, image_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    draft.write_bytes(msgspec.json.encode(_BootPieces(1, PIECE_BYTES, merged)))
    draft.replace(path)


def forget(data: Path, tenant_id: str, image_id: str) -> None:
    """Delete what is known of an image that is gone."""
    folder = _path(data, tenant_id, image_id).parent
    with suppress(OSError):
        for path in folder.glob(f"{image_id}.*"):
            path.unlink(missing_ok=True)
        folder.rmdir()


def _path(data: Path, tenant_id: str, image_id: str) -> Path:
    return data / "boot-pieces" / tenant_id / f"{image_id}.json"
