"""The api-version that is asked for each resource type: those that az 2.91 uses."""

API_VERSIONS = {
    "microsoft.resources/subscriptions": "2022-12-01",
    "microsoft.resources/resourcegroups": "2024-11-01",
    "microsoft.resources/deployments": "2024-11-01",
    "microsoft.resources/providers": "2024-11-01",
    "microsoft.features/features": "2021-07-01",
    "microsoft.insights/eventtypes": "2015-04-01",
    "microsoft.compute/galleries": "2026-03-03",
    "microsoft.compute/galleries/images": "2021-10-01",
    "microsoft.compute/galleries/images/versions": "2024-03-03",
    "microsoft.compute/galleries/images/versions/replicas": "2026-03-03",
    "microsoft.compute/locations/sharedgalleries": "2023-07-03",
    "microsoft.compute/locations/sharedgalleries/images": "2023-07-03",
    "microsoft.compute/locations/sharedgalleries/images/versions": "2026-03-03",
    "microsoft.compute/locations/communitygalleries": "2025-03-03",
    "microsoft.compute/locations/communitygalleries/images": "2023-07-03",
    "microsoft.compute/locations/communitygalleries/images/versions": "2026-03-03",
    "microsoft.compute/images": "2024-07-01",
    "microsoft.compute/disks": "2025-01-02",
    "microsoft.compute/snapshots": "2025-01-02",
    "microsoft.compute/virtualmachines": "2026-04-01",
    "microsoft.compute/virtualmachinescalesets": "2026-04-01",
    "microsoft.compute/virtualmachinescalesets/virtualmachines": "2024-11-01",
    "microsoft.network/virtualnetworks": "2022-01-01",
    "microsoft.network/networkinterfaces": "2022-01-01",
    "microsoft.network/publicipaddresses": "2022-01-01",
}


def api_version(resource_type: str) -> str:
    """The api-version for `Microsoft.Compute/galleries` and so on, in any case."""
    return API_VERSIONS[resource_type.lower()]
