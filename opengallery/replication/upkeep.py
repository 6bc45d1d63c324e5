"""Upkeep: look after the stores while the server runs: collect, scrub, and have repaired what is damaged."""

from collections.abc import Callable
from threading import Event

import structlog

from opengallery.imagestore import CollectRunning, ImageStoreError, ScrubEnded, collect, scrub
from opengallery.replication.stores import Stores, UnknownStore
from opengallery.settings import ImageSettings, SettingsError

FIRST_AFTER_S = 600.0

log = structlog.get_logger()


def run(
    stores: Stores, settings: ImageSettings, closing: Event, repair: Callable[[str, str, str], object]
) -> None:
    """Look after all stores, rest, and begin again, until `closing` is set.

    `repair` is called with store, tenant and image id of what a scrub found damaged.
    """
    if settings.upkeep_hours <= 0 or closing.wait(FIRST_AFTER_S):
        return
    while True:
        look_after(stores, settings.scrub_mib_per_s * 2.0**20, closing, repair)
        if closing.wait(settings.upkeep_hours * 3600):
            return


def look_after(
    stores: Stores, scrub_bytes_per_s: float, closing: Event, repair: Callable[[str, str, str], object]
) -> None:
    """Go through every store once; one that cannot be reached does not keep the others waiting."""
    for _, name, tenant_id in stores.parts():
        try:
            store = stores.open(name, tenant_id)
            report = collect(store)
            if report.freed_bytes:
                log.info("store collected", store=name, freed_bytes=report.freed_bytes)
        except CollectRunning:
            pass
        except Exception as error:
            _warn(name, error)
        if closing.is_set() or not scrub_bytes_per_s:
            continue
        try:
            for damage in scrub(stores.open(name, tenant_id), scrub_bytes_per_s, closing.wait):
                log.warning("replica is repaired", store=name, image=damage.image_id, reason=damage.reason)
                repair(name, tenant_id, damage.image_id)
        except ScrubEnded:
            return
        except Exception as error:
            _warn(name, error)


def _warn(name: str, error: Exception) -> None:
    if isinstance(error, (ImageStoreError, SettingsError, UnknownStore)):
        log.warning("store needs a look", store=name, reason=str(error))
    else:
        log.exception("store could not be looked after", store=name)
