#!/usr/bin/env python3
"""The announcement of Shared Image Gallery, end to end, with the `gallery` command on a fresh server.

Usage: scripts/demo.py [--keep]   --keep leaves the data folder, and says where it is
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
GALLERY = str(ROOT / ".venv" / "bin" / "gallery")
IMAGE = ROOT / ".cache" / "boot.raw"
GROUP, GALLERY_NAME, DEFINITION, VERSION = "myGalleryRG", "myGallery", "myImageDefinition", "1.0.2"
REGION, MACHINES, REPLICAS = "westcentralus", 10, 5
BOOT_DEADLINE_S = 150

console = Console(highlight=False, width=None if sys.stdout.isatty() else 118)


class DemoFailed(Exception):
    """A step did not show what it should; the message says which."""


def run(*words: str, show: bool = True) -> str:
    """Run one `gallery` command, show it as a person would type it, and return its standard output."""
    if show:
        console.print(f"\n[bold cyan]$ gallery {shlex.join(words)}[/]", soft_wrap=True)
    done = subprocess.run([GALLERY, *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"gallery {shlex.join(words)} ended with exit status {done.returncode}.")
    if show and done.stdout:
        console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
    return done.stdout


def ask(*words: str) -> object:
    """Run a command quietly and read its JSON."""
    return json.loads(run(*words, "-o", "json", show=False))


def start_server(data: Path) -> "subprocess.Popen[str]":
    """Start `gallery serve` on a free port, wait for its line, and take its environment over."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    console.print(f"[bold cyan]$ gallery serve --data {data} --port {port} &[/]")
    log = (data / "server.log").open("w")
    command = [GALLERY, "serve", "--data", str(data), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    line = server.stdout.readline() if server.stdout else ""
    if not line.startswith("ready"):
        raise DemoFailed(f"The server did not start: {(data / 'server.log').read_text()}")
    console.print(line.strip())
    console.print(f'[bold cyan]$ eval "$(gallery env --data {data})"[/]')
    shown = subprocess.run(
        [GALLERY, "env", "--data", str(data)], capture_output=True, text=True, check=True
    ).stdout
    os.environ["HOME"] = str(data)  # the keys that vm create makes stay out of yours
    os.environ.update(dict(re.findall(r"export (\w+)='([^']*)'", shown)))
    return server


def table(title: str, rows: list[dict[str, object]]) -> None:
    """Print rows with the keys of the first as columns."""
    drawn = Table(title=title, title_justify="left", title_style="bold")
    for name in rows[0]:
        drawn.add_column(name, justify="right" if isinstance(rows[0][name], int) else "left")
    for row in rows:
        drawn.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.values()))
    console.print(drawn)


def boot_line(machine: str) -> str | None:
    """The READY line of a machine's console, once it is there."""
    words = ("vm", "boot-diagnostics", "get-boot-log", "-g", GROUP, "-n", machine, "-o", "tsv")
    found = re.search(r"^READY \S+ \S+", run(*words, show=False), re.MULTILINE)
    return found[0] if found else None


def wait_until_ready(machines: list[str]) -> dict[str, str]:
    """Wait for the READY line of every machine, and show how many there are."""
    lines: dict[str, str] = {}
    deadline = time.monotonic() + BOOT_DEADLINE_S
    with Live(console=console, transient=True) as live:
        while len(lines) < len(machines):
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"Only {len(lines)} of {len(machines)} machines came up in {BOOT_DEADLINE_S} s."
                )
            live.update(f"booting: {len(lines)} of {len(machines)} machines are READY")
            for machine in machines:
                if machine not in lines and (line := boot_line(machine)) is not None:
                    lines[machine] = line
            time.sleep(0.5)
    return lines


def check_line(line: str, payload: str) -> None:
    """Raise unless the guest read the payload that the image was built with."""
    if line.split()[2] != payload:
        raise DemoFailed(f"'{line}' has another checksum than the image's {payload}.")


def announcement(payload: str) -> list[str]:
    """Run the announcement's commands. Returns what was proved, a line each."""
    run("feature", "register", "--namespace", "Microsoft.Compute", "--name", "GalleryPreview", "-o", "table")
    run("provider", "register", "-n", "Microsoft.Compute", "-o", "none")
    run("provider", "show", "-n", "Microsoft.Compute", "-o", "table")
    run("group", "create", "-n", GROUP, "-l", REGION, "-o", "table")
    run("sig", "create", "-g", GROUP, "--gallery-name", GALLERY_NAME, "-o", "table")
    run("sig", "image-definition", "create", "-g", GROUP, "--gallery-name", GALLERY_NAME,
        "--gallery-image-definition", DEFINITION, "--publisher", "myPublisher", "--offer", "myOffer",
        "--sku", "mySKU", "--os-type", "Linux", "--hyper-v-generation", "V1", "-o", "table")  # fmt: skip
    run("image", "import", str(IMAGE.relative_to(ROOT)), "-g", GROUP, "-n", "myImage", "--os-type", "Linux",
        "--hyper-v-generation", "V1", "-o", "table")  # fmt: skip
    image = ask("image", "show", "-g", GROUP, "-n", "myImage")["id"]  # type: ignore[index,call-overload]
    run("sig", "image-version", "create", "-g", GROUP, "--gallery-name", GALLERY_NAME,
        "--gallery-image-definition", DEFINITION, "--gallery-image-version", VERSION, "--target-regions",
        "West Central US", "South Central US=1", "East US 2=1", "--replica-count", str(REPLICAS),
        "--managed-image", image, "-o", "table")  # fmt: skip
    version = ask("sig", "image-version", "show", "-g", GROUP, "--gallery-name", GALLERY_NAME,
                  "--gallery-image-definition", DEFINITION, "--gallery-image-version", VERSION)["id"]  # type: ignore[index,call-overload]  # fmt: skip
    replicas = list_replicas(version)
    proved = [f"{len(replicas)} replicas in 3 regions, each a verified copy in a store of its own"]

    run("vm", "create", "-g", GROUP, "-n", "myVM", "--image", version, "--admin-username", "azureuser",
        "--generate-ssh-keys", "-o", "table")  # fmt: skip
    line = wait_until_ready(["myVM"])["myVM"]
    console.print(f"console of myVM: [bold green]{line}[/]")
    check_line(line, payload)
    proved.append(f"a machine booted from the version, and read the payload {payload} unchanged")

    before = told_to_read(ask("replica", "list", "--version", version))  # type: ignore[arg-type]
    run("vmss", "create", "-g", GROUP, "-n", "myScaleSet", "--image", version, "--admin-username", "azureuser",
        "--generate-ssh-keys", "--instance-count", str(MACHINES), "--orchestration-mode", "Flexible",
        "-o", "none")  # fmt: skip
    proved += scale_set(version, payload, before)
    return proved


