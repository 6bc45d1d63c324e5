"""Boot storms: replayed machines over real replica servers, each read checked byte by byte.

First machines of `mini` behind links of 30 MB/s, on one replica (all that a managed image has) and on five,
beside what `gallery plan` says; then 1,000 machines of deb12-v1 on five replicas of one region, beside the same
server under wrk. The replaying process and the servers share this host. Needs root, for the links.
Usage: storm.py [IMAGES-FOLDER] [BOOT-IMAGE] [--turns N] [--machines N]
"""

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from statistics import median

from links import links
from replica_processes import ReplicaProcess, cpu_s, family, peak_bytes
from storm_region import REGION, STORES, TENANT, Region, Storm
from subject import ROOT

from opengallery.database import now
from opengallery.hypervisors import ReplicaUrl
from opengallery.hypervisors.storm import CONTENT_OF_WIRE, forecast
from opengallery.replica_server.protocol import BACKLOG
from opengallery.replica_server.supervisor import ReplicaServers

LINK_BYTES_PER_S = 30_000_000
MACHINES = 50
FAST_PACE = 10
"""How many times as fast as under TCG guests compute here: fast enough for the links to be what is slow."""
WRK_S = 15
WRK_CONNECTIONS = 50
MB = 1_000_000
MIB = 1 << 20

Replica = Callable[[str, str], ReplicaUrl]


def main(images: Path, boot_image: Path, turns: int, machines: int) -> None:
    """Print every table."""
    image = images / "deb12-v1.raw"
    if machines and not image.exists():
        raise SystemExit(f"{images} has no deb12-v1. Run `make images` first.")
    with tempfile.TemporaryDirectory(prefix="storm-bench-", dir=ROOT / ".cache") as folder:
        if turns:
            shaped(Path(folder) / "shaped", boot_image, turns)
        if machines:
            large(Path(folder) / "large", image, machines)


def shaped(folder: Path, image: Path, turns: int) -> None:
    """The announcement's contrast: one copy behind one link, and five replicas behind a link each."""
    region = Region(folder, image)
    with behind_links(region) as servers:

        def replica(store: str, machine: str) -> ReplicaUrl:
            return ReplicaUrl(servers[store].url, servers[store].cookie(machine))

        for store in STORES:  # the caches hold what boots read
            region.storm(1, 1, FAST_PACE, lambda _, machine, store=store: replica(store, machine))
        print(
            f"boots of {region.trace.name} ({region.trace.total_bytes / MB:.1f} MB each) behind links of "
            f"{LINK_BYTES_PER_S / MB:.0f} MB/s; medians of {turns}; pace: guests' speed, of the recorded one's\n"
            f"{'machines':>8}{'replicas':>10}{'pace':>6}{'MB/s':>8}{'READY s: median':>17}{'last':>8}"
            f"{'planned':>9}{'planned/last':>14}{'failovers':>11}"
        )
        one, _ = compare(region, servers, replica, MACHINES, 1, FAST_PACE, turns)
        five, unevenness = compare(region, servers, replica, MACHINES, len(STORES), FAST_PACE, turns)
        for machines, replicas in ((MACHINES, 1), (MACHINES, len(STORES)), (4 * MACHINES, len(STORES))):
            compare(region, servers, replica, machines, replicas, 1, turns)
    show("five replicas, of one replica's throughput", five / one, "at least 4.7")
    show("machines of a replica, most less least", unevenness[0], "at most 1")
    show("bytes of a replica, most over least, less 1", unevenness[1], "at most 0.05")


