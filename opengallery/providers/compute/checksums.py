"""Checksums: what the tag `opengallery-sha256` of a disk or an image says of the file it is made of.

The file is the one that is fetched (`az image create --source URL`) or uploaded (the whole fixed VHD);
where it has another SHA-256, nothing is made of it.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from opengallery.arm.errors import ArmError, invalid_parameter

TAG = "opengallery-sha256"
PIECE_BYTES = 4 << 20


def wanted_sha256(tags: Mapping[str, str] | None) -> str | None:
    """What the tag asks for, in lower case. Raises 400 when it is no SHA-256."""
    found = next((value for name, value in (tags or {}).items() if name.lower() == TAG), None)
    if found is None:
        return None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", found):
        raise invalid_parameter(f"tags.{TAG}", f"The tag {TAG} has to be 64 hexadecimal digits.")
    return found.lower()


def check_file(path: Path, tags: Mapping[str, str] | None) -> None:
    """Raise 400 when the tag asks for another SHA-256 than the file has."""
    wanted = wanted_sha256(tags)
    if wanted is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != wanted:
        raise ArmError(
            "InvalidParameter",
            f"The file's SHA-256 is {digest.hexdigest()}, the tag {TAG} says {wanted}. The file was changed or cut "
            "on its way, or the tag is another file's: nothing was made of it.",
            target=f"tags.{TAG}",
        )
