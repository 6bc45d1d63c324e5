"""Sharing beside roles, with the real az: with a subscription, and with everyone."""

from typing import Any

import pytest

from .running import Shell
from .site import REGION, USER, Site

pytestmark = pytest.mark.timeout(900)

IN_REGION = ("--location", REGION)
GALLERY = ("-g", "shares", "--gallery-name", "shared")
COMMUNITY = ("-g", "shares", "--gallery-name", "commons")
IMAGE = ("--gallery-image-definition", "linux")
INFO = ("--publisher-uri", "https://us.example", "--publisher-email", "us@us.example")
INFO += ("--eula", "https://us.example/eula", "--public-name-prefix", "prefix")


def publish(shell: Shell, site: Site, gallery: Any) -> None:
    """Version 1.0.0 of the site's image in a gallery."""
    shell.gallery(
        "sig", "image-definition", "create", *gallery, *IMAGE, "--publisher", "p", "--offer", "o", "--sku", "s",
        "--os-type", "Linux", "--hyper-v-generation", "V1",
    )  # fmt: skip
    version = (*gallery, *IMAGE, "--gallery-image-version", "1.0.0")
    shell.gallery(
        "sig", "image-version", "create", *version, "--image-version", f"{site.definition}/versions/1.0.0"
    )


def test_a_gallery_is_shared_with_a_subscription(shell: Shell, site: Site) -> None:
    shell.az("group", "create", "-n", "shares", "-l", REGION)
    created = shell.az("sig", "create", *GALLERY, "--permissions", "groups")
    assert created["sharingProfile"]["permissions"] == "Groups"
    publish(shell, site, GALLERY)
    second = shell.variables["GALLERY_SUBSCRIPTION_ID_2"]
    shell.az("sig", "share", "add", *GALLERY, "--subscription-ids", second)
    shell.az("sig", "share", "wait", *GALLERY, "--updated")
    shown = shell.az("sig", "show", *GALLERY, "--select", "Permissions")["sharingProfile"]
    assert shown["groups"] == [{"ids": [second], "type": "Subscriptions"}]
    status = shell.az("sig", "show", *GALLERY, "--sharing-groups")["sharingStatus"]
    assert status["aggregatedState"] == "Succeeded"


def test_the_subscription_makes_a_machine_of_it_until_it_is_taken_back(shell: Shell, site: Site) -> None:
    there = ("--subscription", shell.variables["GALLERY_SUBSCRIPTION_ID_2"])
    (listed,) = shell.az("sig", "list-shared", *IN_REGION, *there)
    name = ("--gallery-unique-name", listed["name"])
    assert listed["name"] == f"{site.id.subscription}-SHARED"
    assert listed["uniqueId"] == f"/SharedGalleries/{listed['name']}"
    assert shell.az("sig", "show-shared", *IN_REGION, *there, *name)["name"] == listed["name"]
    (image,) = shell.az("sig", "image-definition", "list-shared", *IN_REGION, *there, *name)
    definition = shell.az("sig", "image-definition", "show-shared", *IN_REGION, *there, *name, *IMAGE)
    assert (definition["uniqueId"], definition["osType"]) == (image["uniqueId"], "Linux")
    (version,) = shell.az("sig", "image-version", "list-shared", *IN_REGION, *there, *name, *IMAGE)
    one = ("--gallery-image-version", "1.0.0")
    shown = shell.az("sig", "image-version", "show-shared", *IN_REGION, *there, *name, *IMAGE, *one)
    assert shown["uniqueId"] == version["uniqueId"]
    assert shell.az("sig", "list-shared", *IN_REGION, *there, "--shared-to", "tenant") == []

    shell.az("group", "create", "-n", "consumer", "-l", REGION, *there)
    machine = ("vm", "create", "-g", "consumer", "-l", REGION, "--image", shown["uniqueId"], *USER, *there)
    made = shell.az(*machine, "-n", "vm")
    assert made["powerState"] == "VM running"
    shell.az("sig", "share", "reset", *GALLERY)
    profile = shell.az("sig", "show", *GALLERY, "--select", "Permissions")["sharingProfile"]
    assert profile["permissions"] == "Private"
    assert "not found" in shell.refused(*machine, "-n", "late")
    assert shell.az("sig", "list-shared", *IN_REGION, *there) == []
    assert shell.az("vm", "show", "-d", "-g", "consumer", "-n", "vm", *there)["powerState"] == "VM running"
    disk = (
        "disk",
        "create",
        "-g",
        "consumer",
        "-n",
        "d",
        "--gallery-image-reference",
        shown["uniqueId"],
        *there,
    )
    assert "not shared (any more)" in shell.refused(*disk)
    shell.az("group", "delete", "-n", "consumer", "--yes", *there)


def test_a_community_gallery_is_shown_to_everyone(shell: Shell, site: Site) -> None:
    there = ("--subscription", shell.variables["GALLERY_SUBSCRIPTION_ID_2"])
    assert "fill in all" in shell.refused("sig", "create", *COMMUNITY, "--permissions", "community")
    shell.az("sig", "create", *COMMUNITY, "--permissions", "community", *INFO)
    publish(shell, site, COMMUNITY)
    assert shell.az("sig", "list-community", *IN_REGION) == []
    shell.az("sig", "share", "enable-community", *COMMUNITY)
    (listed,) = shell.az("sig", "list-community", *IN_REGION)
    assert listed["communityMetadata"]["publisherContact"] == "us@us.example"
    name = ("--public-gallery-name", listed["name"])
    info = shell.az("sig", "show", *COMMUNITY)["sharingProfile"]["communityGalleryInfo"]
    assert (info["publicNames"], info["communityGalleryEnabled"]) == ([listed["name"]], True)
    shown = shell.az("sig", "show-community", *IN_REGION, *there, *name)
    assert shown["communityMetadata"]["eula"] == "https://us.example/eula"
    assert shell.az("sig", "image-definition", "list-community", *IN_REGION, *there, *name)
    image = shell.az("sig", "image-definition", "show-community", *IN_REGION, *there, *name, *IMAGE)
    assert image["osType"] == "Linux"
    assert shell.az("sig", "image-version", "list-community", *IN_REGION, *there, *name, *IMAGE)
    one = ("--gallery-image-version", "1.0.0")
    version = shell.az("sig", "image-version", "show-community", *IN_REGION, *there, *name, *IMAGE, *one)
    shell.az("group", "create", "-n", "community", "-l", REGION, *there)
    place = ("-g", "community", "-l", REGION, *there)
    scale_set = ("vmss", "create", *place, "-n", "set", "--image", version["uniqueId"], "--instance-count", 0)
    (made,) = shell.az(*scale_set, "--accept-term", *USER).values()
    reference = made["virtualMachineProfile"]["storageProfile"]["imageReference"]
    assert reference["communityGalleryImageId"] == version["uniqueId"]
    shell.az("disk", "create", *place, "-n", "d", "--gallery-image-reference", version["uniqueId"])
    shell.az("sig", "share", "reset", *COMMUNITY)
    assert shell.az("sig", "list-community", *IN_REGION) == []
    assert "not shared (any more)" in shell.refused(
        "vmss", "scale", "-g", "community", "-n", "set", "--new-capacity", 1, *there
    )
    shell.az("group", "delete", "-n", "community", "--yes", *there)
    shell.az("group", "delete", "-n", "shares", "--yes")
