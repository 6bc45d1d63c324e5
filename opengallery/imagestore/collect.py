"""Collect: delete the packs that no manifest needs.

Two phases, so that no writer and reader needs a lock. A first run *marks* the packs that no manifest
needs and that are older than the grace; writers rely on a marked pack no more. A run at least the grace
later *dooms* the mark, lists the manifests again, and deletes the marked packs that are still not
needed. A writer checks, after writing its manifest, that none of its packs is doomed or gone
(`ImageStore.commit_manifest`). So a pack that is not doomed at that check is either gone, which the
check sees, or doomed later, and then its manifest is in the list that is made after that.

One collector works at a time, under a lease: one that was paused until its lease ended must not go on
with a list of manifests that is old by then.
"""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

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
    lease = _Lease(store)
    try:
        _delete_marked(store, lease, grace_s, report)
        _mark(store, grace_s, report)
        if wait:
            lease.hold_for(grace_s)
            time.sleep(grace_s)
            _delete_marked(store, lease, grace_s, report)
        report.swept_bytes = store.objects.sweep(max(grace_s, SWEEP_AFTER_S))
    finally:
        lease.drop()
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


def _delete_marked(store: ImageStore, lease: "_Lease", grace_s: float, report: CollectReport) -> None:
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
            lease.hold_for(0)
            store.objects.delete(pack_path(pack_id))
            store.objects.delete(QUARANTINE + pack_id)
            report.deleted_packs += 1
            report.freed_bytes += sizes[pack_id]
        store.objects.delete(DOOMED + name)
        store.objects.delete(MARKS + name)


class _Lease:
    """The right to collect one store, for `LEASE_S` at a time."""

    def __init__(self, store: ImageStore) -> None:
        """Take the lease. Raises `CollectRunning`."""
        self._store = store
        self._owner = secrets.token_hex(16)
        for _ in range(2):
            self._until_s = time.time() + LEASE_S
            if store.objects.put(LEASE, self._content()):
                return
            left_s = self._found()["until_s"] - time.time()
            if left_s > 0:
                raise CollectRunning(
                    f"Store '{store.name}' is being collected, or a collector died. "
                    f"Try again in {left_s:.0f} s."
                )
            store.objects.delete(LEASE)
        raise CollectRunning(f"Store '{store.name}' is being collected. Try again later.")

    def hold_for(self, length_s: float) -> None:
        """Make sure that the lease holds for that long and a good while. Raises `CollectRunning`."""
        if self._until_s - time.time() < length_s + LEASE_S / 2:
            if self._found()["owner"] != self._owner or self._until_s < time.time():
                raise CollectRunning(f"Another collector took over store '{self._store.name}'.")
            self._until_s = time.time() + length_s + LEASE_S
            self._store.objects.put(LEASE, self._content(), replace=True)

    def drop(self) -> None:
        """Give the lease back, if it is still ours."""
        if self._found()["owner"] == self._owner:
            self._store.objects.delete(LEASE)

    def _content(self) -> bytes:
        return json.dumps({"owner": self._owner, "until_s": self._until_s}).encode()

    def _found(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._store.objects.get(LEASE)))
        except FileNotFoundError:
            return {"owner": "", "until_s": 0.0}
