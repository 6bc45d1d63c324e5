"""Galleries, definitions and versions: what is sent for a line of the announcement."""

from typing import Any

import pytest

from opengallery.cli import progress

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, Request, StandIn

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
COMPUTE = f"{GROUP}/providers/Microsoft.Compute"
DEFINITION = f"{COMPUTE}/galleries/myGallery/images/myImageDefinition"
NAMES = ["-g", "rg", "--gallery-name", "myGallery", "--gallery-image-definition", "myImageDefinition"]
VERSION = [*NAMES, "--gallery-image-version", "1.0.2"]


def last_put(arm: StandIn) -> Request:
    return arm.calls("PUT")[-1]


def test_an_image_definition_as_az_sends_it(arm: StandIn, gallery: Gallery) -> None:
    line = ["--publisher", "myPublisher", "--offer", "myOffer", "--sku", "mySKU", "--os-type", "linux"]
    outcome = gallery("sig", "image-definition", "create", *NAMES, *line)
    assert outcome.code == 0
    sent = last_put(arm)
    assert sent.path == DEFINITION
    assert sent.query == {"api-version": "2021-10-01"}
    assert sent.json == {
        "location": "westcentralus",
        "tags": {},
        "properties": {
            "identifier": {"publisher": "myPublisher", "offer": "myOffer", "sku": "mySKU"},
            "osType": "Linux",
            "osState": "Generalized",
            "hyperVGeneration": "V2",
            "features": [{"name": "SecurityType", "value": "TrustedLaunchSupported"}],
        },
    }


def test_a_v1_definition_has_no_security_type(arm: StandIn, gallery: Gallery) -> None:
    line = ["-p", "p", "-f", "o", "-s", "s", "--os-type", "Linux", "--hyper-v-generation", "V1"]
    gallery("sig", "image-definition", "create", *NAMES, *line)
    assert "features" not in last_put(arm).json["properties"]


def test_the_announcements_version_as_az_sends_it(arm: StandIn, gallery: Gallery) -> None:
    image = f"{COMPUTE}/images/img1"
    line = [
        "--target-regions",
        "West Central US",
        "South Central US=1",
        "East US 2=1",
        "--replica-count",
        "5",
    ]
    outcome = gallery("sig", "image-version", "create", *VERSION, *line, "--managed-image", image)
    assert outcome.json["provisioningState"] == "Succeeded"
    assert last_put(arm).path == f"{DEFINITION}/versions/1.0.2"
    assert last_put(arm).query == {"api-version": "2024-03-03"}
    assert last_put(arm).json == {
        "location": "westcentralus",
        "tags": {},
        "properties": {
            "publishingProfile": {
                "targetRegions": [
                    {"name": "West Central US"},
                    {"name": "South Central US", "regionalReplicaCount": 1},
                    {"name": "East US 2", "regionalReplicaCount": 1},
                ],
                "replicaCount": 5,
            },
            "storageProfile": {"source": {"id": image}},
        },
    }


@pytest.mark.parametrize(
    ("words", "profile"),
    [
        (["--managed-image", "img"], {"source": {"id": f"{COMPUTE}/images/img"}}),
        (["--os-snapshot", "s"], {"osDiskImage": {"source": {"id": f"{COMPUTE}/snapshots/s"}}}),
        (
            ["--os-snapshot", "s", "--data-snapshots", "a", f"{COMPUTE}/disks/b"],
            {
                "osDiskImage": {"source": {"id": f"{COMPUTE}/snapshots/s"}},
                "dataDiskImages": [
                    {"source": {"id": f"{COMPUTE}/snapshots/a"}, "lun": 0},
                    {"source": {"id": f"{COMPUTE}/disks/b"}, "lun": 1},
                ],
            },
        ),
        (
            ["--os-snapshot", "s", "--data-snapshots", "a", "--data-snapshot-luns", "7"],
            {
                "osDiskImage": {"source": {"id": f"{COMPUTE}/snapshots/s"}},
                "dataDiskImages": [{"source": {"id": f"{COMPUTE}/snapshots/a"}, "lun": 7}],
            },
        ),
        (
            ["--virtual-machine", f"{COMPUTE}/virtualMachines/vm"],
            {"source": {"virtualMachineId": f"{COMPUTE}/virtualMachines/vm"}},
        ),
    ],
)
def test_sources_of_a_version(
    arm: StandIn, gallery: Gallery, words: list[str], profile: dict[str, Any]
) -> None:
    gallery("sig", "image-version", "create", *VERSION, *words)
    properties = last_put(arm).json["properties"]
    assert properties["storageProfile"] == profile
    assert properties["publishingProfile"]["targetRegions"] == [{"name": "westcentralus"}]


