"""Who may read the data folder DIR: its owner alone.

DIR, its folders and what lies at its top are looked at when a server starts; what is looser than it should
be is tightened, with a line in the log. Others may be let through a folder (0711, for machines that run as
another user), but they can't list it. The server itself makes everything for its owner alone (umask 077).
"""

import stat
from collections.abc import Iterator
from pathlib import Path

import structlog

from opengallery.identity.certificate import BUNDLE, CA, SERVER
from opengallery.identity.folder import IdentityFolder

PUBLIC = frozenset((CA, BUNDLE, SERVER))
LISTED_OR_WRITTEN = 0o066
ANYTHING = 0o077
CHANGED = 0o022

log = structlog.get_logger()


class TooOpen(Exception):
    """Others may read or change what they must not, and that can't be mended; the message says what to do."""


def tighten(data: Path) -> list[Path]:
    """Take from others what they may not do in DIR `data`; what was too open. Raises `TooOpen`."""
    mended = []
    for path, forbidden in _entries(data):
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not mode & forbidden:
                continue
            path.chmod(stat.S_IMODE(mode) & ~forbidden)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise TooOpen(
                f"{path} can be read or changed by others, and its mode can't be set ({error.strerror}). "
                f"Take it from them: chmod go-rwx '{path}'"
            ) from error
        log.warning("others could read or change this: now they can't", path=str(path), mode=f"{mode:o}"[-4:])
        mended.append(path)
    return mended


def _entries(data: Path) -> Iterator[tuple[Path, int]]:
    """What is looked at, and the bits of its mode that it must not have. A folder comes before what is in it."""
    yield data, LISTED_OR_WRITTEN
    identity = IdentityFolder(data).path
    for path in sorted(data.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        yield path, ANYTHING if path == identity or not is_folder else LISTED_OR_WRITTEN
    if identity.is_dir() and not identity.is_symlink():
        for path in sorted(identity.iterdir()):
            yield path, CHANGED if path.name in PUBLIC else ANYTHING
