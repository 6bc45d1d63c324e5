"""Tenants, subscriptions, locations; providers and features."""

import pytest

from opengallery.regions import REGIONS

from .conftest import Api

V = "api-version=2022-12-01"
FEATURE = "providers/Microsoft.Features/providers/Microsoft.Compute/features/GalleryPreview"
FEATURES_VERSION = "api-version=2021-07-01"


def test_the_tenant_is_listed(api: Api) -> None:
    (tenant,) = api.get(f"/tenants?{V}")["value"]
    assert tenant["tenantId"] == api.first.tenant_id
    assert tenant["id"] == f"/tenants/{api.first.tenant_id}"


def test_both_subscriptions_are_listed_and_shown(api: Api) -> None:
    listed = api.get(f"/subscriptions?{V}")["value"]
    ids = [api.first.subscription_id, api.first.second_subscription_id]
    assert sorted(one["subscriptionId"] for one in listed) == sorted(ids)
    for one in listed:
        assert one["state"] == "Enabled"
        assert api.get(f"/subscriptions/{one['subscriptionId'].upper()}?{V}") == one


def test_subscriptions_are_apart(api: Api) -> None:
    second = (
        f"/subscriptions/{api.first.second_subscription_id}/resourceGroups/same-name?api-version=2024-11-01"
    )
    api.group("same-name")
    assert api.ask("GET", second).status_code == 404
    assert api.put(second, {"location": "westeurope"})["location"] == "westeurope"
    assert api.get("resourceGroups/same-name")["location"] == "westcentralus"
    api.delete(second)
    assert api.get("resourceGroups/same-name")


def test_every_region_is_a_location(api: Api) -> None:
    found = {one["name"]: one for one in api.get(f"locations?{V}")["value"]}
    assert set(found) == set(REGIONS)
    one = found["westcentralus"]
    assert (one["displayName"], one["regionalDisplayName"]) == ("West Central US", "(US) West Central US")
    assert one["metadata"]["geographyGroup"] == "US"
    assert one["metadata"]["regionType"] == "Physical"
    assert all(isinstance(one["metadata"][name], str) for name in ("latitude", "longitude"))
    assert one["metadata"]["pairedRegion"][0]["name"] == "westus2"


def test_a_feature_passes_from_not_registered_to_registered(api: Api) -> None:
    def state(method: str, path: str) -> str:
        answer = api.ask(method, f"{path}?{FEATURES_VERSION}")
        assert answer.status_code == 200, answer.text
        assert answer.json()["name"] == "Microsoft.Compute/GalleryPreview"
        return str(answer.json()["properties"]["state"])

    other = f"/subscriptions/{api.first.second_subscription_id}/{FEATURE}"
    assert state("GET", FEATURE) == "NotRegistered"
    assert state("POST", f"{FEATURE}/register") == "Registering"
    assert state("GET", FEATURE.lower()) == "Registered"
    assert state("POST", f"{FEATURE}/register") == "Registered"
    assert state("GET", other) == "NotRegistered"
    for path in (
        "providers/Microsoft.Features/features",
        "providers/Microsoft.Features/providers/microsoft.compute/features",
    ):
        (listed,) = api.get(f"{path}?{FEATURES_VERSION}")["value"]
        assert listed["properties"]["state"] == "Registered"
    nothing = api.get(f"providers/Microsoft.Features/providers/Microsoft.Comp/features?{FEATURES_VERSION}")
    assert nothing["value"] == []
    assert state("POST", f"{FEATURE}/unregister") == "NotRegistered"


def test_an_unknown_feature_is_refused(api: Api) -> None:
    unknown = FEATURE.replace("GalleryPreview", "Nothing")
    for method, path in (("GET", unknown), ("POST", f"{unknown}/register")):
        assert api.refused(method, f"{path}?{FEATURES_VERSION}")[:2] == (404, "FeatureNotFound")


def test_a_provider_passes_from_not_registered_to_registered(api: Api) -> None:
    path, version = "providers/Microsoft.Network", "api-version=2024-11-01"
    assert api.get(f"{path}?{version}")["registrationState"] == "NotRegistered"
    answer = api.ask("POST", f"{path}/register?{version}")
    assert answer.status_code == 200
    assert (answer.json()["namespace"], answer.json()["registrationState"]) == (
        "Microsoft.Network",
        "Registering",
    )
    assert api.get(f"{path.lower()}?{version}")["registrationState"] == "Registered"
    assert api.act(f"{path}/unregister?{version}")["registrationState"] == "NotRegistered"


def test_a_provider_tells_its_types(api: Api) -> None:
    listed = {one["namespace"]: one for one in api.get("providers?api-version=2024-11-01")["value"]}
    assert {"Microsoft.Compute", "Microsoft.Network", "Microsoft.Resources", "Microsoft.Features"} <= set(
        listed
    )
    types = {one["resourceType"]: one for one in listed["Microsoft.Compute"]["resourceTypes"]}
    assert {"galleries", "galleries/images", "galleries/images/versions", "images", "disks"} <= set(types)
    versions = types["galleries"]["apiVersions"]
    assert versions == sorted(versions, reverse=True) and "2024-03-03" in versions
    assert "Sweden Central" in types["galleries"]["locations"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_provider_is_refused(api: Api, method: str) -> None:
    path = "providers/No.Such/register" if method == "POST" else "providers/No.Such"
    assert api.refused(method, f"{path}?api-version=2024-11-01")[:2] == (404, "InvalidResourceNamespace")