def test_a_version_needs_exactly_one_source(gallery: Gallery) -> None:
    assert gallery("sig", "image-version", "create", *VERSION).code == 2
    both = ["--managed-image", "a", "--os-snapshot", "b"]
    assert gallery("sig", "image-version", "create", *VERSION, *both).code == 2


def test_data_snapshots_go_with_an_os_snapshot_and_as_many_luns(gallery: Gallery) -> None:
    create = ["sig", "image-version", "create", *VERSION]
    assert gallery(*create, "--managed-image", "a", "--data-snapshots", "b").code == 2
    assert gallery(*create, "--os-snapshot", "a", "--data-snapshot-luns", "1").code == 2
    luns = ["--data-snapshot-luns", "1", "2"]
    assert gallery(*create, "--os-snapshot", "a", "--data-snapshots", "b", *luns).code == 2


def replicate(arm: StandIn) -> None:
    """Versions on the stand-in replicate one step a look."""

    def summary(path: str, resource: dict[str, Any]) -> None:
        if "/versions/" in path:
            entry = {"region": "West US", "state": "Replicating", "progress": 50}
            entry |= {"bytesMoved": 3 << 20, "bytesSaved": 1 << 20, "secondsLeft": 4}
            resource["properties"]["replicationStatus"] = {"summary": [entry]}

    arm.on_put = summary


