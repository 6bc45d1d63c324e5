"""The activity log with the real az: writes, refusals, filters, pages."""

import uuid

import pytest

from .running import Shell, until

GROUP = "auditedGroup"

pytestmark = pytest.mark.usefixtures("signed_in")


def events(shell: Shell, *words: str) -> list[tuple[str, str]]:
    """Operation and status of the events that az lists."""
    listed = shell.az("monitor", "activity-log", "list", *words)
    return [(one["operationName"]["value"], one["status"]["value"]) for one in listed]


def test_az_lists_what_was_written_and_what_failed(shell: Shell) -> None:
    shell.az("group", "create", "-n", GROUP, "-l", "westcentralus")
    shell.az("sig", "create", "-g", GROUP, "-r", "auditedGallery")
    shell.refused("sig", "image-version", "show", "-g", GROUP, "-r", "other", "-i", "x", "-e", "1.0.0")
    shell.refused("disk", "create", "-g", GROUP, "-n", "d", "--size-gb", "1", "--source", "nowhere")
    found = events(shell, "-g", GROUP, "--offset", "1h")
    assert ("Microsoft.Compute/galleries/write", "Succeeded") in found
    assert found[-1] == ("Microsoft.Resources/resourceGroups/write", "Succeeded")
    shown = shell.az("monitor", "activity-log", "list", "-g", GROUP, "--max-events", "1", "--select", "caller",
                     "resourceId")  # fmt: skip
    assert len(shown) == 1 and shown[0]["caller"] == shell.variables["AZURE_CLIENT_ID"]


def test_a_refused_request_and_a_refused_sign_in_are_listed(shell: Shell) -> None:
    other = str(uuid.uuid4())
    shell.refused("login", "--service-principal", "-u", other, "-p", "wrong", "--tenant",
                  shell.variables["AZURE_TENANT_ID"])  # fmt: skip
    url = "/providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01"
    endpoint = shell.variables["GALLERY_ENDPOINT"]

    def refusals() -> list[str]:
        listed = shell.az("rest", "--url", f"{endpoint}{url}&$filter=caller eq '{other}'",
                          "--resource", endpoint)["value"]  # fmt: skip
        return [one["properties"]["errorCode"] for one in listed]

    until(refusals, 20)
    assert set(refusals()) == {"AADSTS700016"}


def test_what_one_request_led_to_is_found_by_its_correlation_id(shell: Shell) -> None:
    shell.az("group", "delete", "-n", GROUP, "--yes")
    ended = shell.az("monitor", "activity-log", "list", "-g", GROUP, "--status", "Succeeded")[0]
    assert ended["operationName"]["value"] == "Microsoft.Resources/resourceGroups/delete"
    found = events(shell, "--correlation-id", ended["correlationId"])
    assert ("Microsoft.Compute/galleries/delete", "Succeeded") in found
    assert ("Microsoft.Resources/resourceGroups/delete", "Accepted") in found


def test_gallery_lists_the_same(shell: Shell) -> None:
    words = ("monitor", "activity-log", "list", "-g", GROUP, "--caller", shell.variables["AZURE_CLIENT_ID"])
    ids = [one["eventDataId"] for one in shell.gallery(*words)]
    assert ids and ids == [one["eventDataId"] for one in shell.az(*words)]
