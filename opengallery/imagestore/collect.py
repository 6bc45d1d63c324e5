"""Collect: delete the packs that no manifest needs.

Two phases, so that no writer and reader needs a lock. A first run *marks* the packs that no manifest
needs and that are older than the grace; writers rely on a marked pack no more. A run at least the grace
later *dooms* the mark, lists the manifests again, and deletes the marked packs that are still not
needed. A writer checks, after writing its manifest, that none of its packs is doomed or gone
(`ImageStore.commit_manifest`). So a pack that is not doomed at that check is either gone, which the
check sees, or doomed later, and then its manifest is in the list that is made after that.

A lease keeps two collectors from doing the same work; being safe does not rest on it.
"""

import json
import secrets
import time
from dataclasses import dataclass

from opengallery.imagestore.errors import ImageNotFound, ImageStoreError
from opengallery.imagestore.packs import pack_path
from opengallery.imagestore.store import DOOMED, MARKS, QUARANTINE, ImageStore

GRACE_S = 24 * 3600.0
LEASE = "collect/lease"
LEASE_S = 900.0
SWEEP_AFTER_S = 3600.0


class CollectRunning(ImageStoreError):
    """Another collector holds the lease of this store."""


@dataclass
class CollectReport:
    """What one run did."""

    marked_packs: int = 0
    marked_bytes: int = 0
    deleted_packs: int = 0
    freed_bytes: int = 0
    swept_bytes: int = 0


def collect(store: ImageStore, grace_s: float = GRACE_S, *, wait: bool = False) -> CollectReport:
    """Delete what was marked at least `grace_s` ago and is not needed; mark what is not needed now.

    With `wait`, stay for the grace and delete what this run has marked as well. `grace_s` must be
    longer than any put, and than any transfer from its first segment to its end. Raises
    `CollectRunning`, and `CorruptBlock` without deleting anything when a manifest cannot be read.
    """
    report = CollectReport()
    lease = _take_lease(store, LEASE_S + (grace_s if wait else 0))
    try:
        _delete_marked(store, grace_s, report)
        _mark(store, grace_s, report)
        if wait:
            time.sleep(grace_s)
            _delete_marked(store, grace_s, report)
        report.swept_bytes = store.objects.sweep(max(grace_s, SWEEP_AFTER_S))
    finally:
        _drop_lease(store, lease)
    return report


def needed_packs(store: ImageStore) -> set[str]:
    """Return the packs that some manifest needs. Raises `CorruptBlock` when one cannot be read."""
    needed: set[str] = set()
    for image_id in store.images():
        try:
            needed.update(store.manifest(image_id).packs)
        except ImageNotFound:
            continue
    return needed


def _mark(store: ImageStore, grace_s: float, report: CollectReport) -> None:
    # The packs before the manifests: what is written in between is in neither list.
    now_s = time.time()
    old = {
        found.path.rsplit("/", 1)[1]: found.size_bytes
        for found in store.objects.list("packs/")
        if now_s - found.modified_s >= grace_s
    }
    unneeded = sorted(old.keys() - store.packs_of(MARKS) - needed_packs(store))
    if unneeded:
        content = {"marked_s": now_s, "packs": unneeded}
        store.objects.put(MARKS + secrets.token_hex(16), json.dumps(content).encode())
        report.marked_packs += len(unneeded)
        report.marked_bytes += sum(old[pack_id] for pack_id in unneeded)


def _delete_marked(store: ImageStore, grace_s: float, report: CollectReport) -> None:
    doomed = [found.path.removeprefix(DOOMED) for found in store.objects.list(DOOMED)]
    for found in store.objects.list(MARKS):
        content = store.objects.get(found.path)
        name = found.path.removeprefix(MARKS)
        if name not in doomed and time.time() - json.loads(content)["marked_s"] >= grace_s:
            store.objects.put(DOOMED + name, content)
            doomed.append(name)
    if not doomed:
        return
    needed = needed_packs(store)
    sizes = {found.path.rsplit("/", 1)[1]: found.size_bytes for found in store.objects.list("packs/")}
    for name in doomed:
        for pack_id in json.loads(store.objects.get(DOOMED + name))["packs"]:
            if pack_id in needed or pack_id not in sizes:
                continue
            store.objects.delete(pack_path(pack_id))
            store.objects.delete(QUARANTINE + pack_id)
            report.deleted_packs += 1
            report.freed_bytes += sizes[pack_id]
        store.objects.delete(DOOMED + name)
        store.objects.delete(MARKS + name)


def _take_lease(store: ImageStore, length_s: float) -> bytes:
    lease = json.dumps({"owner": secrets.token_hex(16), "until_s": time.time() + length_s}).encode()
    for _ in range(2):
        if store.objects.put(LEASE, lease):
            return lease
        try:
            until_s = json.loads(store.objects.get(LEASE))["until_s"]
        except FileNotFoundError:
            continue
        if until_s > time.time():
            raise CollectRunning(
                f"Store '{store.name}' is being collected, or a collector died. "
                f"Try again in {until_s - time.time():.0f} s."
            )
        store.objects.delete(LEASE)
    raise CollectRunning(f"Store '{store.name}' is being collected. Try again later.")


def _drop_lease(store: ImageStore, lease: bytes) -> None:
    try:
        if store.objects.get(LEASE) == lease:
            store.objects.delete(LEASE)
    except FileNotFoundError:
        pass