def test_create_shows_each_region_while_it_waits(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_FOR_S", 0)
    replicate(arm)
    outcome = gallery("sig", "image-version", "create", *VERSION, "--managed-image", "img")
    assert outcome.code == 0
    assert outcome.err == "West US: 50% 3.0 MiB moved, 1.0 MiB saved, 0:04 left\n"
    assert {"$expand": "ReplicationStatus", "api-version": "2024-03-03"} in [
        request.query for request in arm.calls("GET", "versions/1.0.2")
    ]


def test_progress_that_can_not_be_had_does_not_fail_the_create(arm: StandIn, gallery: Gallery) -> None:
    from .stand_in import Answer

    forbidden = Answer(403, {"error": {"code": "AuthorizationFailed", "message": "no"}})
    arm.fault = lambda request: forbidden if "$expand" in request.query else None
    assert gallery("sig", "image-version", "create", *VERSION, "--managed-image", "img").code == 0


def test_update_writes_the_whole_version_back(arm: StandIn, gallery: Gallery) -> None:
    profile = {"targetRegions": [{"name": "westus"}], "replicaCount": 1}
    storage = {"source": {"id": "x"}}
    path = f"{DEFINITION}/versions/1.0.2"
    arm.add(
        path, {"location": "westus", "properties": {"publishingProfile": profile, "storageProfile": storage}}
    )
    gallery("sig", "image-version", "update", *VERSION, "--target-regions", "westus=2", "eastus")
    sent = last_put(arm).json
    assert sent["properties"]["storageProfile"] == storage
    assert sent["properties"]["publishingProfile"]["targetRegions"] == [
        {"name": "westus", "regionalReplicaCount": 2},
        {"name": "eastus"},
    ]
    add = ["--add", "publishingProfile.targetRegions", "name=uksouth", "regionalReplicaCount=3"]
    gallery("sig", "image-version", "update", "--ids", path, *add, "--set", "tags.a=b")
    sent = last_put(arm).json
    assert sent["properties"]["publishingProfile"]["targetRegions"][2] == {
        "name": "uksouth",
        "regionalReplicaCount": 3,
    }
    assert sent["tags"] == {"a": "b"}


def test_wait_ends_when_created_and_fails_when_failed(arm: StandIn, gallery: Gallery) -> None:
    path = f"{DEFINITION}/versions/1.0.2"
    version = arm.add(path, {"properties": {"provisioningState": "Succeeded"}})
    assert gallery("sig", "image-version", "wait", *VERSION, "--created").code == 0
    version["properties"]["provisioningState"] = "Failed"
    assert gallery("sig", "image-version", "wait", *VERSION, "--created").code == 1
    version["properties"]["provisioningState"] = "Creating"
    late = ["--created", "--timeout", "0", "--interval", "0.1"]
    assert "is Creating after 0 s" in gallery("sig", "image-version", "wait", *VERSION, *late).err
    del arm.resources[path.lower()]
    assert gallery("sig", "image-version", "wait", *VERSION, "--deleted").code == 0


def test_several_ids_are_deleted_at_once_and_shown_as_a_list(arm: StandIn, gallery: Gallery) -> None:
    paths = [f"{COMPUTE}/galleries/g{number}" for number in range(3)]
    for path in paths:
        arm.add(path, {})
    assert [each["name"] for each in gallery("sig", "show", "--ids", *paths).json] == ["g0", "g1", "g2"]
    assert gallery("sig", "delete", "--ids", *paths).code == 0
    assert gallery("sig", "list").json == []


def test_replicas_are_listed_as_the_server_names_them(arm: StandIn, gallery: Gallery) -> None:
    path = f"{DEFINITION}/versions/1.0.2"
    arm.add(path, {})
    entry = {"region": "westus", "store": "westus-01", "state": "Completed", "bytes": 7, "vms": 2}
    arm.resources[f"{path}/replicas/a".lower()] = entry
    assert gallery("replica", "list", "--version", path).json == [entry]
    assert arm.requests[-1].query == {"api-version": "2026-03-03"}
    table = gallery("replica", "list", "--version", path, "-o", "table").out.splitlines()
    assert table[2].split() == ["westus", "westus-01", "Completed", "7", "2"]
    assert "Lun" not in table[0]
    arm.resources[f"{path}/replicas/b".lower()] = {**entry, "lun": 5}
    table = gallery("replica", "list", "--version", path, "-o", "table").out.splitlines()
    assert table[0].split()[:4] == ["Region", "Store", "Lun", "State"]
    assert table[3].split() == ["westus", "westus-01", "5", "Completed", "7", "2"]
    assert gallery("replica", "list", "--version", COMPUTE + "/galleries/g").code == 2


def test_a_table_of_versions_has_the_replication_state_where_it_was_asked_for(
    arm: StandIn, gallery: Gallery
) -> None:
    version = arm.add(f"{DEFINITION}/versions/1.0.2", {"properties": {}})
    for words in (("list", *NAMES), ("show", *VERSION)):
        assert "ReplicationState" not in gallery("sig", "image-version", *words, "-o", "table").out
    version["properties"]["replicationStatus"] = {"aggregatedState": "Completed"}
    expand = ["--expand", "ReplicationStatus", "-o", "table"]
    shown = gallery("sig", "image-version", "show", *VERSION, *expand).out.splitlines()
    assert "ReplicationState" in shown[0] and "Completed" in shown[2]


def test_a_target_region_with_a_wrong_count_is_misuse(arm: StandIn, gallery: Gallery) -> None:
    words = ["--managed-image", "a", "--target-regions", "West Europe=x"]
    outcome = gallery("sig", "image-version", "create", *VERSION, *words)
    assert outcome.code == 2 and "West Europe=x" in outcome.err
    assert not arm.calls("PUT")
