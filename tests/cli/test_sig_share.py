"""Sharing beside roles: what is sent for az's lines, and what is shown of what others share."""

from typing import Any

import pytest

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, Answer, Request, StandIn

GALLERY = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg/providers/Microsoft.Compute/galleries/myGallery"
NAMES = ["-g", "rg", "--gallery-name", "myGallery"]
PLACE = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/westcentralus"
OTHER = "44444444-4444-4444-4444-444444444444"
INFO = ["--publisher-uri", "https://us.example", "--publisher-email", "us@us.example"]
INFO += ["--eula", "ours", "--public-name-prefix", "prefix"]


def answering(arm: StandIn, answers: dict[str, Any]) -> None:
    """Answer these paths so, and the others as ever."""

    def fault(request: Request) -> Answer | None:
        return Answer(200, answers[request.path]) if request.path in answers else None

    arm.fault = fault


def test_how_a_gallery_may_be_shared_is_sent_with_it(arm: StandIn, gallery: Gallery) -> None:
    assert gallery("sig", "create", *NAMES, "--permissions", "groups").code == 0
    assert arm.calls("PUT")[-1].json["properties"] == {"sharingProfile": {"permissions": "Groups"}}
    assert gallery("sig", "create", *NAMES, "--permissions", "community", *INFO).code == 0
    profile = arm.calls("PUT")[-1].json["properties"]["sharingProfile"]
    info = {"publisherUri": "https://us.example", "publisherContact": "us@us.example"}
    info |= {"eula": "ours", "publicNamePrefix": "prefix"}
    assert profile == {"permissions": "Community", "communityGalleryInfo": info}
    assert gallery("sig", "update", *NAMES, "--eula", "theirs").code == 0
    profile = arm.calls("PUT")[-1].json["properties"]["sharingProfile"]
    assert profile == {"permissions": "Community", "communityGalleryInfo": {**info, "eula": "theirs"}}
    refused = gallery("sig", "create", *NAMES, "--permissions", "community", *INFO[:4])
    assert refused.code != 0 and "--public-name-prefix" in refused.err
    gallery("sig", "show", *NAMES, "--sharing-groups")
    assert arm.calls("GET")[-1].query["$expand"] == "SharingProfile/Groups"


def groups(kind: str, *ids: str) -> list[dict[str, Any]]:
    return [{"type": kind, "ids": list(ids)}]


@pytest.mark.parametrize(
    ("line", "operation", "sent"),
    [
        (["add", "--subscription-ids", OTHER, SUBSCRIPTION], "Add", groups("Subscriptions", OTHER, SUBSCRIPTION)),
        (["remove", "--tenant-ids", OTHER], "Remove", groups("AADTenants", OTHER)),
        (["reset"], "Reset", []),
        (["enable-community"], "EnableCommunity", []),
    ],
)  # fmt: skip
def test_sharing_is_an_action(
    arm: StandIn, gallery: Gallery, line: list[str], operation: str, sent: list[Any]
) -> None:
    answering(arm, {f"{GALLERY}/share": {"operationType": operation}})
    done = gallery("sig", "share", line[0], *NAMES, *line[1:])
    assert (done.code, done.json) == (0, {"operationType": operation})
    assert arm.calls("POST")[-1].path == f"{GALLERY}/share"
    assert arm.calls("POST")[-1].json == {"operationType": operation, "groups": sent}


def test_waiting_ends_when_sharing_has_succeeded(arm: StandIn, gallery: Gallery) -> None:
    state = {"properties": {"sharingStatus": {"aggregatedState": "Succeeded"}}}
    answering(arm, {GALLERY: state})
    assert gallery("sig", "share", "wait", *NAMES, "--updated").code == 0
    assert gallery("sig", "share", "wait", *NAMES).code != 0
    state["properties"]["sharingStatus"]["aggregatedState"] = "InProgress"
    late = gallery("sig", "share", "wait", *NAMES, "--updated", "--timeout", "0")
    assert late.code != 0 and "InProgress" in late.err


