"""Machines on a cold replica server, with prefetch and without: replayed boots of deb12-v1, from start to READY.

Each storm has a new server process, and packs that lie on the disk only. "warm": the control plane told it that
machines come, and it had the time that making a machine takes. "at first read": nobody told it.
Usage: prefetch.py [IMAGES-FOLDER] [--turns N]
"""

import argparse
import os
import tempfile
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from statistics import median

from replica_processes import cpu_s
from storm_region import REGION, STORES, TENANT, Region, Storm
from subject import ROOT

from opengallery.database import now
from opengallery.hypervisors import ReplicaUrl
from opengallery.replica_server.boots import SAVE_INTERVAL_S
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication import boot_pieces

IMAGE = "deb12-v1"
PACES = ((1, 10), (1, 100), (20, 10))
"""Machines, and how many times as fast as under TCG their guests compute."""
WAYS = ("off", "at first read", "warm")
WARM_TIMEOUT_S = 30


def main(images: Path, turns: int) -> None:
    """Print the table."""
    image = images / f"{IMAGE}.raw"
    if not image.exists():
        raise SystemExit(f"{images} has no {IMAGE}. Run `make images` first.")
    with tempfile.TemporaryDirectory(prefix="prefetch-bench-", dir=ROOT / ".cache") as folder:
        region = Region(Path(folder) / "region", image)
        storm(region, "at first read", 1, 10, pause_s=2 * SAVE_INTERVAL_S)  # the boot that is learned from
        learned = boot_pieces.load(region.settings.data, TENANT, region.image_id)
        print(
            f"learned from one boot of {IMAGE}: {len(learned)} pieces, "
            f"{len(learned) * boot_pieces.PIECE_BYTES >> 20} MiB; medians of {turns} turns\n"
            f"{'machines':>8}{'pace':>6}  {'prefetch':<15}{'READY s':>9}{'last':>8}"
            f"{'warmed in s':>13}{'server CPU s':>14}"
        )
        for machines, pace in PACES:
            found: dict[str, list[tuple[Storm, float, float]]] = {way: [] for way in WAYS}
            for _ in range(turns):
                for way in WAYS:
                    found[way].append(storm(region, way, machines, pace))
            for way, storms in found.items():
                ready_s = median(median(one.ready_s) for one, _, _ in storms)
                last_s = median(one.ready_s[-1] for one, _, _ in storms)
                warmed_s, server_s = (median(one[place] for one in storms) for place in (1, 2))
                print(
                    f"{machines:>8}{pace:>6}  {way:<15}{ready_s:>9.2f}{last_s:>8.2f}{warmed_s:>13.1f}{server_s:>14.1f}",
                    flush=True,
                )


def storm(
    region: Region, way: str, machines: int, pace: float, pause_s: float = 0
) -> tuple[Storm, float, float]:
    """Boot machines from a new server. Also how long it warmed before, and its CPU seconds."""
    region.settings.replicas.prefetch = way != "off"
    let_go(region.settings.data / "stores")
    with closing(ReplicaServers(region.settings, region.stores)) as servers:
        where = TENANT, region.image_id

        def replica(store: str, machine: str) -> ReplicaUrl:
            until = now() + timedelta(days=1)
            return ReplicaUrl(
                servers.url(REGION, store, *where), servers.cookie(REGION, store, *where, machine, until)
            )

        servers.url(REGION, STORES[0], *where)
        began_s = time.monotonic()
        while way == "warm" and not servers.warm(REGION, STORES[0], *where):
            assert time.monotonic() < began_s + WARM_TIMEOUT_S, "it is not warm"
            time.sleep(0.05)
        warmed_s = time.monotonic() - began_s
        done = region.storm(machines, len(STORES), pace, replica)
        (pid,) = servers.pids().values()
        time.sleep(pause_s)
        return done, warmed_s, cpu_s(pid)


def let_go(folder: Path) -> None:
    """Let the host's page cache forget what lies in the folder's files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Boots from a cold replica server, with prefetch and without."
    )
    parser.add_argument("images", type=Path, nargs="?", default=ROOT / ".cache/images")
    parser.add_argument("--turns", type=int, default=3)
    main(**vars(parser.parse_args()))
