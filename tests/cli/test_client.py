"""The client against a real socket: signing in, retries, pages, long-running operations, errors."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from opengallery.cli import client, progress, sign_in

from .conftest import Gallery
from .stand_in import SUBSCRIPTION, Answer, Request, StandIn

GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg"
GALLERIES = f"{GROUP}/providers/Microsoft.Compute/galleries"


def tokens_file(tmp_path: Path) -> Path:
    return tmp_path / "azure" / "gallery-tokens.json"


def test_one_token_serves_many_commands_and_lies_in_a_private_file(
    arm: StandIn, gallery: Gallery, tmp_path: Path
) -> None:
    assert gallery("sig", "list").json == []
    assert gallery("sig", "list").json == []
    assert len(arm.calls("POST", "token")) == 1
    assert tokens_file(tmp_path).stat().st_mode & 0o777 == 0o600


def test_a_wrong_secret_finds_no_kept_token(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gallery("sig", "list").code == 0
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    refused = gallery("sig", "list")
    assert refused.code == 1
    assert "ERROR: (invalid_client) The secret is wrong." in refused.err


def test_a_token_that_the_server_no_longer_takes_is_replaced(arm: StandIn, gallery: Gallery) -> None:
    gallery("sig", "list")
    arm.token = "token-2"
    assert gallery("sig", "list").code == 0
    assert len(arm.calls("POST", "token")) == 2


def test_a_damaged_token_file_is_no_obstacle(arm: StandIn, gallery: Gallery, tmp_path: Path) -> None:
    for content in ("", "[]", '{"x": 1}', "\0"):
        tokens_file(tmp_path).parent.mkdir(exist_ok=True)
        tokens_file(tmp_path).write_text(content)
        assert gallery("sig", "list").code == 0


def test_a_token_about_to_end_is_not_used(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery("sig", "list")
    monkeypatch.setattr(sign_in, "MARGIN_S", 7200)
    gallery("sig", "list")
    assert len(arm.calls("POST", "token")) == 2


def test_missing_environment_says_how_to_set_it(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    outcome = gallery("sig", "list")
    assert outcome.code == 1
    assert outcome.err == ('ERROR: AZURE_CLIENT_SECRET is not set. Run: eval "$(gallery env --data DIR)"\n')


def test_a_user_signs_in_by_name_and_password(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = os.environ["AZURE_CLIENT_SECRET"]
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    monkeypatch.setenv("AZURE_USERNAME", "bob@local")
    assert "AZURE_PASSWORD is not set" in gallery("sig", "list").err
    monkeypatch.setenv("AZURE_PASSWORD", password)
    assert gallery("sig", "list").json == []
    form = parse_qs(arm.calls("POST", "token")[-1].body.decode())
    assert (form["grant_type"], form["username"]) == (["password"], ["bob@local"])
    monkeypatch.setenv("AZURE_USERNAME", "eve@local")
    gallery("sig", "list")
    assert len(arm.calls("POST", "token")) == 2


def test_lists_follow_next_links(arm: StandIn, gallery: Gallery) -> None:
    arm.page_size = 2
    for number in range(5):
        arm.add(f"{GALLERIES}/g{number}", {"location": "westus"})
    assert [each["name"] for each in gallery("sig", "list").json] == ["g0", "g1", "g2", "g3", "g4"]
    assert len(arm.calls("GET", "galleries")) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_the_time_it_names(
    arm: StandIn, gallery: Gallery, status: int
) -> None:
    left = [2]

    def busy(request: Request) -> Answer | None:
        if "galleries" in request.path and left[0]:
            left[0] -= 1
            return Answer(status, {"error": {"code": "Busy", "message": "later"}}, {"Retry-After": "0"})
        return None

    arm.fault = busy
    assert gallery("sig", "list").code == 0
    assert len(arm.calls("GET", "galleries")) == 3


def test_a_server_that_stays_busy_ends_in_its_error(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "RETRIES", 2)
    busy = Answer(503, {"error": {"code": "ServerBusy", "message": "Try later."}}, {"Retry-After": "0"})
    arm.fault = lambda request: busy if "galleries" in request.path else None
    outcome = gallery("sig", "list")
    assert (outcome.code, outcome.err) == (1, "ERROR: (ServerBusy) Try later.\n")
    assert len(arm.calls("GET", "galleries")) == 3


def test_a_lost_connection_is_tried_again_for_reads_and_not_for_actions(
    arm: StandIn, gallery: Gallery
) -> None:
    arm.add(f"{GROUP}/providers/Microsoft.Compute/virtualMachines/vm", {})
    lost: list[str] = []

    def break_first(request: Request) -> Answer | None:
        if "Microsoft.Compute" in request.path and request.method not in lost:
            lost.append(request.method)
            return Answer(0)
        return None

    arm.fault = break_first
    assert gallery("sig", "list").code == 0
    outcome = gallery("vm", "start", "-g", "rg", "-n", "vm")
    assert outcome.code == 1
    assert len(arm.calls("POST", "/start")) == 1


def test_an_error_shows_code_message_target_and_details(arm: StandIn, gallery: Gallery) -> None:
    detail = {"code": "Inner", "message": "one", "target": "x"}
    error = {"code": "Outer", "message": "all", "target": "properties.y", "details": [detail]}
    arm.fault = lambda request: Answer(400, {"error": error}) if "galleries" in request.path else None
    outcome = gallery("sig", "list")
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err == ("ERROR: (Outer) all\nTarget: properties.y\n- (Inner) one\n  Target: x\n")


def test_an_answer_that_is_no_json_is_named(arm: StandIn, gallery: Gallery) -> None:
    arm.fault = lambda request: Answer(502, b"<html>") if "galleries" in request.path else None
    assert "answered 502" in gallery("sig", "list").err
    arm.fault = lambda request: Answer(200, b"<html>") if "galleries" in request.path else None
    outcome = gallery("sig", "list")
    assert outcome.code == 1
    assert "Traceback" not in outcome.err


def test_nobody_listening_is_said_at_once(arm: StandIn, gallery: Gallery) -> None:
    arm.close()
    outcome = gallery("sig", "list")
    assert outcome.code == 1
    assert "Is `gallery serve` running?" in outcome.err


def test_a_create_waits_for_its_operation(arm: StandIn, gallery: Gallery) -> None:
    arm.polls = 3
    outcome = gallery("sig", "create", "-g", "rg", "-r", "g")
    assert outcome.json["provisioningState"] == "Succeeded"
    assert outcome.json["location"] == "westcentralus"
    assert outcome.json["resourceGroup"] == "rg"
    assert len(arm.calls("GET", "operations")) == 3


def test_no_wait_returns_at_once_and_prints_nothing(arm: StandIn, gallery: Gallery) -> None:
    outcome = gallery("sig", "create", "-g", "rg", "-r", "g", "--no-wait")
    assert (outcome.code, outcome.out) == (0, "")
    assert not arm.calls("GET", "operations")


def test_a_failed_operation_fails_the_command(arm: StandIn, gallery: Gallery) -> None:
    def fail(path: str, resource: dict[str, object]) -> None:
        resource["properties"]["error"] = {"code": "Broken", "message": "It broke."}  # type: ignore[index]

    arm.on_put = fail
    outcome = gallery("sig", "create", "-g", "rg", "-r", "g")
    assert (outcome.code, outcome.err) == (1, "ERROR: (Broken) It broke.\n")


def test_an_operation_outlives_a_break_of_the_connection(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks = [4]

    def restart(request: Request) -> Answer | None:
        if "operations" in request.path and breaks[0]:
            breaks[0] -= 1
            return Answer(0)
        return None

    arm.fault = restart
    monkeypatch.setattr(client.time, "sleep", lambda seconds, sleep=time.sleep: sleep(seconds / 50))
    assert gallery("sig", "create", "-g", "rg", "-r", "g").code == 0


def test_an_operation_that_answers_by_location_is_polled_until_it_is_200(
    arm: StandIn, gallery: Gallery
) -> None:
    disk = f"{GROUP}/providers/Microsoft.Compute/disks/d"
    arm.add(disk, {})
    left = [2]

    def by_location(request: Request) -> Answer | None:
        where = {"Location": f"{arm.url}/results/1?api-version=1", "Retry-After": "0"}
        if request.path.endswith("beginGetAccess"):
            return Answer(202, None, where)
        if request.path == "/results/1":
            left[0] -= 1
            return Answer(202, None, where) if left[0] else Answer(200, {"accessSAS": "url"})
        return None

    arm.fault = by_location
    outcome = gallery("disk", "grant-access", "--ids", disk, "--access-level", "write")
    assert outcome.json == {"accessSAS": "url"}
    assert arm.calls("POST")[-1].json == {"access": "Write", "durationInSeconds": 3600}


def test_a_resource_that_is_only_creating_is_looked_at_until_it_is_done(
    arm: StandIn, gallery: Gallery
) -> None:
    states = ["Creating", "Creating", "Succeeded"]

    def no_headers(request: Request) -> Answer | None:
        if "galleries/g" in request.path:
            state = states.pop(0)
            return Answer(200, {"id": request.path, "properties": {"provisioningState": state}})
        return None

    arm.fault = no_headers
    assert gallery("sig", "create", "-g", "rg", "-r", "g").json["provisioningState"] == "Succeeded"


def test_a_subscription_may_be_named(arm: StandIn, gallery: Gallery) -> None:
    other = "99999999-9999-9999-9999-999999999999"
    arm.add(f"/subscriptions/{other}", {"displayName": "Second", "subscriptionId": other})
    assert gallery("sig", "list", "--subscription", "second").json == []
    assert arm.calls("GET", f"/subscriptions/{other}/providers/Microsoft.Compute/galleries")
    assert "no subscription 'third'" in gallery("sig", "list", "--subscription", "third").err


def test_ctrl_c_ends_quietly_with_130(arm: StandIn, gallery: Gallery) -> None:
    arm.polls = 10**6
    process = subprocess.Popen(
        [sys.executable, "-m", "opengallery.cli.main", "sig", "create", "-g", "rg", "-r", "g"],
        # A test run in the background ignores the signal, and hands that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    while not arm.calls("GET", "operations"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_reader_that_goes_away_leaves_no_stack_trace(arm: StandIn, gallery: Gallery) -> None:
    for number in range(2000):
        arm.add(f"{GALLERIES}/g{number}", {"location": "westus", "tags": {"x": "y" * 100}})
    arm.page_size = 5000
    command = f"{sys.executable} -m opengallery.cli.main sig list | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert (json.loads(done.stdout + "]"), done.stderr) == ([], "")


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..", "a\nb", "a?b", "a#b", "a%2fb", ""])
def test_a_name_that_leads_elsewhere_is_not_sent(arm: StandIn, gallery: Gallery, name: str) -> None:
    for words in (
        ("group", "delete", "--yes", "-n", name),
        ("group", "exists", "-n", name),
        ("disk", "list", "-g", name),
        ("sig", "create", "-g", "rg", "-r", name),
        ("vm", "start", "--ids", f"{GROUP}/providers/Microsoft.Compute/virtualMachines/a{name}?"),
    ):
        outcome = gallery(*words)
        assert outcome.code == 2, words
        assert name in ("a/b", "a\nb") or "invalid name" in outcome.err, words
    assert not arm.calls("DELETE") + arm.calls("PUT") + arm.calls("POST", "/virtualMachines/")
    assert {request.path for request in arm.calls("GET", "^/subscriptions")} == {GROUP}


def test_other_names_are_percent_encoded(arm: StandIn, gallery: Gallery) -> None:
    gallery("group", "exists", "-n", "Gruppe ü&[1]")
    assert arm.calls("HEAD")[0].path.endswith("/resourceGroups/Gruppe%20%C3%BC&%5B1%5D")


@pytest.mark.parametrize(
    "endpoint", ["localhost:8443", "https://", "http://[", "ftp://a", "https://a:x", "https://a?b"]
)
def test_an_unusable_endpoint_names_the_variable(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setenv("GALLERY_ENDPOINT", endpoint)
    outcome = gallery("sig", "list")
    assert outcome.code == 1
    assert f"GALLERY_ENDPOINT is '{endpoint}'" in outcome.err


@pytest.mark.parametrize("answer", [Answer(404), Answer(200, {}), Answer(200, b"<html>")])
def test_an_endpoint_that_is_no_gallery_names_the_variable(
    arm: StandIn, gallery: Gallery, answer: Answer
) -> None:
    arm.fault = lambda request: answer if request.path == "/metadata/endpoints" else None
    outcome = gallery("sig", "list")
    assert outcome.code == 1
    assert f"GALLERY_ENDPOINT ({arm.url}) leads to no gallery" in outcome.err
    assert ".." not in outcome.err


def test_a_refused_sign_in_has_no_doubled_full_stop(arm: StandIn, gallery: Gallery) -> None:
    refusal = {"error": "invalid_client", "error_description": "AADSTS7000215: Wrong secret.. Trace ID: x"}
    arm.fault = lambda request: Answer(401, refusal) if request.path.endswith("/token") else None
    assert "Wrong secret. Trace" in gallery("sig", "list").err


def test_a_long_operation_says_what_is_waited_for(
    arm: StandIn, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_FOR_S", 0)
    delete = ["group", "delete", "--yes", "-n", "rg"]
    arm.polls = 3
    assert gallery(*delete).err == "waiting for resource group 'rg' to be deleted ...\n"
    arm.add(GROUP, {})
    assert gallery(*delete, "--only-show-errors").err == ""
