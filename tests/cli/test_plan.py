"""`gallery plan`: what it asks, what it says, what it draws, and what it refuses."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from opengallery.cli.failure import Misuse
from opengallery.cli.plan import parse_rate, parse_time

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, StandIn

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
VERSION = f"{GROUP}/providers/Microsoft.Compute/galleries/g/images/d/versions/1.0.0"
LINE = ["plan", "--image", VERSION, "--region", "West Europe", "--replica-bandwidth", "240Mbps"]
STORED_BYTES = 20_000_000


@pytest.fixture(autouse=True)
def version(arm: StandIn) -> None:
    """A version of the size of `mini` with a replica in each of two regions."""
    for region, stored_bytes in (("westeurope", STORED_BYTES), ("eastus2", 1)):
        arm.resources[f"{VERSION}/replicas/{region}".lower()] = {
            "region": region,
            "store": f"{region}-01",
            "state": "Completed",
            "bytes": 48 << 20,
            "storedBytes": stored_bytes,
        }


def test_a_plan_names_the_fewest_replicas_and_what_each_count_costs(gallery: Gallery) -> None:
    outcome = gallery(*LINE, "--vms", "50", "--boot-target", "30s")
    assert outcome.code == 0
    plan = outcome.json
    assert (plan["trace"], plan["vms"], plan["storedBytesPerReplica"]) == ("mini", 50, STORED_BYTES)
    curve = {point["replicas"]: point for point in plan["curve"]}
    assert curve[1]["vmsPerReplica"] == 50 and curve[5]["vmsPerReplica"] == 10
    assert curve[1]["bootSeconds"] > 50 * 37.2 / 30  # no faster than its link sends
    assert all(point["storedBytes"] == point["replicas"] * STORED_BYTES for point in plan["curve"])
    assert max(curve) == 50
    met = [replicas for replicas, point in curve.items() if point["meetsTarget"]]
    assert plan["replicas"] == min(met)
    assert all(curve[replicas]["bootSeconds"] <= 30 for replicas in met)
    assert f"30s: {plan['replicas']} replicas" in outcome.err
    assert len(outcome.err.splitlines()) == 2 + len(curve)


def test_data_disks_cost_bytes_and_are_not_booted_from(arm: StandIn, gallery: Gallery) -> None:
    arm.resources[f"{VERSION}/replicas/data".lower()] = {
        "region": "westeurope",
        "store": "westeurope-01",
        "state": "Completed",
        "bytes": 4 << 40,
        "storedBytes": 500,
        "lun": 0,
    }
    plan = gallery(*LINE, "--vms", "10").json
    assert (plan["trace"], plan["storedBytesPerReplica"]) == ("mini", STORED_BYTES + 500)


def test_faster_guests_need_more_replicas_to_be_as_fast_as_they_can(gallery: Gallery) -> None:
    slow = gallery(*LINE, "--vms", "50", "--boot-target", "8s").json
    fast = gallery(*LINE, "--vms", "50", "--boot-target", "8s", "--pace", "10").json
    assert slow["replicas"] is None  # the recorded guest alone takes longer
    assert fast["replicas"] > 5


def test_the_curve_is_drawn_as_svg(gallery: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "plan.svg"
    outcome = gallery(*LINE, "--vms", "20", "--svg", str(file), "--only-show-errors", "-o", "table")
    assert outcome.err == ""
    assert outcome.out.split()[:3] == ["Region", "Vms", "Trace"]
    drawn = ElementTree.parse(file).getroot()
    name = "{http://www.w3.org/2000/svg}"
    points = drawn.findall(f"{name}circle")
    assert [point.findtext(f"{name}title", "").split(":")[0] for point in points][:2] == [
        "1 replicas",
        "2 replicas",
    ]
    heights = [float(point.get("cy", "")) for point in points]
    assert heights == sorted(heights)  # more replicas, less time: further down


def test_a_version_without_a_replica_cannot_be_planned_with(arm: StandIn, gallery: Gallery) -> None:
    arm.resources.clear()
    outcome = gallery(*LINE, "--vms", "50")
    assert outcome.code == 1
    assert "has no completed replica" in outcome.err


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (["--region", "atlantis"], "no region 'atlantis'"),
        (["--image", GROUP], "not the id of an image version"),
        (["--replica-bandwidth", "fast"], "'fast' is no rate"),
        (["--boot-target", "soon"], "'soon' is no time"),
        (["--pace", "nan"], "--pace: 'nan' is no number"),
        (["--pace", "inf"], "--pace: 'inf' is no number"),
        (["--svg", "/no/such/folder/plan.svg"], "no folder '/no/such/folder'"),
    ],
)
def test_what_makes_no_sense_is_refused(gallery: Gallery, changed: list[str], why: str) -> None:
    outcome = gallery(*LINE, "--vms", "50", *changed)
    assert outcome.code == 2
    assert why in outcome.err


def test_rates_and_times_are_read_in_the_units_that_people_write() -> None:
    assert parse_rate("1Gbps") == parse_rate("1000 Mbit") == parse_rate("125MB/s") == 125e6
    assert parse_time("2m") == parse_time("2min") == parse_time("120s") == parse_time("120") == 120
    for wrong in ("0Gbps", "1.2.3Gbps", "Gbps", "1 apple"):
        with pytest.raises(Misuse):
            parse_rate(wrong)
