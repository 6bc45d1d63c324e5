"""`gallery store`: look after the stores of a data folder, without a server or beside one.

Stores need no lock for this: `verify` only reads, `collect` deletes under a lease what no manifest needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed
from opengallery.cli.progress import Board, Row, format_bytes
from opengallery.cli.serve import Data

if TYPE_CHECKING:
    from opengallery.imagestore import ImageStore

PLACE_COLUMNS = {"Region": "region", "Store": "store", "Tenant": "tenant"}
VERIFY_COLUMNS = {
    **PLACE_COLUMNS,
    "Image": "image",
    "State": "state",
    "CheckedBytes": "checkedBytes",
    "Bad": "bad",
}
COLLECT_COLUMNS = {
    **PLACE_COLUMNS,
    "MarkedBytes": "markedBytes",
    "DeletedPacks": "deletedPacks",
    "FreedBytes": "freedBytes",
}
STATS_COLUMNS = {
    **PLACE_COLUMNS,
    "Images": "images",
    "ImageBytes": "imageBytes",
    "DataBytes": "dataBytes",
    "UniqueBytes": "uniqueBytes",
    "StoredBytes": "storedBytes",
    "DeadBytes": "deadBytes",
    "QuarantinedPacks": "quarantinedPacks",
}

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The settings that the server runs with."),
]
RegionName = Annotated[
    str | None, typer.Option("--region", metavar="REGION", help="Only the stores of this region.")
]

app = new_app("The stores of a data folder: verify, collect, stats.")


@verb(app, "verify", ["gallery store verify --data ~/gallery --region westeurope"], columns=VERIFY_COLUMNS)
def verify(
    data: Data,
    region: RegionName = None,
    config: Config = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Bring what is damaged again from another store.")
    ] = False,
) -> Any:
    """Read every image back and check every block. Exit code 1 when something is damaged.

    What is damaged is quarantined: no new image relies on it, and `--repair` brings it again from a store
    that has the same image, in whatever region.
    """
    from opengallery.imagestore import ImageStoreError
    from opengallery.imagestore import verify as verify_image

    results = []
    damage: list[_Damage] = []
    everywhere = list(_stores(data, None, config)) if repair else []
    with Board() as board:
        for place, store in _stores(data, region, config):
            for image_id in store.images():
                entry: dict[str, Any] = {
                    **place,
                    "image": image_id,
                    "state": "Good",
                    "checkedBytes": 0,
                    "bad": [],
                }
                try:
                    size_bytes = max(store.stat(image_id).data_bytes, 1)
                    label = f"{store.name} {image_id[:12]}"

                    def show(report: Any, label: str = label, size_bytes: int = size_bytes) -> None:
                        checked = report.checked_bytes
                        text = f"{format_bytes(checked)} checked"
                        board.show([Row(label, min(checked / size_bytes, 1.0), text)])

                    report = verify_image(store, image_id, show)
                    show(report)
                    entry["checkedBytes"] = report.checked_bytes
                    entry["bad"] = [str(bad) for bad in report.bad]
                except ImageStoreError as error:
                    entry["bad"] = [str(error)]
                entry["state"] = "Damaged" if entry["bad"] else "Good"
                if entry["bad"]:
                    damage.append(_Damage(store, image_id, place["tenant"], entry))
                results.append(entry)
        # Again as long as it helps: what is good now may be what another one was waiting for.
        while repair and any(each.repair(everywhere) for each in damage):
            damage = [each for each in damage if each.entry["state"] == "Damaged"]
    damaged = sum(entry["state"] == "Damaged" for entry in results)
    if damaged:
        raise CommandFailed(
            f"{damaged} of {len(results)} images are damaged: see `bad` of each.", result=results
        )
    return results


@dataclass
class _Damage:
    """An image in a store in which something is bad; `entry` is its line of the answer."""

    store: "ImageStore"
    image_id: str
    tenant: str
    entry: dict[str, Any]

    def repair(self, everywhere: list[tuple[dict[str, str], "ImageStore"]]) -> bool:
        """Bring the image again, and note in the entry what came of it. Returns whether it is good now."""
        from opengallery.imagestore import ImageStoreError
        from opengallery.imagestore import repair as repair_image
        from opengallery.imagestore import verify as verify_image

        siblings = [
            other
            for place, other in everywhere
            if place["tenant"] == self.tenant and other.name != self.store.name and other.has(self.image_id)
        ]
        reason = "No other store has this image. Publish it again from its source."
        if siblings:
            try:
                repair_image(self.store, self.image_id, siblings)
                if verify_image(self.store, self.image_id).is_good:
                    self.entry["state"] = "Repaired"
                    return True
                reason = "What was brought can't be read back: check the disk."
            except ImageStoreError as error:
                reason = str(error)
        if reason not in self.entry["bad"]:
            self.entry["bad"].append(reason)
        return False


@verb(app, "collect", ["gallery store collect --data ~/gallery"], columns=COLLECT_COLUMNS)
def collect(
    data: Data,
    region: RegionName = None,
    config: Config = None,
    grace_hours: Annotated[
        float,
        typer.Option(
            "--grace-hours", min=0, help="Keep what is younger; must be longer than any publishing takes."
        ),
    ] = 24,
) -> Any:
    """Free what no image needs: a first run marks it, a run after the grace deletes it."""
    from opengallery.imagestore import ImageStoreError
    from opengallery.imagestore import collect as collect_packs

    results = []
    failures = []
    for place, store in _stores(data, region, config):
        try:
            report = collect_packs(store, grace_s=grace_hours * 3600)
        except ImageStoreError as error:
            failures.append(CommandFailed(str(error), target=store.name))
            continue
        results.append(
            {
                **place,
                "markedPacks": report.marked_packs,
                "markedBytes": report.marked_bytes,
                "deletedPacks": report.deleted_packs,
                "repackedPacks": report.repacked_packs,
                "keptBytes": report.kept_bytes,
                "freedBytes": report.freed_bytes + report.swept_bytes,
            }
        )
    if failures:
        message = f"{len(failures)} of {len(failures) + len(results)} stores could not be collected."
        raise CommandFailed(message, details=failures, result=results)
    return results


@verb(app, "stats", ["gallery store stats --data ~/gallery -o table"], columns=STATS_COLUMNS)
def stats(data: Data, region: RegionName = None, config: Config = None) -> Any:
    """Count what the stores hold, store by store and image by image.

    Logical is the size of the images, data is without holes, unique is without what is held twice, stored
    is what lies there (with metadata), dead the part of it that collect can free.
    """
    from opengallery.imagestore import ImageStoreError, usage

    results = []
    for place, store in _stores(data, region, config):
        try:
            held, used = store.stats(), usage(store)
        except ImageStoreError as error:
            raise CommandFailed(str(error), target=store.name) from error
        results.append(
            {
                **place,
                "images": held.images,
                "imageBytes": used.logical_bytes,
                "dataBytes": used.data_bytes,
                "uniqueBytes": used.unique_bytes,
                "storedBytes": used.stored_bytes,
                "deadBytes": used.dead_bytes,
                "packs": held.packs,
                "quarantinedPacks": held.quarantined_packs,
                "perImage": [
                    {
                        "image": image.image_id,
                        "imageBytes": image.size_bytes,
                        "dataBytes": image.data_bytes,
                        "storedBytes": image.stored_bytes,
                        "ratio": round(image.ratio, 2),
                        "deletingFreesBytes": image.freed_bytes,
                    }
                    for image in used.images
                ],
                "unreadableImages": used.unreadable,
            }
        )
    return results


def _stores(
    data: Path, region: str | None, config: Path | None
) -> Iterator[tuple[dict[str, str], "ImageStore"]]:
    """Every tenant's part of every store that is there, with where it is. Makes nothing new."""
    from opengallery.database import Database
    from opengallery.imagestore import ImageStoreError
    from opengallery.regions import REGIONS, find_region
    from opengallery.replication.keys import MasterKeyError
    from opengallery.replication.stores import Stores
    from opengallery.settings import SettingsError, load_settings

    try:
        settings = load_settings(data, config)
        if settings.database_url is None and not (settings.data / "gallery.sqlite").exists():
            raise CommandFailed(f"There is no gallery in {data}: give the folder that `gallery serve` uses.")
        wanted = [*dict.fromkeys([*settings.regions, *REGIONS])]
        if region is not None:
            found = find_region(region)
            wanted = [name for name in wanted if name == (found.name if found else region)]
            if not wanted:
                raise CommandFailed(f"There is no region '{region}'.")
        stores = Stores(settings, Database(settings.database))
        for region_name, name, tenant in stores.parts(wanted):
            place = {"region": region_name, "store": name, "tenant": tenant}
            yield place, stores.open(name, tenant)
    except (SettingsError, MasterKeyError, ImageStoreError) as error:
        raise CommandFailed(str(error)) from error
