"""A gallery that is shared directly, and those whom it is shared with or not."""

from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Api
from .images import COMPUTE, REGION, definition, machine_body, managed_image, version_body
from .principals import People, people_of

GROUP = "sharing"
GALLERY = f"resourceGroups/{GROUP}/{COMPUTE}/galleries/gallery"
ELSEWHERE = "westeurope"
GROUPS_PROFILE = {"location": REGION, "properties": {"sharingProfile": {"permissions": "Groups"}}}
EXPANDED = "?$expand=SharingProfile/Groups"


@pytest.fixture(scope="module")
def people(server: Api) -> Iterator[People]:
    with people_of(server) as people:
        yield people


@pytest.fixture(scope="module")
def theirs(people: People) -> tuple[str, str]:
    """Another tenant, and its subscription."""
    return people.tenant()


@pytest.fixture(scope="module")
def stranger(people: People, theirs: tuple[str, str]) -> Api:
    """A contributor of the other tenant's subscription."""
    return people.contributor(theirs[1], theirs[0])


@pytest.fixture(scope="module")
def neighbour(server: Api, people: People) -> Api:
    """A contributor of the second subscription of our tenant."""
    return people.contributor(server.first.second_subscription_id)


@pytest.fixture(scope="module")
def published(server: Api) -> Iterator[Api]:
    """A gallery that may be shared: `linux` 1.0.0 in two regions, 2.0.0 excluded from latest, 3.0.0 elsewhere."""
    server.group(GROUP)
    server.groups.remove(GROUP)
    path = f"resourceGroups/{GROUP}"
    server.put(GALLERY, GROUPS_PROFILE)
    image = managed_image(server, path, "image", 1, 2)
    linux = definition(server, path)
    server.put(f"{linux}/versions/1.0.0", version_body(server, image, (REGION, 2), ELSEWHERE))
    server.put(f"{linux}/versions/2.0.0", version_body(server, image, REGION, excludeFromLatest=True))
    server.put(f"{linux}/versions/3.0.0", version_body(server, image, ELSEWHERE))
    yield server
    reset(server)
    server.delete(path)


@pytest.fixture
def gallery(published: Api, api: Api) -> Iterator[str]:
    """Its path; shared with nobody before and after."""
    yield GALLERY
    reset(api)


def reset(api: Api) -> None:
    api.act(f"{GALLERY}/share", {"operationType": "Reset"})
    api.put(GALLERY, GROUPS_PROFILE)


def share(api: Api, verb: str = "Add", gallery: str = GALLERY, **ids: list[str]) -> Any:
    """What `az sig share add` sends, and its result."""
    return api.act(f"{gallery}/share", update(verb, **ids))


def update(verb: str = "Add", **ids: list[str]) -> dict[str, Any]:
    return {"operationType": verb, "groups": [{"type": kind, "ids": these} for kind, these in ids.items()]}


def shared_with(api: Api) -> Any:
    return api.get(f"{GALLERY}{EXPANDED}")["properties"]["sharingProfile"]["groups"]


def unique(api: Api, name: str = "gallery") -> str:
    return f"{api.first.subscription_id}-{name.upper()}"


def catalog(region: str, rest: str = "") -> str:
    return f"{COMPUTE}/locations/{region}/sharedGalleries{rest}?api-version=2023-07-03"


def image_id(api: Api, version: str, name: str = "linux") -> str:
    return f"/SharedGalleries/{unique(api)}/Images/{name}/Versions/{version}"


def machine_of(consumer: Api, group: str, image: str, region: str = REGION, name: str = "vm") -> Any:
    """Path and body of a machine from a shared image."""
    body = machine_body(consumer, "unused", region)
    body["properties"]["storageProfile"]["imageReference"] = {"sharedGalleryImageId": image}
    return f"{group}/{COMPUTE}/virtualMachines/{name}", body


@pytest.fixture
def groups(api: Api) -> Iterator[Any]:
    """Makes resource groups in consumers' subscriptions, which go with the test."""
    made: list[Api] = []

    def make(consumer: Api, name: str = "consumer") -> str:
        made.append(consumer)
        return consumer.group(name)

    yield make
    for consumer in made:
        for name in consumer.groups:
            consumer.delete(f"resourceGroups/{name}")
        consumer.groups.clear()