def told_to_read(replicas: list[dict[str, object]]) -> Counter[str]:
    """How many machines were told to read each store of the region first."""
    return Counter({str(r["store"]): int(str(r["vms"])) for r in replicas if r["region"] == REGION})


def list_replicas(version: str) -> list[dict[str, object]]:
    """Show the version's replicas, and return them."""
    console.print(f"\n[bold cyan]$ gallery replica list --version {version}[/]", soft_wrap=True)
    replicas: list[dict[str, object]] = ask("replica", "list", "--version", version)  # type: ignore[assignment]
    table("Replicas", [{"Region": r["region"], "Store": r["store"], "State": r["state"], "Bytes": r["bytes"],
                        "StoredBytes": r["storedBytes"], "VMs": r["vms"], "BytesServed": r["bytesServed"]}
                       for r in replicas])  # fmt: skip
    return replicas


def scale_set(version: str, payload: str, before: Counter[str]) -> list[str]:
    """Wait for the ten machines, show who was told to read what, and check that the reads are spread.

    `before` is how many machines were told to read each store when there was no scale set.
    """
    instances: list[dict[str, object]] = ask("vmss", "list-instances", "-g", GROUP, "-n", "myScaleSet",
                                             "--expand", "instanceView")  # type: ignore[assignment]  # fmt: skip
    lines = wait_until_ready([str(instance["name"]) for instance in instances])
    rows: list[dict[str, object]] = []
    for instance in instances:
        replica = instance["instanceView"]["imageReplica"]  # type: ignore[index]
        store = replica["store"] if replica else "hydrated: none any more"
        line = lines[str(instance["name"])]
        check_line(line, payload)
        rows.append({"Machine": instance["name"], "Told to read": store, "Console": line})
    table("Machines of myScaleSet", rows)
    listed = list_replicas(version)
    told = told_to_read(listed) - before
    here = [r for r in listed if r["region"] == REGION]
    served = [int(str(replica["bytesServed"])) for replica in here]
    mean = sum(served) / len(served)
    if sorted(told.values()) != [MACHINES // REPLICAS] * REPLICAS:
        raise DemoFailed(f"The machines are not spread over the replicas: {dict(told)}.")
    if min(served) < mean / 2:
        raise DemoFailed(
            f"A replica served {min(served):,} bytes, less than half of the mean of {mean:,.0f}."
        )
    return [
        f"{MACHINES} machines of a scale set are READY with the right payload",
        f"each of the {REPLICAS} replicas was told to {MACHINES // REPLICAS} of them, and served "
        f"{min(served):,} to {max(served):,} bytes",
    ]


def main() -> int:
    """Run the demo. Returns the exit status."""
    started_s = time.monotonic()
    payload = Path(f"{IMAGE}.payload").read_text()[:16]  # the guest prints as much of the SHA-256
    data = Path(tempfile.mkdtemp(prefix="opengallery-demo-"))
    server = None
    try:
        server = start_server(data)
        proved = announcement(payload)
    except (DemoFailed, KeyboardInterrupt) as failure:
        console.print(f"\n[bold red]The demo failed:[/] {failure or 'interrupted'}")
        if (data / "server.log").exists():
            console.print((data / "server.log").read_text()[-3000:])
        return 1
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
        if "--keep" in sys.argv:
            console.print(f"The data folder is {data}.")
        else:
            shutil.rmtree(data, ignore_errors=True)
    console.print(f"\n[bold]Proved in {time.monotonic() - started_s:.0f} s:[/]")
    for line in proved:
        console.print(f"  [green]✓[/] {line}")
    console.print("\n[bold]Go on by hand:[/]")
    for line in (
        ".venv/bin/gallery serve --data ~/opengallery &",
        'eval "$(.venv/bin/gallery env --data ~/opengallery)"',
        "az cloud register -n opengallery --endpoint-resource-manager $GALLERY_ENDPOINT && az cloud set -n opengallery",
        "az login --service-principal -u $AZURE_CLIENT_ID -p $AZURE_CLIENT_SECRET --tenant $AZURE_TENANT_ID",
        "az group create -n myGroup -l westcentralus",
    ):
        console.print(f"  {line}", soft_wrap=True)
    return 0


sys.exit(main())
