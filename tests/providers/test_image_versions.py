"""Image versions: refused, published, changed, canceled, deleted."""

from typing import Any

import pytest
from sqlalchemy import select

from opengallery.replication import progress
from opengallery.replication.leftovers import leftovers

from .conftest import NAMED_REGION, Api
from .images import COMPUTE, REGION, definition, id_of, managed_image, replica_regions, version_body
from .vhds import MIB, SIZE_BYTES


def replication_status(api: Api, version: str) -> Any:
    """What `$expand=ReplicationStatus` tells."""
    return api.get(f"{version}?$expand=ReplicationStatus")["properties"]["replicationStatus"]


def rows(api: Api, path: str) -> list[progress.Replica]:
    """The replicas of a resource."""
    with api.services.database.read() as connection:
        return progress.replicas(connection, id_of(api, path).lower())


def leftover_count(api: Api) -> int:
    """How many images wait for their last reader."""
    with api.services.database.read() as connection:
        return len(connection.execute(select(leftovers)).all())


@pytest.fixture
def source(api: Api) -> tuple[str, str]:
    """A managed image, and a definition that fits."""
    group = api.group("versions")
    return managed_image(api, group, "source", 1, 2), definition(api, group)


NAMES = [
    "1",
    "1.0",
    "1.0.0.0",
    "v1.0.0",
    "1.0.x",
    "1.0.-1",
    "1.0.2147483648",
    "1.0.²",
    "latest",
    "1..0",
    "1.0. 1",
]


@pytest.fixture(scope="module")
def kept(server: Api) -> Any:
    """A source and a definition for the many tests that change nothing."""
    group = server.group("kept")
    server.groups.remove("kept")
    yield managed_image(server, group, "source", 1), definition(server, group)
    server.delete(group)


@pytest.mark.parametrize("name", NAMES)
def test_a_version_is_named_by_three_numbers(api: Api, kept: Any, name: str) -> None:
    image, parent = kept
    status, code, message = api.refused("PUT", f"{parent}/versions/{name}", version_body(api, image))
    assert (status, code) == (400, "InvalidParameter")
    assert "major.minor.patch" in message


TARGETS: list[tuple[Any, str]] = [
    ([{"name": "Atlantis"}], "LocationNotAvailableForResourceType"),
    ([{"name": "West Europe"}, {"name": "westeurope"}], "InvalidParameter"),
    ([], "InvalidParameter"),
    ("westeurope", "InvalidRequestContent"),
    ([{"regionalReplicaCount": 1}], "InvalidRequestContent"),
    *[
        ([{"name": "westeurope", "regionalReplicaCount": count}], code)
        for count, code in (
            (0, "InvalidParameter"),
            (-1, "InvalidParameter"),
            (101, "InvalidParameter"),
            ("x", "InvalidRequestContent"),
            (3.5, "InvalidRequestContent"),
            (True, "InvalidRequestContent"),
        )
    ],
]


@pytest.mark.parametrize(("targets", "code"), TARGETS)
def test_impossible_targets_are_refused(api: Api, kept: Any, targets: Any, code: str) -> None:
    image, parent = kept
    version = f"{parent}/versions/1.0.0"
    body = version_body(api, image, targetRegions=targets)
    status, found, message = api.refused("PUT", version, body)
    assert (status, found) == (400, code), message
    assert api.ask("GET", version).status_code == 404
    assert rows(api, version) == []


@pytest.mark.parametrize("count", [0, -1, 101, "x", 3.5])
def test_impossible_replica_counts_are_refused(api: Api, kept: Any, count: Any) -> None:
    image, parent = kept
    body = version_body(api, image, "westeurope", replicaCount=count)
    assert api.refused("PUT", f"{parent}/versions/1.0.0", body)[0] == 400


def test_a_count_above_the_named_stores_is_refused(api: Api, kept: Any) -> None:
    image, parent = kept
    version = f"{parent}/versions/1.0.0"
    status, code, message = api.refused("PUT", version, version_body(api, image, (NAMED_REGION, 3)))
    assert (status, code) == (400, "InvalidParameter")
    assert message == (
        f"Replica count 3 exceeds the 2 stores of region '{NAMED_REGION}'. "
        "Lower regionalReplicaCount or add a store in opengallery.toml."
    )
    api.put(version, version_body(api, image, (NAMED_REGION, 2)))
    assert {replica.store for replica in rows(api, version)} == {"sc-a", "sc-b"}
    api.delete(version)


