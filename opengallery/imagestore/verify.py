"""Verify: read an image back from its store and check every block. Repair: bring what is bad again.

A pack that fails is quarantined: no writer relies on it any more, so a transfer from a sibling brings
its blocks anew and writes a manifest without it. Readers still use what is good in it until then.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from opengallery.imagestore.blocks import BLOCK_BYTES
from opengallery.imagestore.errors import (
    CorruptBlock,
    ImageNotFound,
    ImageStoreError,
    StoreUnavailable,
)
from opengallery.imagestore.fresh import Fresh
from opengallery.imagestore.layout import FooterChecksums, neighbours, read_layout
from opengallery.imagestore.manifest import HOLE, Manifest
from opengallery.imagestore.packs import open_frame, read_frames
from opengallery.imagestore.repack import copy_live
from opengallery.imagestore.store import ImageStore
from opengallery.imagestore.transfer import Moved, finish_transfer, segments, transfer_segment
from opengallery.imagestore.usage import survey


@dataclass
class VerifyReport:
    """What a verification found. `checked_bytes` are of blocks that are no holes, good or bad."""

    checked_bytes: int = 0
    bad: list[CorruptBlock] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every block can be read."""
        return not self.bad


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
    checked_bytes = report.checked_bytes

    def count(size_bytes: int) -> None:
        report.checked_bytes += size_bytes
        if progress is not None:
            progress(report)

    while True:
        bad: list[CorruptBlock] = []
        report.checked_bytes = checked_bytes
        try:
            manifest = store.manifest(image_id)
        except CorruptBlock as error:
            report.bad.append(error)
            return report
        _check_segment(store, manifest, segment, bad, count)
        if not bad or _is_current(store, manifest):
            break
        # A repack or repair wrote another manifest meanwhile: what was not found may be gone rightly.
    for found in bad:
        if found.pack:
            store.quarantine(found.pack, found.reason)
    report.bad += bad
    return report


def repair(store: ImageStore, image_id: str, siblings: Iterable[ImageStore]) -> Moved:
    """Bring the blocks of quarantined packs from the siblings, and write a new manifest.

    What can still be read of these packs is copied here; only the rest moves, from each sibling what is
    good there, until nothing is missing. Raises the last sibling's error when that is never so.
    """
    failure: ImageStoreError | None = None
    moved = Moved()
    with suppress(CorruptBlock, ImageNotFound, StoreUnavailable):
        salvage(store, image_id)
    for sibling in siblings:
        try:
            for segment in range(segments(sibling, image_id)):
                try:
                    moved += transfer_segment(sibling, store, image_id, segment)
                except CorruptBlock as error:
                    failure = error
            return moved + finish_transfer(sibling, store, image_id)
        except ImageStoreError as error:
            failure = error
    raise failure or ValueError("repair needs a sibling")


def salvage(store: ImageStore, image_id: str) -> int:
    """Copy what an image needs of quarantined packs, and can be read, into new packs. Returns bytes written."""
    manifest = store.manifest(image_id)
    damaged = store.quarantined_packs() & set(manifest.packs)
    needed = {pack.pack_id: pack.is_live for pack in survey(store, [manifest], damaged) if pack.is_live.any()}
    return copy_live(store, needed) if needed else 0


def _check_segment(
    store: ImageStore, manifest: Manifest, segment: int, bad: list[CorruptBlock], count: Callable[[int], None]
) -> None:
    """Add to `bad` what is damaged in one segment; `count` the bytes of blocks as they are checked."""
    # What the store's cache holds was good once; the question is what the store gives now.
    home = Fresh(store)
    footers = FooterChecksums(home, manifest)
    try:
        layout = read_layout(home, manifest, segment, footers)
    except CorruptBlock as error:
        bad.append(error)
        _check_packs(home, manifest, footers, bad)
        return
    for pack in np.unique(layout.pack[layout.pack != HOLE]).tolist():
        entries = layout.entry[layout.pack == pack]
        frames = np.unique(footers.footer(pack).frames_of(entries)).tolist()
        _check_frames(home, footers, pack, frames, bad)
        count(len(entries) * BLOCK_BYTES)


def _is_current(store: ImageStore, manifest: Manifest) -> bool:
    try:
        return store.manifest(manifest.image_id).checksum == manifest.checksum
    except CorruptBlock:
        return True


def _check_frames(
    home: Fresh, footers: FooterChecksums, pack: int, frames: list[int], bad: list[CorruptBlock]
) -> None:
    footer = footers.footer(pack)
    for _, group in neighbours([(pack, frame) for frame in frames], footers):
        try:
            sealed_frames = read_frames(home, footer, group[0], group[-1])
        except CorruptBlock as error:
            bad.append(error)
            continue
        for frame in group:
            try:
                open_frame(home, footer, frame, sealed_frames[frame - group[0]])
            except CorruptBlock as error:
                bad.append(error)


def _check_packs(home: Fresh, manifest: Manifest, footers: FooterChecksums, bad: list[CorruptBlock]) -> None:
    """Check every pack as a whole, where a segment cannot tell its frames: one repair brings them all."""
    noted = {error.pack for error in bad}
    for number, pack_id in enumerate(manifest.packs):
        if pack_id not in noted:
            try:
                frame_count = len(footers.footer(number).offsets) - 1
            except CorruptBlock as error:
                bad.append(error)
            else:
                _check_frames(home, footers, number, list(range(frame_count)), bad)
