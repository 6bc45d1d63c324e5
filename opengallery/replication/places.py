"""How a store is opened where it lies; all that another process needs to read replicas.

Nothing here knows the database, so a replica server is small and starts fast.
"""

from pathlib import Path
from typing import Any

import msgspec
from obstore.store import from_url

from opengallery.imagestore import DataKey, FrameCache, ImageStore
from opengallery.settings import SettingsError, StoreSettings

CLIENT_OPTIONS = frozenset(
    (
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "proxy_url",
        "read_timeout",
        "root_certificate",
        "timeout",
    )
)
"""Options of a store that are its HTTP client's; all others are the object store's own."""


class StorePlaces(msgspec.Struct):
    """Where some stores lie, and the data keys of the tenants that have images there."""

    stores: list[StoreSettings]
    keys: dict[str, bytes]


def open_store(
    place: StoreSettings, tenant_id: str, key: bytes, index: Path, cache: FrameCache | None = None
) -> ImageStore:
    """Open the images of one tenant where `place` says; a directory is made. Raises `SettingsError`.

    `index` is the folder of all stores' derived indexes; `cache` may be shared by many stores.
    """
    if place.path is not None:
        Path(place.path).mkdir(parents=True, exist_ok=True)
    return ImageStore(
        Path(place.path) if place.path is not None else _object_store(place),
        prefix=f"tenants/{tenant_id}",
        key=DataKey(key),
        index_dir=index / place.name / tenant_id,
        name=place.name,
        cache=cache,
    )


def _object_store(place: StoreSettings) -> Any:
    assert place.url is not None
    client = {option: value for option, value in place.options.items() if option in CLIENT_OPTIONS}
    config = {option: value for option, value in place.options.items() if option not in CLIENT_OPTIONS}
    try:
        return from_url(place.url, config=config, client_options=client)  # type: ignore[call-overload]
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"Store '{place.name}' can't be opened: {reason}") from error