def test_a_source_has_to_be_there_and_to_fit(api: Api, kept: Any) -> None:
    image, parent = kept
    version = f"{parent}/versions/1.0.0"
    group = parent.split("/providers/")[0]

    def refused(source: Any) -> tuple[int, str]:
        body = version_body(api, None)
        body["properties"]["storageProfile"] = source
        return api.refused("PUT", version, body)[:2]

    assert refused({"source": {"id": "not-an-id"}}) == (400, "LinkedInvalidPropertyId")
    assert refused({"source": {"id": id_of(api, f"{group}/{COMPUTE}/images/none")}})[0] == 404
    assert refused({"source": {"id": id_of(api, f"{group}/{COMPUTE}/galleries/gallery")}})[0] == 400
    assert refused({"source": {"id": 7}})[0] == 400
    assert refused({"source": {}})[0] == 400
    assert refused({})[0] == 400
    assert refused("x")[0] == 400
    orphan = f"{group}/{COMPUTE}/galleries/none/images/linux/versions/1.0.0"
    assert api.refused("PUT", orphan, version_body(api, image))[0] == 404
    elsewhere = {**version_body(api, image), "location": "westeurope"}
    assert api.refused("PUT", version, elsewhere)[:2] == (400, "InvalidParameter")
    second = definition(api, group, "second", "V2")
    assert api.refused("PUT", f"{second}/versions/1.0.0", version_body(api, image))[:2] == (
        400,
        "InvalidParameter",
    )
    assert rows(api, version) == []


def test_publishing_makes_the_replicas_and_tells_how_far_it_is(api: Api, source: Any) -> None:
    image, parent = source
    version = f"{parent}/versions/1.0.0"
    answer = api.ask("PUT", version, version_body(api, image, REGION, ("West Europe", 2), replicaCount=3))
    assert answer.status_code == 201
    assert answer.json()["properties"]["provisioningState"] == "Creating"
    assert api.refused("PUT", version, version_body(api, image))[:2] == (409, "Conflict")
    api.finish(answer)
    found = api.get(version)["properties"]
    assert found["provisioningState"] == "Succeeded"
    assert [target.get("regionalReplicaCount") for target in found["publishingProfile"]["targetRegions"]] == [
        None,
        2,
    ]
    assert [target["name"] for target in found["publishingProfile"]["targetRegions"]] == [
        "West Central US",
        "West Europe",
    ]
    assert found["publishingProfile"]["publishedDate"]
    assert "replicationStatus" not in found
    status = replication_status(api, version)
    assert status["aggregatedState"] == "Completed"
    assert {(region["region"], region["state"], region["progress"]) for region in status["summary"]} == {
        ("West Central US", "Completed", 100),
        ("West Europe", "Completed", 100),
    }
    assert replica_regions(api, version) == {"westcentralus": 3, "westeurope": 2}
    for replica in api.get(f"{version}/replicas")["value"]:
        assert (replica["bytes"], replica["vms"], replica["bytesServed"]) == (SIZE_BYTES, 0, 0)


def test_without_targets_a_version_goes_to_its_own_region(api: Api, source: Any) -> None:
    image, parent = source
    version = f"{parent}/versions/0.0.1"
    api.put(version, version_body(api, image))
    assert replica_regions(api, version) == {REGION: 1}


def test_an_update_makes_exactly_the_difference(api: Api, source: Any) -> None:
    image, parent = source
    version = f"{parent}/versions/1.0.0"
    api.put(version, version_body(api, image, REGION, ("westeurope", 3)))
    before = {replica.store: replica.started_at for replica in rows(api, version)}
    changed = api.get(version)
    changed["properties"]["storageProfile"] = {}
    changed["properties"]["publishingProfile"]["targetRegions"] = [
        {"name": "West Europe", "regionalReplicaCount": 2},
        {"name": "eastus2"},
    ]
    changed["properties"]["publishingProfile"]["replicaCount"] = 2
    published = changed["properties"]["publishingProfile"]["publishedDate"]
    after = api.put(version, changed)["properties"]
    assert replica_regions(api, version) == {"westeurope": 2, "eastus2": 2}
    kept = {replica.store: replica.started_at for replica in rows(api, version) if replica.store in before}
    assert len(kept) == 2
    assert all(before[store] == started_at for store, started_at in kept.items())
    assert after["storageProfile"]["source"]["id"] == id_of(api, image)
    assert after["publishingProfile"]["publishedDate"] == published
    assert leftover_count(api) == 0
    other = version_body(api, f"{parent.split('/galleries')[0]}/images/other", "westeurope")
    assert api.refused("PUT", version, other)[:2] == (409, "PropertyChangeNotAllowed")


