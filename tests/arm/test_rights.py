"""Rights: what a caller may not read answers 403, whether or not it exists; what it may not write, too."""

import uuid
from typing import Any

import pytest

from opengallery.arm import access

from ..providers.conftest import Api
from ..providers.data_disks import body_of, snapshot, storage
from ..providers.images import definition, full_disk
from .conftest import Newcomer
from .galleries import COMPUTE, REGION, definition_body, full_id, gallery

ELSEWHERE = str(uuid.uuid4())
DENIED = (403, "AuthorizationFailed")


def _denial(api: Api, method: str, path: str, body: Any = None) -> str:
    """The message of a 403, without the names that the caller itself sent."""
    status, code, message = api.refused(method, path, body)
    assert (status, code) == DENIED
    return message


def test_what_may_not_be_read_answers_the_same_whether_or_not_it_exists(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    gallery(api, theirs, "there")
    reader = newcomer((access.READER, full_id(api, mine)))
    for real, missing in (
        (f"{theirs}/{COMPUTE}/galleries/there", f"{theirs}/{COMPUTE}/galleries/gone"),
        (f"{theirs}/{COMPUTE}/galleries/there/images/x", f"{theirs}/{COMPUTE}/galleries/gone/images/x"),
        (f"{theirs}/{COMPUTE}/galleries/there/images", f"{theirs}/{COMPUTE}/galleries/gone/images"),
        (f"{theirs}/{COMPUTE}/galleries", f"resourceGroups/gone/{COMPUTE}/galleries"),
        ("resourcegroups/theirs", "resourcegroups/gone"),
        (f"/subscriptions/{api.first.second_subscription_id}/resourcegroups?api-version=2024-11-01",
         f"/subscriptions/{ELSEWHERE}/resourcegroups?api-version=2024-11-01"),
        (f"/subscriptions/{api.first.second_subscription_id}?api-version=2022-12-01",
         f"/subscriptions/{ELSEWHERE}?api-version=2022-12-01"),
        (f"/subscriptions/{api.first.second_subscription_id}/locations?api-version=2022-12-01",
         f"/subscriptions/{ELSEWHERE}/locations?api-version=2022-12-01"),
        ("providers/Microsoft.Compute?api-version=2024-11-01",
         f"/subscriptions/{ELSEWHERE}/providers?api-version=2024-11-01"),
    ):  # fmt: skip
        for path in (real, missing):
            assert "does not have authorization to perform action" in _denial(reader, "GET", path)
            assert reader.ask("HEAD", path).status_code == 403
    assert reader.refused("GET", f"{mine}/{COMPUTE}/galleries/gone")[:2] == (404, "ResourceNotFound")
    assert reader.get("resourcegroups/mine")["name"] == "mine"


def test_a_route_below_a_group_tells_strangers_nothing(api: Api, newcomer: Newcomer) -> None:
    group = api.group("mine")
    stranger = newcomer()
    rest = f"{COMPUTE}/virtualMachineScaleSets/s/osRollingUpgrade?api-version=2024-11-01"
    for place in (group, "resourceGroups/gone", f"/subscriptions/{ELSEWHERE}/resourceGroups/gone"):
        _denial(stranger, "POST", f"{place}/{rest}")
    assert api.refused("POST", f"{group}/{rest}")[:2] == (404, "ResourceNotFound")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_reader_writes_nothing(api: Api, newcomer: Newcomer, method: str) -> None:
    group = api.group("mine")
    one = gallery(api, group, "one")
    reader = newcomer((access.READER, full_id(api, group)))
    etag = reader.get(one)["etag"]
    for path in (one, f"{group}/{COMPUTE}/galleries/new", group, "resourceGroups/new"):
        _denial(reader, method, path, {"location": REGION, "tags": {"a": "b"}})
    assert api.get(one)["etag"] == etag
    assert api.ask("GET", f"{group}/{COMPUTE}/galleries/new").status_code == 404
    assert api.ask("GET", "resourcegroups/new").status_code == 404


def test_a_reader_acts_on_nothing(api: Api, newcomer: Newcomer) -> None:
    reader = newcomer((access.READER, f"/subscriptions/{api.first.subscription_id}"))
    feature = "providers/Microsoft.Features/providers/Microsoft.Compute/features/GalleryPreview"
    for path in (
        f"{feature}/register?api-version=2021-07-01",
        "providers/Microsoft.Compute/register?api-version=2024-11-01",
        f"{api.group('mine')}/providers/Microsoft.Resources/deployments/d/validate",
    ):
        _denial(reader, "POST", path, {})
    assert reader.get(f"{feature}?api-version=2021-07-01")["properties"]["state"]


def test_a_contributor_of_a_group_works_in_it_and_nowhere_else(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    worker = newcomer((access.CONTRIBUTOR, full_id(api, mine)))
    one = gallery(worker, mine, "one")
    worker.put(f"{one}/images/a", definition_body())
    assert worker.get(one)["systemData"]["createdBy"] != api.first.app_id
    _denial(worker, "PUT", f"{theirs}/{COMPUTE}/galleries/one", {"location": REGION})
    _denial(worker, "DELETE", theirs)
    worker.delete(f"{one}/images/a")


def test_a_linked_resource_has_to_be_readable(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    worker = newcomer((access.CONTRIBUTOR, full_id(api, mine)))
    base = full_id(api, f"{theirs}/providers/Microsoft.Network/virtualNetworks")
    api.put(
        f"{theirs}/providers/Microsoft.Network/virtualNetworks/there",
        {
            "location": REGION,
            "properties": {
                "addressSpace": {"addressPrefixes": ["10.0.0.0/16"]},
                "subnets": [{"name": "s", "properties": {"addressPrefix": "10.0.0.0/24"}}],
            },
        },
    )
    for network in ("there", "gone"):
        properties = {"subnet": {"id": f"{base}/{network}/subnets/s"}}
        body = {
            "location": REGION,
            "properties": {"ipConfigurations": [{"name": "c", "properties": properties}]},
        }
        nic = f"{mine}/providers/Microsoft.Network/networkInterfaces/n"
        assert worker.refused("PUT", nic, body)[:2] == (403, "LinkedAuthorizationFailed")
        assert api.ask("GET", nic).status_code == 404


def test_a_disk_is_copied_only_by_those_who_may_export_it(api: Api, newcomer: Newcomer) -> None:
    group, own = api.group("disks"), api.group("own")
    source = full_disk(api, group, "source", 4)
    data = {"createOption": "Copy", "sourceResourceId": full_id(api, source)}
    body = {"location": REGION, "properties": {"creationData": data}}
    contributor = (access.CONTRIBUTOR, full_id(api, own))
    reader = newcomer(contributor, (access.READER, full_id(api, source)))
    status, code, message = reader.refused("PUT", f"{own}/{COMPUTE}/disks/copy", body)
    assert (status, code) == (403, "LinkedAuthorizationFailed")
    assert "Microsoft.Compute/disks/beginGetAccess/action" in message
    owner = newcomer(contributor, (access.CONTRIBUTOR, full_id(api, source)))
    owner.put(f"{own}/{COMPUTE}/disks/copy", body)


def test_every_source_of_a_version_has_to_be_exportable(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    system, data = snapshot(api, mine, "os", 1), snapshot(api, theirs, "data", 2)
    version = f"{definition(api, mine)}/versions/1.0.0"
    body = body_of(api, storage(api, system, lun3=data))
    contributor = (access.CONTRIBUTOR, full_id(api, mine))
    worker = newcomer(contributor)
    status, code, message = worker.refused("PUT", version, body)
    assert (status, code) == (403, "LinkedAuthorizationFailed")
    assert "Microsoft.Compute/snapshots/read" in message
    assert api.ask("GET", version).status_code == 404
    reader = newcomer(contributor, (access.READER, full_id(api, data)))
    assert "Microsoft.Compute/snapshots/beginGetAccess/action" in reader.refused("PUT", version, body)[2]
    newcomer(contributor, (access.CONTRIBUTOR, full_id(api, data))).put(version, body)
