"""Record a boot: which reads a real machine makes of an image, as a trace to replay and to plan with.

The image goes into a store of its own, a real replica server serves it, and QEMU boots from it through a
relay that notes when each read came and when its answer was out. The boot ends at the first console line
that holds the text of --ready, which must be printed by the image itself.
Usage: record-boot.py IMAGE NAME OUTPUT.json [--ready TEXT] [--timeout SECONDS]
"""

import argparse
import asyncio
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import opengallery.hypervisors.trace as traces
from opengallery.database import Database, metadata, now
from opengallery.hypervisors import MachineSpec, Qemu, ReplicaUrl, Seed
from opengallery.imagestore import open_image
from opengallery.replica_server.supervisor import ReplicaServers
from opengallery.replication.stores import Stores
from opengallery.settings import Settings

REGION, STORE, TENANT, MACHINE = "westeurope", "westeurope-01", "recording", "recorded"
RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d+)\r\n", re.IGNORECASE)
CHUNK_BYTES = 1 << 20


@dataclass
class Seen:
    """A read as the relay saw it; times in seconds of the monotonic clock."""

    offset: int
    length: int
    started_s: float
    ended_s: float = 0.0


@dataclass
class Relay:
    """Stands before a replica server and notes the reads that it is asked for."""

    address: tuple[str, int]
    reads: list[Seen] = field(default_factory=list)
    port: int = 0

    def start(self) -> None:
        """Relay in a thread until the process ends."""
        listening = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True).start()
        listening.wait()

    async def _serve(self, listening: threading.Event) -> None:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        await server.serve_forever()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer: replica servers close the connection after each."""
        head = await reader.readuntil(b"\r\n\r\n")
        found = RANGE.search(head)
        seen = None
        if found and head.startswith(b"GET "):
            first, last = int(found[1]), int(found[2])
            seen = Seen(first, last + 1 - first, time.monotonic())
            self.reads.append(seen)
        source, sink = await asyncio.open_connection(*self.address)
        sink.write(head)
        while chunk := await source.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
        if seen:
            seen.ended_s = time.monotonic()
        sink.close()
        writer.close()


def main() -> None:
    """Boot once and write the trace."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("name")
    parser.add_argument("output", type=Path)
    parser.add_argument("--ready", default="READY ", help="the console text that ends the boot")
    parser.add_argument("--timeout", type=float, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="record-boot-") as folder:
        Path(folder).chmod(0o711)  # the machine runs as another user
        trace = record(Path(folder), options.image, options.name, options.ready, options.timeout)
    traces.save(trace, options.output)
    traces.load(options.output)
    think_s = (sum(read.think_us for read in trace.reads) + trace.ready_think_us) / 1e6
    service_s = sum(read.service_us for read in trace.reads) / 1e6
    print(
        f"{trace.name}: {len(trace.reads)} reads of {trace.total_bytes / 1e6:.1f} MB, "
        f"{service_s:.1f} s served, {think_s:.1f} s of think time, {options.output.stat().st_size} bytes"
    )


def record(folder: Path, image: Path, name: str, ready: str, timeout_s: float) -> traces.Trace:
    """Serve and boot `image`; what was read until its console says `ready`."""
    settings = Settings(data=folder)
    settings.machines.accelerator = "tcg"  # no probe inside the measured time
    database = Database(settings.database)
    with database.write() as connection:
        metadata.create_all(connection)
    stores = Stores(settings, database)
    with open_image(image) as source:
        image_bytes = source.size_bytes
        image_id = stores.open(STORE, TENANT).put(source).image_id
    servers, qemu = ReplicaServers(settings, stores), Qemu(settings)
    try:
        url = urlsplit(servers.url(REGION, STORE, TENANT, image_id))
        relay = Relay((str(url.hostname), int(url.port or 0)))
        relay.start()
        until = now() + timedelta(days=1)
        replica = ReplicaUrl(
            f"http://127.0.0.1:{relay.port}{url.path}",
            servers.cookie(REGION, STORE, TENANT, image_id, MACHINE, until),
        )
        qemu.create(MachineSpec(MACHINE, "V1", 1, 256, image_bytes, Seed("recorded", "azureuser")))
        began_s = time.monotonic()
        qemu.start(MACHINE, [replica])
        ready_s = wait_for(qemu.console(MACHINE), ready, began_s + timeout_s)
    finally:
        qemu.close()
        servers.close()
        database.close()
    return trace_of(name, image_bytes, ready, relay.reads, began_s, ready_s)


def wait_for(console: Path, ready: str, deadline_s: float) -> float:
    """When the console said `ready`."""
    while time.monotonic() < deadline_s:
        if console.exists() and ready in console.read_text(errors="replace"):
            return time.monotonic()
        time.sleep(0.005)
    raise SystemExit(
        f"The console never said '{ready}'. Its end:\n{console.read_text(errors='replace')[-2000:]}"
    )


def trace_of(
    name: str, image_bytes: int, ready: str, seen: list[Seen], began_s: float, ready_s: float
) -> traces.Trace:
    """What ended before READY; a read waits for the last one that had ended when it started.

    The first waits for the machine's start and its firmware.
    """
    reads = sorted((read for read in seen if 0 < read.ended_s < ready_s), key=lambda read: read.started_s)
    if not reads:
        raise SystemExit("The machine became ready without a read: is this the image that it boots?")
    listed = []
    for number, read in enumerate(reads):
        ended = [other for other in range(number) if reads[other].ended_s <= read.started_s]
        after = max(ended, key=lambda other: reads[other].ended_s, default=traces.AT_START)
        free_s = reads[after].ended_s if ended else began_s
        think_s, service_s = read.started_s - free_s, read.ended_s - read.started_s
        listed.append(
            traces.Read(read.offset, read.length, after, round(think_s * 1e6), round(service_s * 1e6))
        )
    last_s = max(read.ended_s for read in reads)
    return traces.Trace(
        format=traces.FORMAT,
        name=name,
        image_bytes=image_bytes,
        recorded=f"{qemu_version()}, TCG, 1 vCPU, 256 MiB, V1, {platform.machine()}, {now():%Y-%m-%d}",
        ready_means=f"the console said '{ready.strip()}'",
        ready_think_us=round((ready_s - last_s) * 1e6),
        reads=tuple(listed),
    )


def qemu_version() -> str:
    """`QEMU 7.2.15`."""
    said = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\S+)", said.stdout)
    return f"QEMU {found[1] if found else '?'}"


if __name__ == "__main__":
    sys.exit(main())
