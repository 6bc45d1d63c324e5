"""The replica server beside nginx: random ranges of a real image under wrk, both hot, in turns.

nginx serves the raw file with sendfile, one worker; ours reads it from an image store whose blocks are
checked. Each server runs on one core and wrk on another. Connections are kept, but for the lines that say
"closed": QEMU reads so. Ranges lie in the image's data. Medians of `TURNS`. The last table has the cache at
its default, which is smaller than the image.
Usage: replica_server.py [IMAGES-FOLDER]
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from socket import create_connection, socket
from statistics import median
from typing import Any

from subject import ROOT

from opengallery.database import Database, metadata, now
from opengallery.imagestore import open_image
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import ReplicaSettings, Settings

IMAGE = "deb12-v1"
TURNS = 3
SECONDS = 3
RANGES = 4096
LENGTHS = (64 << 10, 256 << 10, 1 << 20)
CONNECTIONS = (50, 500)
CLOSED_LENGTHS = (64 << 10, 256 << 10)
HOT_CACHE_MIB = 1024
SERVER_CORE, CLIENT_CORE = "0", "1"
LUA = Path(__file__).with_name("ranges.lua")
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000000; open_file_cache max=16;
  server {{ listen 127.0.0.1:{port} backlog=4096; root {root}; }}
}}
"""


@dataclass
class Target:
    """One server as wrk sees it."""

    name: str
    url: str
    cookie: str


def main(images: Path) -> None:
    """Print both tables."""
    image = images / f"{IMAGE}.raw"
    if not image.exists():
        raise SystemExit(f"{images} has no {IMAGE}. Run `make images` first.")
    with tempfile.TemporaryDirectory(prefix="replica-bench-", dir=ROOT / ".cache") as folder:
        work = Path(folder)
        work.chmod(0o711)  # nginx's worker runs as another user
        extents = data_extents(image)
        lists = {length: range_list(work, extents, length) for length in LENGTHS}
        with nginx(image, work) as peer, replica_server(image, work, HOT_CACHE_MIB) as (ours, pid):
            for target in (peer, ours):
                warm(target, extents)
            compare([peer, ours], lists)
            print(
                f"memory of the replica server: {memory_bytes(pid) / 1e6:.0f} MB, {HOT_CACHE_MIB} MiB cache"
            )
        default_mib = ReplicaSettings().cache_mib
        with replica_server(image, work, default_mib) as (ours, pid):
            print(f"\nthe whole image, {default_mib} MiB cache")
            for length, ranges in lists.items():
                found = measure(ours, ranges, length, CONNECTIONS[0])
                rate = found["bytes"] / found["seconds"] / 1e6
                print(f"{length >> 10:>6} KiB{rate:>10.0f} MB/s, p99 {found['p99_ms']:.0f} ms")
            print(f"memory of the replica server: {memory_bytes(pid) / 1e6:.0f} MB")


def compare(targets: list[Target], lists: dict[int, Path]) -> None:
    """Measure all in turns and print how ours stands beside the peer."""
    print(
        f"{'':<22}{'nginx':>21}{'replica server':>21}{'of nginx':>16}\n"
        f"{'range, connections':<22}"
        + f"{'MB/s':>11}{'p99 ms':>10}" * len(targets)
        + f"{'MB/s':>8}{'p99':>8}{'errors':>8}"
    )
    kept = [(length, connections, "keep-alive") for length in lists for connections in CONNECTIONS]
    closed = [(length, CONNECTIONS[0], "close") for length in CLOSED_LENGTHS]
    for length, connections, connection in kept + closed:
        results: dict[str, list[dict[str, Any]]] = {target.name: [] for target in targets}
        for _ in range(TURNS):
            for target in targets:
                results[target.name].append(measure(target, lists[length], length, connections, connection))
        rates = [median(r["bytes"] / r["seconds"] / 1e6 for r in found) for found in results.values()]
        tails = [median(r["p99_ms"] for r in found) for found in results.values()]
        errors = sum(r["errors"] for found in results.values() for r in found)
        cells = "".join(f"{rate:>11.0f}{tail:>10.1f}" for rate, tail in zip(rates, tails, strict=True))
        name = f"{length >> 10} KiB, {connections}{', closed' if connection == 'close' else ''}"
        print(
            f"{name:<22}{cells}{rates[1] / rates[0]:>8.2f}{tails[1] / tails[0]:>8.2f}{errors:>8}",
            flush=True,
        )


