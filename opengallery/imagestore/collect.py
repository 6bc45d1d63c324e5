"""Collect: delete the packs that no manifest needs, and repack those that are mostly dead.

Two phases, so that no writer and reader needs a lock. A run *marks* the packs that no manifest needs and
that are older than the grace; writers rely on a marked pack no more. A run at least the grace later
*dooms* those that are still not needed, lists the manifests again, and deletes the doomed packs that
still are not. A writer checks, after writing its manifest, that none of its packs is doomed or gone
(`ImageStore.commit_manifest`). So a pack that is not doomed at that check is either gone, which the
check sees, or doomed later, and then its manifest is in the list that is made after that.

A doomed pack stays doomed until it is gone, so no later time makes a delete wrong: a collector may be
paused for as long as you like between its list and its deletes. Should a manifest need a doomed pack
(its writer died before its check), `repack` moves what it needs.
"""

import json
import re
import secrets
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opengallery.imagestore.errors import CorruptBlock, ImageNotFound, UnreadableManifests
from opengallery.imagestore.lease import CollectRunning, Lease
from opengallery.imagestore.manifest import Manifest
from opengallery.imagestore.packs import pack_path
from opengallery.imagestore.repack import repack
from opengallery.imagestore.store import DOOMED, MARKS, QUARANTINE, ImageStore
from opengallery.imagestore.usage import pack_sizes, survey

__all__ = ["GRACE_S", "CollectReport", "CollectRunning", "collect", "needed_packs"]

GRACE_S = 24 * 3600.0
SWEEP_AFTER_S = 3600.0
REPACK_BELOW = 0.5
PACK_ID = re.compile(r"[0-9a-f]{64}")


@dataclass
class CollectReport:
    """What one run did. `kept_bytes` were written anew out of `repacked_packs`, which are marked."""

    marked_packs: int = 0
    marked_bytes: int = 0
    deleted_packs: int = 0
    freed_bytes: int = 0
    repacked_packs: int = 0
    kept_bytes: int = 0
    rewritten_images: int = 0
    swept_bytes: int = 0


def collect(
    store: ImageStore,
    grace_s: float = GRACE_S,
    *,
    wait: bool = False,
    repack_below: float = REPACK_BELOW,
) -> CollectReport:
    """Delete what was marked at least `grace_s` ago and is not needed; mark what is not needed now.

    Packs of which less than the share `repack_below` is needed are written anew and marked. With
    `wait`, stay for the grace and delete what this run has marked as well. `grace_s` must be longer
    than any put, and than any transfer from its first segment to its end. Raises `CollectRunning`,
    and `UnreadableManifests` without deleting any pack.
    """
    report = CollectReport()
    with Lease(store) as lease:
        # First: a writer that was paused for long has lost its file before it can lose its packs.
        report.swept_bytes = store.objects.sweep(max(grace_s, SWEEP_AFTER_S))
        needed_doomed = _delete_marked(store, lease, grace_s, report)
        _mark(store, lease, grace_s, report)
        _repack(store, lease, grace_s, repack_below, needed_doomed, report)
        if wait:
            lease.wait(grace_s)
            _delete_marked(store, lease, grace_s, report)
    return report


def needed_packs(store: ImageStore, lease: Lease | None = None) -> set[str]:
    """Return the packs that some manifest needs. Raises `UnreadableManifests`."""
    return {pack_id for manifest in _manifests(store, lease) for pack_id in manifest.packs}


def _manifests(store: ImageStore, lease: Lease | None) -> list[Manifest]:
    """Read the table of every manifest. Raises `UnreadableManifests`."""
    # Twice: a folder that is read while a name in it is replaced may leave that name out (btrfs).
    images = set(store.images()) | set(store.images())
    manifests: list[Manifest] = []
    unreadable: list[str] = []
    for image_id in sorted(images):
        if lease is not None:
            lease.hold()
        try:
            manifests.append(store.manifest(image_id))
        except ImageNotFound:
            continue
        except CorruptBlock:
            unreadable.append(image_id)
    if unreadable:
        raise UnreadableManifests(store.name, unreadable)
    return manifests


