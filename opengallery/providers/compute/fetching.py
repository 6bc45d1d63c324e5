"""Fetching: bring a file from a URL that the operator allows. Everything else is refused."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.settings import Settings

_TARGET = "properties.storageProfile.osDisk.blobUri"
_PIECE_BYTES = 1024 * 1024
_TIMEOUT_S = 30


def check_url(settings: Settings, url: str) -> None:
    """Raise 400 unless the URL begins with one of the settings' `images.fetch_allow`."""
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and not parts.username and ".." not in parts.path:
        for allowed in settings.images.fetch_allow:
            known = urlsplit(allowed)
            if (known.scheme, known.netloc) == (parts.scheme, parts.netloc) and parts.path.startswith(
                known.path
            ):
                return
    raise invalid_parameter(
        _TARGET,
        "This server fetches images only from the URLs that its operator allows (images.fetch_allow "
        "in opengallery.toml). Upload the file: gallery image import FILE, or az disk create --upload-type Upload.",
    )


def fetch(settings: Settings, url: str, path: Path) -> None:
    """Write the URL's content to `path`. Follows no redirect. Raises 400 when that fails or is too large."""
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
                if size > limit:
                    raise invalid_parameter(_TARGET, f"The file is over the limit of {limit} bytes.")
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
    except (httpx.HTTPError, ArmError) as error:
        path.unlink(missing_ok=True)
        if isinstance(error, ArmError):
            raise
        raise invalid_parameter(
            _TARGET, f"The URL can't be read: {error}. Check it, and try again."
        ) from error
