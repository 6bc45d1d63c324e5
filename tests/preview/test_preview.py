"""The profile `preview`: a gallery needs the registered feature and one of five source regions."""

from collections.abc import Iterator

import pytest

from opengallery.regions import PREVIEW_SOURCE_REGIONS, REGIONS

from ..providers.conftest import Api
from ..providers.images import definition, managed_image, replica_regions, version_body

COMPUTE = "providers/Microsoft.Compute"
FEATURE = "providers/Microsoft.Features/providers/Microsoft.Compute/features/GalleryPreview"
FEATURE_VERSION = "api-version=2021-07-01"


@pytest.fixture
def registered(api: Api) -> Iterator[Api]:
    """The server, the feature registered in its first subscription."""
    api.act(f"{FEATURE}/register?{FEATURE_VERSION}")
    yield api
    api.act(f"{FEATURE}/unregister?{FEATURE_VERSION}")


def test_without_the_feature_the_refusal_names_the_command(api: Api) -> None:
    path = f"{api.group('unregistered')}/{COMPUTE}/galleries/one"
    status, code, message = api.refused("PUT", path, {"location": "westcentralus"})
    assert (status, code) == (403, "SubscriptionNotRegisteredForFeature")
    assert "az feature register --namespace Microsoft.Compute --name GalleryPreview" in message
    assert "az provider register -n Microsoft.Compute" in message
    assert api.ask("GET", path).status_code == 404


def test_a_feature_is_registered_in_one_subscription(registered: Api) -> None:
    other = f"/subscriptions/{registered.first.second_subscription_id}"
    group = f"{other}/resourceGroups/other"
    registered.put(f"{group}?api-version=2024-11-01", {"location": "westcentralus"})
    path = f"{group}/{COMPUTE}/galleries/one?api-version=2024-03-03"
    assert registered.refused("PUT", path, {"location": "westcentralus"})[0] == 403
    registered.delete(f"{group}?api-version=2024-11-01")


def test_only_five_regions_are_sources(registered: Api) -> None:
    group = registered.group("sources")
    for region in PREVIEW_SOURCE_REGIONS:
        assert registered.put(
            f"{group}/{COMPUTE}/galleries/{region}", {"location": REGIONS[region].display_name}
        )
    for region in ("westus", "northeurope", "swedencentral"):
        path = f"{group}/{COMPUTE}/galleries/{region}"
        status, code, message = registered.refused("PUT", path, {"location": region})
        assert (status, code) == (400, "LocationNotAvailableForResourceType")
        for name in PREVIEW_SOURCE_REGIONS:
            assert REGIONS[name].display_name in message
        assert registered.ask("GET", path).status_code == 404


def test_a_gallery_that_is_there_can_be_changed_without_the_feature(api: Api) -> None:
    path = f"{api.group('kept')}/{COMPUTE}/galleries/one"
    api.act(f"{FEATURE}/register?{FEATURE_VERSION}")
    api.put(path, {"location": "westeurope"})
    api.act(f"{FEATURE}/unregister?{FEATURE_VERSION}")
    assert api.put(path, {"location": "westeurope", "tags": {"a": "b"}})["tags"] == {"a": "b"}


def test_every_region_may_be_a_target(registered: Api) -> None:
    group = registered.group("targets")
    image = managed_image(registered, group, "image", 1)
    version = f"{definition(registered, group)}/versions/1.0.0"
    registered.put(version, version_body(registered, image, "Sweden Central", "westus"))
    assert replica_regions(registered, version) == {"swedencentral": 1, "westus": 1}
    registered.delete(version)


def test_a_version_has_a_source_region_too(registered: Api) -> None:
    group = registered.group("version-sources")
    path = f"{definition(registered, group)}/versions/1.0.0"
    body = {**version_body(registered, f"{group}/{COMPUTE}/images/none"), "location": "westus"}
    assert registered.refused("PUT", path, body)[:2] == (400, "LocationNotAvailableForResourceType")
    assert registered.ask("GET", path).status_code == 404