@pytest.mark.parametrize(
    ("kind", "word", "option"),
    [
        ("sharedGalleries", "shared", "--gallery-unique-name"),
        ("communityGalleries", "community", "--public-gallery-name"),
    ],
)
def test_what_is_shared_is_listed_and_shown(
    arm: StandIn, gallery: Gallery, kind: str, word: str, option: str
) -> None:
    name, region = [option, "theirs"], ["-l", "West Central US"]
    image, version = ["-i", "linux"], ["-e", "1.0.0"]
    root = f"{PLACE}/{kind}/theirs"
    paths = {
        root: ["sig", f"show-{word}", *name],
        f"{root}/images": ["sig", "image-definition", f"list-{word}", *name],
        f"{root}/images/linux": ["sig", "image-definition", f"show-{word}", *name, *image],
        f"{root}/images/linux/versions": ["sig", "image-version", f"list-{word}", *name, *image],
        f"{root}/images/linux/versions/1.0.0": [
            "sig", "image-version", f"show-{word}", *name, *image, *version,
        ],
    }  # fmt: skip
    entry = {"name": "x", "identifier": {"uniqueId": "/X"}, "properties": {"osType": "Linux"}}
    shown = {"name": "x", "uniqueId": "/X", "osType": "Linux"}
    for path, line in paths.items():
        is_list = path.endswith(("/images", "/versions"))
        answering(arm, {path: {"value": [entry]} if is_list else entry})
        done = gallery(*line, *region)
        assert (done.code, done.json) == (0, [shown] if is_list else shown), done.err
        assert arm.calls("GET")[-1].path == path


def test_galleries_shared_with_the_tenant_are_asked_for(arm: StandIn, gallery: Gallery) -> None:
    answering(arm, {f"{PLACE}/sharedGalleries": {"value": []}})
    assert gallery("sig", "list-shared", "-l", "westcentralus", "--shared-to", "tenant").json == []
    assert arm.calls("GET")[-1].query["sharedTo"] == "tenant"
    gallery("sig", "list-shared", "-l", "westcentralus", "--shared-to", "subscription")
    assert "sharedTo" not in arm.calls("GET")[-1].query


def test_community_galleries_are_a_query(arm: StandIn, gallery: Gallery) -> None:
    properties = {"communityMetadata": {"eula": "e"}, "identifier": {"uniqueId": "/CommunityGalleries/x"}}
    entry = {"id": "i", "location": "westcentralus", "name": "x", "properties": properties}
    path = "/providers/Microsoft.ResourceGraph/resources"
    answering(arm, {path: {"data": [entry], "$skipToken": "t"}})
    done = gallery("sig", "list-community", "-l", "West Central US", "--show-next-marker")
    assert done.json[0]["uniqueId"] == "/CommunityGalleries/x"
    assert done.json[1] == {"nextMarker": "t"}
    sent = arm.calls("POST")[-1].json
    assert sent["query"].endswith("| where location == 'westcentralus' ")
    assert sent["options"] == {"$top": 30}
    gallery("sig", "list-community", "--marker", "t")
    assert arm.calls("POST")[-1].json["options"] == {"$top": 30, "$skipToken": "t"}


def test_a_disk_and_a_machine_name_shared_images_as_az_does(arm: StandIn, gallery: Gallery) -> None:
    image = "/SharedGalleries/theirs/Images/linux/Versions/latest"
    gallery("disk", "create", "-g", "rg", "-n", "d", "--gallery-image-reference", image)
    creation = arm.calls("PUT")[-1].json["properties"]["creationData"]
    assert creation["galleryImageReference"] == {"sharedGalleryImageId": image}
    image = "/CommunityGalleries/theirs/Images/linux/Versions/1.0.0"
    root = f"{PLACE}/communityGalleries/theirs"
    answering(
        arm,
        {
            root: {"properties": {"communityMetadata": {"eula": "Be kind."}}},
            f"{root}/images/linux": {"properties": {"osType": "Linux", "osState": "Generalized"}},
            f"{root}/images/linux/versions/1.0.0": {},
        },
    )
    line = ["vm", "create", "-g", "rg", "-n", "vm", "--image", image, "--generate-ssh-keys"]
    refused = gallery(*line)
    assert refused.code != 0 and "Be kind." in refused.err and "--accept-term" in refused.err
    gallery(*line, "--accept-term", "--no-wait")
    template = arm.calls("PUT")[-1].json["properties"]["template"]
    (machine,) = [one for one in template["resources"] if one["type"].endswith("/virtualMachines")]
    storage = machine["properties"]["storageProfile"]
    assert storage["imageReference"] == {"communityGalleryImageId": image}