def measure(
    target: Target, ranges: Path, length: int, connections: int, connection: str = "keep-alive"
) -> dict[str, Any]:
    """Let wrk read for some seconds; what ranges.lua found."""
    done = subprocess.run(
        [
            "taskset", "-c", CLIENT_CORE,
            "wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--timeout", "20s", "-s", LUA, target.url,
            "--", ranges, str(length), connection, target.cookie,
        ],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def nginx(image: Path, work: Path) -> Iterator[Target]:
    """nginx, one worker, serving the image's file."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = work / "nginx.conf"
    configuration.write_text(NGINX.format(folder=work, port=port, root=image.parent))
    process = subprocess.Popen(["taskset", "-c", SERVER_CORE, "nginx", "-c", configuration])
    try:
        wait_for(port)
        yield Target("nginx", f"http://127.0.0.1:{port}/{image.name}", "")
    finally:
        process.terminate()
        process.wait()


@contextmanager
def replica_server(image: Path, work: Path, cache_mib: int) -> Iterator[tuple[Target, int]]:
    """A replica server process of ours that reads the image from a store; and its process id."""
    settings = Settings(data=work, replicas=ReplicaSettings(cache_mib=cache_mib))
    database = Database(settings.database)
    with database.write() as connection:
        metadata.create_all(connection)
    stores = Stores(settings, database)
    with open_image(image) as source:
        image_id = stores.open("bench-01", "tenant").put(source).image_id
    servers = ReplicaServers(settings, stores)
    try:
        until = now() + timedelta(hours=1)
        url = servers.url("bench", "bench-01", "tenant", image_id)
        cookie = servers.cookie("bench", "bench-01", "tenant", image_id, "bench", until)
        (pid,) = servers.pids().values()
        subprocess.run(["taskset", "-acp", SERVER_CORE, str(pid)], check=True, capture_output=True)
        yield Target("replica server", url, cookie), pid
    finally:
        servers.close()
        database.close()


def wait_for(port: int) -> None:
    """Return when something listens."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def warm(target: Target, extents: list[tuple[int, int]]) -> None:
    """Read all data once."""
    for first, end in extents:
        command = [
            "curl",
            "-sf",
            "-o",
            "/dev/null",
            "-H",
            f"Cookie: {target.cookie}",
            "-r",
            f"{first}-{end - 1}",
        ]
        subprocess.run([*command, target.url], check=True)


def data_extents(image: Path) -> list[tuple[int, int]]:
    """First byte and end of every part of a sparse file that is no hole."""
    extents, offset, size = [], 0, image.stat().st_size
    with image.open("rb") as file:
        while offset < size:
            try:
                first = os.lseek(file.fileno(), offset, os.SEEK_DATA)
            except OSError:
                break
            offset = os.lseek(file.fileno(), first, os.SEEK_HOLE)
            extents.append((first, offset))
    return extents


def range_list(work: Path, extents: list[tuple[int, int]], length: int) -> Path:
    """A file with the first bytes of random ranges that lie wholly in data."""
    whole = [(first, end) for first, end in extents if end - first >= length]
    numbers = random.Random(length)  # noqa: S311 (reproducible, no secret)
    chosen = numbers.choices(whole, [end - first - length + 1 for first, end in whole], k=RANGES)
    path = work / f"ranges-{length}"
    path.write_text("".join(f"{numbers.randrange(first, end - length + 1)}\n" for first, end in chosen))
    return path


def memory_bytes(pid: int) -> int:
    """What a process takes, with its cache: its resident pages."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache/images")