def test_an_update_outlives_the_source(api: Api, source: Any) -> None:
    image, parent = source
    version = f"{parent}/versions/1.0.0"
    api.put(version, version_body(api, image, REGION))
    api.delete(image)
    changed = api.get(version)
    changed["properties"]["publishingProfile"]["targetRegions"].append({"name": "westeurope"})
    changed["properties"]["storageProfile"] = {}
    api.put(version, changed)
    assert replica_regions(api, version) == {REGION: 1, "westeurope": 1}


def test_a_second_version_moves_and_stores_only_what_is_new(api: Api, source: Any) -> None:
    _, parent = source
    group = parent.split("/providers/")[0]
    image = managed_image(api, group, "first", 101, 102)
    first, second = f"{parent}/versions/1.0.0", f"{parent}/versions/1.0.1"
    api.put(first, version_body(api, image, "westeurope"))
    changed = managed_image(api, group, "changed", 101, 103)
    api.put(second, version_body(api, changed, "westeurope"))
    one, two = (replication_status(api, version)["summary"][0] for version in (first, second))
    assert MIB < one["bytesMoved"] < 1.2 * MIB
    assert one["bytesSaved"] < 0.2 * MIB
    assert 0.5 * MIB < two["bytesMoved"] < 0.6 * MIB
    assert two["bytesSaved"] >= MIB
    assert rows(api, second)[0].stored_bytes < 0.6 * MIB
    api.delete(first)
    store = api.services.stores.open(rows(api, second)[0].store, rows(api, second)[0].tenant_id)
    assert store.open(rows(api, second)[0].image_id).read(0, MIB)


def test_a_version_is_published_from_a_version(api: Api, source: Any) -> None:
    image, parent = source
    api.put(f"{parent}/versions/1.0.0", version_body(api, image))
    api.put(f"{parent}/versions/1.0.1", version_body(api, f"{parent}/versions/1.0.0", "westeurope"))
    assert replica_regions(api, f"{parent}/versions/1.0.1") == {"westeurope": 1}


def test_delete_while_it_is_created_cancels(api: Api, source: Any) -> None:
    image, parent = source
    version = f"{parent}/versions/1.0.0"
    publishing = api.ask("PUT", version, version_body(api, image, (REGION, 20), ("westeurope", 20)))
    deleting = api.ask("DELETE", version)
    assert deleting.status_code == 202
    assert api.ask("DELETE", version).status_code in (202, 204)
    api.finish(deleting)
    assert api.operation(publishing)["status"] == "Canceled"
    assert api.ask("GET", version).status_code == 404
    assert rows(api, version) == []
    assert leftover_count(api) == 0
    api.put(version, version_body(api, image, "westeurope"))
    assert replica_regions(api, version) == {"westeurope": 1}


def test_deleting_a_version_frees_its_images(api: Api, source: Any) -> None:
    image, parent = source
    version = f"{parent}/versions/1.0.0"
    api.put(version, version_body(api, image, ("westeurope", 2)))
    held = rows(api, version)
    api.delete(version)
    for replica in held:
        store = api.services.stores.open(replica.store, replica.tenant_id)
        assert not store.has(replica.image_id)
    assert leftover_count(api) == 0
    source_replica = rows(api, image)[0]
    assert api.services.stores.open(source_replica.store, source_replica.tenant_id).has(
        source_replica.image_id
    )


def test_a_definition_with_versions_is_not_deleted(api: Api, source: Any) -> None:
    image, parent = source
    api.put(f"{parent}/versions/1.0.0", version_body(api, image))
    assert api.refused("DELETE", parent)[:2] == (409, "CannotDeleteResource")
    assert len(api.get(f"{parent}/versions")["value"]) == 1


def test_a_version_with_wrong_nested_properties_is_refused(api: Api) -> None:
    group = api.group("nested")
    image = managed_image(api, group, "image", 1)
    path = f"{definition(api, group)}/versions"
    for profile in (
        {"storageAccountType": "Floppy_LRS"},
        {"endOfLifeDate": "soon"},
        {"targetExtendedLocations": ["x"]},
        {"targetRegions": [{"name": REGION, "encryption": "x"}]},
        {"targetRegions": [{"name": REGION, "storageAccountType": "Floppy_LRS"}]},
    ):
        body = version_body(api, image, **profile)
        assert api.refused("PUT", f"{path}/1.0.0", body)[0] == 400, profile
    for name in ("01.0.0", "1.00.0", "1.0.01"):
        assert api.refused("PUT", f"{path}/{name}", version_body(api, image))[0] == 400, name
    assert api.get(path)["value"] == []