def compare(
    region: Region,
    servers: dict[str, ReplicaProcess],
    replica: Replica,
    machines: int,
    replicas: int,
    pace: float,
    turns: int,
) -> tuple[float, tuple[float, float]]:
    """Storms beside the plan: one line. Returns throughput, and how uneven machines and bytes were."""
    storms: list[Storm] = []
    uneven_machines, uneven_bytes = 0.0, 0.0
    for _ in range(turns):
        before = {store: servers[store].sent_bytes() for store in STORES}
        storm = region.storm(machines, replicas, pace, replica)
        storms.append(storm)
        sent = [servers[store].sent_bytes() - before[store] for store in STORES[:replicas]]
        counts = [storm.machines[store] for store in STORES[:replicas]]
        uneven_machines = max(uneven_machines, max(counts) - min(counts))
        uneven_bytes = max(uneven_bytes, max(sent) / min(sent) - 1)
    planned_s = forecast(
        region.trace.at_pace(pace), -(-machines // replicas), LINK_BYTES_PER_S * CONTENT_OF_WIRE
    ).ready_s
    last_s = median(storm.wall_s for storm in storms)
    bytes_per_s = median(storm.bytes_per_s for storm in storms)
    print(
        f"{machines:>8}{replicas:>10}{pace:>6}{bytes_per_s / MB:>8.1f}"
        f"{median(median(storm.ready_s) for storm in storms):>17.1f}{last_s:>8.1f}"
        f"{planned_s:>9.1f}{planned_s / last_s:>14.2f}{sum(storm.failovers for storm in storms):>11}",
        flush=True,
    )
    return bytes_per_s, (uneven_machines, uneven_bytes)


@contextmanager
def behind_links(region: Region) -> Iterator[dict[str, ReplicaProcess]]:
    """A replica server for each store, each behind a link of its own."""
    with links(len(STORES), LINK_BYTES_PER_S) as made, ExitStack() as running:
        servers = {}
        for store, link in zip(STORES, made, strict=True):
            server = ReplicaProcess(link.listen(BACKLOG), region.stores, store, TENANT, region.image_id)
            running.callback(server.close)
            servers[store] = server
        yield servers


def large(folder: Path, image: Path, machines: int) -> None:
    """A large storm on one region's server, beside the same server under wrk with the same reads."""
    region = Region(folder, image)
    with closing(ReplicaServers(region.settings, region.stores)) as servers:
        where = TENANT, region.image_id

        def replica(store: str, machine: str) -> ReplicaUrl:
            until = now() + timedelta(days=1)
            return ReplicaUrl(
                servers.url(REGION, store, *where), servers.cookie(REGION, store, *where, machine, until)
            )

        def sent_bytes() -> int:
            return sum(servers.counters(REGION).values())

        region.storm(len(STORES), len(STORES), 1000, replica)
        pids = family(servers.pids()[REGION])
        wrk_bytes_per_s = under_wrk(folder, region, replica, sent_bytes)
        before_s = sum(map(cpu_s, pids))
        storm = region.storm(machines, len(STORES), 1, replica)
        server_s = sum(map(cpu_s, pids)) - before_s
        peak = max(map(peak_bytes, pids))
    counts = storm.machines.values()
    print(
        f"{machines} machines of {region.trace.name} on {len(STORES)} replicas of one region: all READY and "
        f"every byte right after {storm.wall_s:.0f} s, {storm.total_bytes / MB / 1000:.1f} GB, "
        f"{storm.failovers} failovers\nthroughput {storm.bytes_per_s / MB:.0f} MB/s, under wrk "
        f"{wrk_bytes_per_s / MB:.0f} MB/s; CPU s: server {server_s:.0f}, replaying {storm.replaying_s:.0f}"
    )
    show("throughput, of the same server's under wrk", storm.bytes_per_s / wrk_bytes_per_s, "at least 0.5")
    show("machines of a replica, most less least", max(counts) - min(counts), "at most 1")
    show("largest server process, peak MiB", peak / MIB, "under 512")


def under_wrk(folder: Path, region: Region, replica: Replica, sent_bytes: Callable[[], int]) -> float:
    """Bytes per second of the server while wrk makes the trace's reads of all replicas in random order."""
    replicas = [replica(store, "wrk") for store in STORES]
    ranges = ",".join(f'"bytes={r.offset}-{r.offset + r.length - 1}"' for r in region.trace.reads)
    paths = ",".join(f'"/{r.url.split("/", 3)[3]}"' for r in replicas)
    cookies = ",".join(f'"{r.cookie}"' for r in replicas)
    script = folder / "storm.lua"
    script.write_text(
        f"local ranges, paths, cookies = {{{ranges}}}, {{{paths}}}, {{{cookies}}}\n"
        "function request()\n"
        "  local at = math.random(#paths)\n"
        '  return wrk.format("GET", paths[at], {Cookie = cookies[at], Range = ranges[math.random(#ranges)]})\n'
        "end\n"
    )
    before, began_s = sent_bytes(), time.monotonic()
    command = ["wrk", "-t", "1", "-c", str(WRK_CONNECTIONS), "-d", str(WRK_S), "-s", script, replicas[0].url]
    subprocess.run(command, check=True, capture_output=True)
    return (sent_bytes() - before) / (time.monotonic() - began_s)


def show(what: str, value: float, wanted: str) -> None:
    """One line of the bench: what, its value, and what was wanted."""
    print(f"{what:<50}{value:>8.2f}   wanted: {wanted}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Boot storms of replayed machines.")
    parser.add_argument("images", type=Path, nargs="?", default=ROOT / ".cache/images")
    parser.add_argument("boot_image", type=Path, nargs="?", default=ROOT / ".cache/boot.raw")
    parser.add_argument("--turns", type=int, default=3, help="of the storms behind links; 0: none")
    parser.add_argument("--machines", type=int, default=1000, help="of the large storm; 0: none")
    main(**vars(parser.parse_args()))
