"""Scrub: read a whole store back at a bounded rate, and tell which images need repair.

Every stored byte is read once, however many images share it: a pack's id is the hash of its bytes, so
one that was changed, cut or lost shows without a key. Then each manifest is checked down to the
digests of its segments, which finds a pack that lies under another's name.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from opengallery.imagestore.errors import CorruptBlock, ImageNotFound
from opengallery.imagestore.fresh import Fresh
from opengallery.imagestore.layout import FooterChecksums, read_layout
from opengallery.imagestore.packs import pack_path
from opengallery.imagestore.store import ImageStore
from opengallery.imagestore.usage import pack_sizes
from opengallery.imagestore.verify import VerifyReport, verify

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class ImageDamage:
    """An image that cannot be read whole from this store, and the first reason found."""

    image_id: str
    reason: str


class ScrubEnded(Exception):
    """`is_ending` said that it is time to end."""


def scrub(
    store: ImageStore,
    bytes_per_s: float,
    is_ending: Callable[[float], bool] | None = None,
) -> Iterator[ImageDamage]:
    """Read every pack and manifest of a store, no faster than `bytes_per_s`, and yield what needs repair.

    Damaged packs are quarantined. `is_ending` waits for the seconds it is given and tells whether to
    end (`threading.Event.wait` does), which raises `ScrubEnded`. Raises `StoreUnavailable`.
    """
    pace = _Pace(bytes_per_s, is_ending or _sleep)
    for pack_id, size_bytes in sorted(pack_sizes(store).items()):
        reason = _check_pack(store, pack_id, size_bytes, pace)
        # A pack that `collect` took meanwhile is no damage.
        if reason and store.objects.exists(pack_path(pack_id)):
            store.quarantine(pack_id, reason)
    home = Fresh(store)
    damaged = store.quarantined_packs()
    for image_id in sorted(store.images()):
        try:
            reason = _check_image(store, home, image_id, damaged, pace)
            if reason:
                # What another repair or `collect` replaced meanwhile is no damage.
                reason = _check_image(store, Fresh(store), image_id, damaged, pace)
        except ImageNotFound:
            continue
        if reason:
            yield ImageDamage(image_id, reason)


def _sleep(pause_s: float) -> bool:
    time.sleep(pause_s)
    return False


class _Pace:
    """Waits so long between reads that they stay under a rate."""

    def __init__(self, bytes_per_s: float, is_ending: Callable[[float], bool]) -> None:
        self._bytes_per_s = bytes_per_s
        self._is_ending = is_ending

    def after(self, size_bytes: int) -> None:
        """Wait as long as reading `size_bytes` should have taken. Raises `ScrubEnded`."""
        if self._is_ending(size_bytes / self._bytes_per_s):
            raise ScrubEnded


def _check_pack(store: ImageStore, pack_id: str, size_bytes: int, pace: _Pace) -> str:
    """Return what is wrong with a pack; empty when it is good."""
    hasher = blake3()
    for offset in range(0, size_bytes, READ_BYTES):
        try:
            content = store.objects.range(pack_path(pack_id), offset, min(READ_BYTES, size_bytes - offset))
        except FileNotFoundError:
            return "the pack is missing"
        except OSError as error:
            return f"the disk cannot read it: {error}"
        hasher.update(content)
        pace.after(len(content))
    return "" if hasher.hexdigest() == pack_id else "its bytes do not match its id"


def _check_image(store: ImageStore, home: Fresh, image_id: str, damaged: set[str], pace: _Pace) -> str:
    """Return what is wrong with an image, whose packs were read before; empty when it is good."""
    try:
        manifest = store.manifest(image_id)
        footers = FooterChecksums(home, manifest)
        for segment, section in manifest.sections.items():
            read_layout(home, manifest, segment, footers)
            pace.after(section.length)
    except CorruptBlock as error:
        return str(error)
    if not damaged & set(manifest.packs):
        return ""
    # A part of the pack is damaged: perhaps another part than this image needs.
    shown_bytes = 0

    def wait(report: VerifyReport) -> None:
        nonlocal shown_bytes
        pace.after(max(0, report.checked_bytes - shown_bytes))
        shown_bytes = report.checked_bytes

    report = verify(store, image_id, wait)
    return str(report.bad[0]) if report.bad else ""
