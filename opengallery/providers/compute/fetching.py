"""Fetching: bring a file from a URL that the operator allows. Everything else is refused."""

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.settings import Settings

_TARGET = "properties.storageProfile.osDisk.blobUri"
_PIECE_BYTES = 1024 * 1024
_TIMEOUT_S = 30


def check_url(settings: Settings, url: str) -> None:
    """Raise 400 unless the URL begins with one of the settings' `images.fetch_allow`."""
    if any(_is_under(url, allowed) for allowed in settings.images.fetch_allow):
        return
    raise invalid_parameter(
        _TARGET,
        "This server fetches images only from the URLs that its operator allows (images.fetch_allow "
        "in opengallery.toml). Upload the file: gallery image import FILE, or az disk create --upload-type Upload.",
    )


def _is_under(url: str, allowed: str) -> bool:
    """Whether a URL is the allowed one, or is below it as a path."""
    try:
        parts, known = urlsplit(url), urlsplit(allowed)
    except ValueError:
        return False
    path = unquote(parts.path)
    return (
        parts.scheme in ("http", "https")
        and (parts.scheme, parts.netloc) == (known.scheme, known.netloc)
        and ".." not in path
        and "\\" not in path
        and (path == known.path or path.startswith(known.path.rstrip("/") + "/"))
    )


def fetch(settings: Settings, url: str, path: Path, is_canceled: Callable[[], bool]) -> None:
    """Write the URL's content to `path`. Follows no redirect. Raises 400 when that fails or is too large,
    409 as soon as `is_canceled` says so."""
    limit = settings.images.max_size_bytes + 512
    path.parent.mkdir(mode=0o700, exist_ok=True)
    size = 0
    try:
        with (
            httpx.stream("GET", url, timeout=_TIMEOUT_S, follow_redirects=False) as response,
            path.open("wb") as file,
        ):
            if response.status_code != 200:
                raise invalid_parameter(
                    _TARGET, f"The URL answers {response.status_code}. Give one that answers 200."
                )
            for piece in response.iter_bytes(_PIECE_BYTES):
                size += len(piece)
                if is_canceled():
                    raise ArmError("OperationPreempted", "The image is being deleted.", status=409)
                if size > limit:
                    raise invalid_parameter(_TARGET, f"The file is over the limit of {limit} bytes.")
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        path.unlink(missing_ok=True)
        raise invalid_parameter(
            _TARGET, f"The URL can't be read: {error}. Check it, and try again."
        ) from error
    except (ArmError, OSError):
        path.unlink(missing_ok=True)
        raise
