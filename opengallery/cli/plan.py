"""`gallery plan`: how many replicas of a version a boot storm needs, before it comes."""

import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import CommandFailed, Misuse
from opengallery.cli.image_version import VERSIONS
from opengallery.cli.options import parse_id

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

COLUMNS = {
    "Region": "region",
    "Vms": "vms",
    "Trace": "trace",
    "TargetSeconds": "bootTargetSeconds",
    "Replicas": "replicas",
    "BootSeconds": "bootSeconds",
    "StoredBytes": "storedBytes",
}
REPLICAS_MAX = 100
SHOWN = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 65, 80, 100)
UNITS = {"bit": 1 / 8, "bps": 1 / 8, "b": 1, "b/s": 1}
PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SECONDS = {"": 1, "s": 1, "m": 60, "min": 60}

app = new_app("How many replicas a boot storm needs.")


@verb(
    app,
    "plan",
    [
        "gallery plan --image $VERSION_ID --vms 1000 --region westeurope --replica-bandwidth 1Gbps -o table",
        "gallery plan --image $VERSION_ID --vms 200 --region westeurope --replica-bandwidth 30MB/s "
        "--boot-target 2m --svg plan.svg",
    ],
    columns=COLUMNS,
    flat=False,
)
def plan(
    arm: "ArmClient",
    image: Annotated[str, typer.Option("--image", metavar="ID", help="Id of the image version.")],
    vms: Annotated[int, typer.Option("--vms", min=1, max=100_000, help="VMs that start at once.")],
    region: Annotated[str, typer.Option("--region", metavar="REGION", help="Region in which they start.")],
    replica_bandwidth: Annotated[
        str,
        typer.Option("--replica-bandwidth", metavar="RATE", help="What a replica can send: 1Gbps, 30MB/s."),
    ],
    boot_target: Annotated[
        str, typer.Option("--boot-target", metavar="TIME", help="All are up within this time: 60s, 2m.")
    ] = "60s",
    pace: Annotated[
        float,
        typer.Option("--pace", min=0.01, help="VMs compute so many times as fast as the recorded one (TCG)."),
    ] = 1.0,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="A boot recorded by scripts/record-boot.py."),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw the curve into this file.")
    ] = None,
) -> Any:
    """Simulate so many VMs that start at once, and say how many replicas let all be up in time.

    Each VM makes the reads of a recorded boot with its pauses; a replica's link sends one read after the
    other. The curve is drawn on standard error. What a replica costs is what this version's cost already.
    """
    from opengallery.cli.plan_curve import draw_svg, draw_text
    from opengallery.hypervisors.storm import CONTENT_OF_WIRE, fewest_replicas, forecast
    from opengallery.hypervisors.trace import TraceError, choose

    version = parse_id(image, "--image")
    if version.type.lower() != VERSIONS.lower():
        raise Misuse(f"--image: '{image}' is not the id of an image version.")
    if not math.isfinite(pace):
        raise Misuse(f"--pace: '{pace}' is no number of times. Give one such as 10.")
    if svg is not None and not svg.absolute().parent.is_dir():
        raise Misuse(f"--svg: there is no folder '{svg.absolute().parent}'. Make it, or choose another.")
    bytes_per_s = parse_rate(replica_bandwidth) * CONTENT_OF_WIRE
    target_s = parse_time(boot_target)
    image_bytes, stored_bytes = _sizes(arm.list(version, f"{VERSIONS}/replicas"), region)
    try:
        boot = choose(image_bytes, str(trace) if trace else None).at_pace(pace)
    except TraceError as error:
        raise CommandFailed(str(error)) from error

    most = min(REPLICAS_MAX, vms)
    needed = fewest_replicas(boot, vms, bytes_per_s, target_s, most)
    points = []
    for replicas in sorted({*(count for count in SHOWN if count <= most), most, needed or most}):
        fullest = -(-vms // replicas)
        found = forecast(boot, fullest, bytes_per_s)
        points.append(
            {
                "replicas": replicas,
                "vmsPerReplica": fullest,
                "bootSeconds": round(max(found.ready_s, 0.1), 1),
                "longestReadSeconds": round(found.longest_read_s, 2),
                "storedBytes": replicas * stored_bytes,
                "meetsTarget": found.meets(target_s),
            }
        )
    title = f"{vms} VMs, replicas of {replica_bandwidth}, boot {boot.name}, all up within {boot_target}: " + (
        f"{needed} replicas" if needed else f"not even with {most} replicas"
    )
    if not arm.quiet:
        sys.stderr.write(draw_text(points, target_s, title))
    if svg is not None:
        try:
            svg.write_text(draw_svg(points, target_s, title))
        except OSError as error:
            raise CommandFailed(f"{svg} can't be written: {error.strerror}. Choose another --svg.") from error
    return {
        "image": str(version),
        "region": region,
        "vms": vms,
        "trace": boot.name,
        "bootTargetSeconds": target_s,
        "replicas": needed,
        "bootSeconds": next((p["bootSeconds"] for p in points if p["replicas"] == needed), None),
        "storedBytes": needed * stored_bytes if needed else None,
        "storedBytesPerReplica": stored_bytes,
        "curve": points,
    }


def _sizes(replicas: list[dict[str, Any]], region: str) -> tuple[int, int]:
    """The size of the OS disk's image, and what a replica of the version stores, its data disks included: in
    this region, or else wherever it has one."""
    from opengallery.regions import find_region

    known = find_region(region)
    if known is None:
        raise Misuse(f"--region: there is no region '{region}'.")
    complete = [replica for replica in replicas if replica["state"] == "Completed"]
    here = [replica for replica in complete if replica["region"] == known.name] or complete
    stored: dict[int | None, int] = {}
    for replica in here:
        lun = replica.get("lun")
        stored[lun] = max(stored.get(lun, 0), int(replica["storedBytes"]))
    if None not in stored:
        raise CommandFailed(
            "The version has no completed replica. Wait until it is Succeeded, and plan then."
        )
    image_bytes = next(int(replica["bytes"]) for replica in here if replica.get("lun") is None)
    return image_bytes, sum(stored.values())


def parse_rate(text: str) -> float:
    """Bytes per second of `1Gbps`, `800Mbit`, `30MB/s`. Raises `Misuse`."""
    found = re.fullmatch(r"([0-9.]+) *([kmgt]?)(bps|bit|b/s|b)", text.strip(), re.IGNORECASE)
    rate = _number(found[1]) * PREFIXES[found[2].lower()] * UNITS[found[3].lower()] if found else 0
    if rate <= 0:
        raise Misuse(f"--replica-bandwidth: '{text}' is no rate. Write 1Gbps or 30MB/s.")
    return rate


def parse_time(text: str) -> float:
    """Seconds of `60s`, `2m`, `90`. Raises `Misuse`."""
    found = re.fullmatch(r"([0-9.]+) *(s|min|m|)", text.strip())
    seconds = _number(found[1]) * SECONDS[found[2]] if found else 0
    if seconds <= 0:
        raise Misuse(f"--boot-target: '{text}' is no time. Write 60s or 2m.")
    return seconds


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0
