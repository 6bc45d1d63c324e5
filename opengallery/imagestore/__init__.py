"""The image store: content-addressed, deduplicated, encrypted storage of disk images.

A library that stands alone:

    from opengallery.imagestore import ImageStore, open_image

    store = ImageStore.at("/srv/images")
    with open_image(Path("debian.raw")) as source:
        report = store.put(source)
    first_sector = store.open(report.image_id).read(0, 512)
"""

from opengallery.imagestore.blocks import BLOCK_BYTES, SEGMENT_BYTES, BlockSource
from opengallery.imagestore.cache import FrameCache
from opengallery.imagestore.collect import CollectReport, CollectRunning, collect
from opengallery.imagestore.errors import (
    CorruptBlock,
    ImageNotFound,
    ImageStoreError,
    StoreChanged,
    StoreUnavailable,
    UnreadableManifests,
    UnsupportedFormat,
    UnusableImage,
    WrongKey,
)
from opengallery.imagestore.formats import open_image
from opengallery.imagestore.keys import DataKey
from opengallery.imagestore.overlay import AnyOf, OverlaySource, open_overlay
from opengallery.imagestore.put import PutProgress, PutReport
from opengallery.imagestore.reader import ImageReader
from opengallery.imagestore.scrub import ImageDamage, ScrubEnded, scrub
from opengallery.imagestore.store import ImageStat, ImageStore, StoreStat
from opengallery.imagestore.transfer import Moved, finish_transfer, segments, transfer, transfer_segment
from opengallery.imagestore.usage import ImageUsage, StoreUsage, usage
from opengallery.imagestore.verify import VerifyReport, repair, verify, verify_segment

__all__ = [
    "BLOCK_BYTES",
    "SEGMENT_BYTES",
    "AnyOf",
    "BlockSource",
    "CollectReport",
    "CollectRunning",
    "CorruptBlock",
    "DataKey",
    "FrameCache",
    "ImageDamage",
    "ImageNotFound",
    "ImageReader",
    "ImageStat",
    "ImageStore",
    "ImageStoreError",
    "ImageUsage",
    "Moved",
    "OverlaySource",
    "PutProgress",
    "PutReport",
    "ScrubEnded",
    "StoreChanged",
    "StoreStat",
    "StoreUnavailable",
    "StoreUsage",
    "UnreadableManifests",
    "UnsupportedFormat",
    "UnusableImage",
    "VerifyReport",
    "WrongKey",
    "collect",
    "finish_transfer",
    "open_image",
    "open_overlay",
    "repair",
    "scrub",
    "segments",
    "transfer",
    "transfer_segment",
    "usage",
    "verify",
    "verify_segment",
]