def _delete_marked(store: ImageStore, lease: Lease, grace_s: float, report: CollectReport) -> set[str]:
    """Doom what was marked long enough ago, and delete it. Returns doomed packs that are needed."""
    due = {}
    for name, (marked_s, packs) in _records(store, MARKS).items():
        if time.time() - marked_s >= grace_s:
            due[name] = packs
    if due:
        needed = needed_packs(store, lease)
        for name, packs in due.items():
            # Marked in vain is free again; a writer may have used it before it read the mark.
            if packs - needed:
                content = {"packs": sorted(packs - needed)}
                store.objects.put(DOOMED + name, json.dumps(content).encode())
            store.objects.delete(MARKS + name)
    doomed = {name: packs for name, (_, packs) in _records(store, DOOMED).items()}
    if not doomed:
        return set()
    needed = needed_packs(store, lease)
    sizes = pack_sizes(store)
    for name, packs in doomed.items():
        for pack_id in sorted(packs & sizes.keys() - needed):
            lease.hold()
            store.objects.delete(pack_path(pack_id))
            store.objects.delete(QUARANTINE + pack_id)
            report.deleted_packs += 1
            report.freed_bytes += sizes[pack_id]
        if not packs & needed:
            store.objects.delete(DOOMED + name)
    return {pack_id for packs in doomed.values() for pack_id in packs & needed & sizes.keys()}


def _records(store: ImageStore, folder: str) -> dict[str, tuple[float, set[str]]]:
    """Return when each record of `folder` was made, and its packs. One that is damaged is deleted."""
    records: dict[str, tuple[float, set[str]]] = {}
    for found in store.objects.list(folder):
        try:
            content = json.loads(store.objects.get(found.path))
            packs = {pack_id for pack_id in content["packs"] if PACK_ID.fullmatch(pack_id)}
            records[found.path.removeprefix(folder)] = (float(content.get("marked_s", 0)), packs)
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError):
            store.objects.delete(found.path)
    return records


def _old_packs(store: ImageStore, grace_s: float) -> dict[str, int]:
    """Return the sizes of the packs that are as old as the grace, and not marked or doomed yet."""
    now_s = time.time()
    old = {
        found.path.rsplit("/", 1)[1]: found.size_bytes
        for found in store.objects.list("packs/")
        if now_s - found.modified_s >= grace_s
    }
    for pack_id in store.packs_of(MARKS) | store.packs_of(DOOMED):
        old.pop(pack_id, None)
    return old


def _write_mark(store: ImageStore, packs: list[str]) -> None:
    content = {"marked_s": time.time(), "packs": packs}
    store.objects.put(MARKS + secrets.token_hex(16), json.dumps(content).encode())


def _mark(store: ImageStore, lease: Lease, grace_s: float, report: CollectReport) -> None:
    # The packs before the manifests: what is written in between is in neither list.
    damaged = store.quarantined_packs()
    old = _old_packs(store, grace_s)
    there = pack_sizes(store).keys()
    needed = needed_packs(store, lease)
    # Lost packs that nothing needs any more. No pack of that name ever comes back.
    for pack_id in damaged - there - needed:
        store.objects.delete(QUARANTINE + pack_id)
    unneeded = sorted(old.keys() - needed)
    if unneeded:
        _write_mark(store, unneeded)
        report.marked_packs += len(unneeded)
        report.marked_bytes += sum(old[pack_id] for pack_id in unneeded)


def _repack(
    store: ImageStore,
    lease: Lease,
    grace_s: float,
    below: float,
    needed_doomed: set[str],
    report: CollectReport,
) -> None:
    """Find the packs that are mostly dead or damaged, mark them, and move what is needed of them."""
    sizes = _old_packs(store, grace_s)
    damaged = store.quarantined_packs()
    manifests = _manifests(store, lease)
    victims: dict[str, NDArray[np.bool_]] = {}
    for pack in survey(store, manifests, [*sizes, *sorted(needed_doomed)], tick=lease.hold):
        is_leaving = pack.pack_id in needed_doomed or pack.pack_id in damaged
        if pack.is_live.any() and (is_leaving or pack.live_share < below):
            victims[pack.pack_id] = pack.is_live
    if not victims:
        return
    marked = sorted(victims.keys() - needed_doomed)
    if marked:
        _write_mark(store, marked)
    images = [manifest.image_id for manifest in manifests if victims.keys() & set(manifest.packs)]
    done = repack(store, victims, images, lease)
    report.repacked_packs += done.packs
    report.kept_bytes += done.kept_bytes
    report.rewritten_images += done.images
    report.marked_packs += len(marked)
    report.marked_bytes += sum(sizes[pack_id] for pack_id in marked)
