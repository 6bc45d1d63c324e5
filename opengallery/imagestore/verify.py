"""Verify: read an image back from its store and check every block. Repair: bring what is bad again.

A pack that fails is quarantined: no writer relies on it any more, so a transfer from a sibling brings
its blocks anew and writes a manifest without it. Readers still use what is good in it until then.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from opengallery.imagestore.blocks import BLOCK_BYTES
from opengallery.imagestore.cache import FrameCache
from opengallery.imagestore.errors import CorruptBlock, ImageStoreError
from opengallery.imagestore.keys import DataKey
from opengallery.imagestore.manifest import HOLE, Manifest
from opengallery.imagestore.objects import Objects
from opengallery.imagestore.packs import open_frame, read_frames
from opengallery.imagestore.reader import FooterChecksums, neighbours, read_layout
from opengallery.imagestore.store import ImageStore
from opengallery.imagestore.transfer import Moved, transfer

FOOTER_CACHE_BYTES = 64 << 20


@dataclass
class VerifyReport:
    """What a verification found. `checked_bytes` are of blocks that are no holes, good or bad."""

    checked_bytes: int = 0
    bad: list[CorruptBlock] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every block can be read."""
        return not self.bad


@dataclass
class _Uncached:
    name: str
    key: DataKey
    objects: Objects
    cache: FrameCache


def verify(
    store: ImageStore, image_id: str, progress: Callable[[VerifyReport], None] | None = None
) -> VerifyReport:
    """Read everything of an image back. Raises `ImageNotFound`; damage is in the report.

    Every damaged pack is quarantined. `bad` has one entry a damaged frame, or one for a damaged
    footer, segment or manifest.
    """
    report = VerifyReport()
    try:
        manifest = store.manifest(image_id)
    except CorruptBlock as error:
        report.bad.append(error)
        return report
    for segment in manifest.sections:
        verify_segment(store, image_id, segment, report, progress)
    return report


def verify_segment(
    store: ImageStore,
    image_id: str,
    segment: int,
    report: VerifyReport | None = None,
    progress: Callable[[VerifyReport], None] | None = None,
) -> VerifyReport:
    """Verify one segment of 256 MiB; `report` goes on with an earlier one."""
    report = report if report is not None else VerifyReport()
    try:
        manifest = store.manifest(image_id)
    except CorruptBlock as error:
        report.bad.append(error)
        return report
    # What the store's cache holds was good once; the question is what the store gives now.
    home = _Uncached(store.name, store.key, store.objects, FrameCache(FOOTER_CACHE_BYTES))
    footers = FooterChecksums(home, manifest)
    try:
        layout = read_layout(home, manifest, segment, footers)
    except CorruptBlock as error:
        _note(store, report, error)
        _check_packs(store, manifest, footers, report)
        return report
    for pack in np.unique(layout.pack[layout.pack != HOLE]).tolist():
        entries = layout.entry[layout.pack == pack]
        _check_frames(
            store, footers, pack, np.unique(footers.footer(pack).frames_of(entries)).tolist(), report
        )
        if progress is not None:
            progress(report)
    report.checked_bytes += int(np.count_nonzero(layout.pack != HOLE)) * BLOCK_BYTES
    return report


def repair(store: ImageStore, image_id: str, siblings: Iterable[ImageStore]) -> Moved:
    """Bring the blocks of quarantined packs from the first sibling that can, and write a new manifest.

    Raises the last sibling's error when none can.
    """
    failure: ImageStoreError | None = None
    for sibling in siblings:
        try:
            return transfer(sibling, store, image_id)
        except ImageStoreError as error:
            failure = error
    raise failure or ValueError("repair needs a sibling")


def _check_frames(
    store: ImageStore, footers: FooterChecksums, pack: int, frames: list[int], report: VerifyReport
) -> None:
    footer = footers.footer(pack)
    for _, group in neighbours([(pack, frame) for frame in frames], footers):
        try:
            sealed_frames = read_frames(store, footer, group[0], group[-1])
        except CorruptBlock as error:
            _note(store, report, error)
            continue
        for frame in group:
            try:
                open_frame(store, footer, frame, sealed_frames[frame - group[0]])
            except CorruptBlock as error:
                _note(store, report, error)


def _check_packs(
    store: ImageStore, manifest: Manifest, footers: FooterChecksums, report: VerifyReport
) -> None:
    """Check every pack as a whole, where a segment cannot tell its frames: one repair brings them all."""
    noted = {error.pack for error in report.bad}
    for number, pack_id in enumerate(manifest.packs):
        if pack_id not in noted:
            try:
                frame_count = len(footers.footer(number).offsets) - 1
            except CorruptBlock as error:
                _note(store, report, error)
            else:
                _check_frames(store, footers, number, list(range(frame_count)), report)


def _note(store: ImageStore, report: VerifyReport, error: CorruptBlock) -> None:
    report.bad.append(error)
    if error.pack:
        store.quarantine(error.pack, error.reason)
