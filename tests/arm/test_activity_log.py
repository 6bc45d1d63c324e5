"""The activity log: every write and every denied request is in it, and nothing that is a secret."""

import json
import time
import uuid
from typing import Any

import pytest
from sqlalchemy import insert, text

from opengallery.arm import access
from opengallery.arm.paging import token
from opengallery.identity.directory import find_principal, principals
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.keys import SigningKeys
from opengallery.identity.tokens import Tokens
from opengallery.identity.users import users
from opengallery.providers.insights import event_data

from ..providers.conftest import Api
from ..providers.images import full_disk
from .conftest import Newcomer
from .galleries import COMPUTE, REGION, full_id, gallery

LOG = "providers/Microsoft.Insights/eventtypes/management/values"
SINCE = "eventTimestamp ge '2020-01-01T00:00:00Z'"
VERSION = "api-version=2015-04-01"


def events(api: Api, scope: str = "", **asked: str) -> list[dict[str, Any]]:
    """All events that the filter finds, page by page, the newest first; `scope` may be `/` for the tenant."""
    api.services.activity_log.flush()
    clauses = " and ".join([SINCE, *(f"{name} eq '{value}'" for name, value in asked.items())])
    url: str | None = f"{scope}{LOG}?{VERSION}&$filter={clauses}"
    found: list[dict[str, Any]] = []
    while url:
        page = api.get(url)
        found += page["value"]
        url = page.get("nextLink", "").split("testserver")[-1]
    return found


def brief(event: dict[str, Any]) -> tuple[str, str, str]:
    """Operation, status and status code."""
    return event["operationName"]["value"], event["status"]["value"], event["subStatus"]["value"]


def test_a_write_is_recorded_with_who_what_where_and_how_it_ended(api: Api) -> None:
    group, correlation_id, request_id = api.group("audited"), str(uuid.uuid4()), str(uuid.uuid4())
    path = f"{group}/{COMPUTE}/galleries/one"
    ids = {"x_ms_correlation_request_id": correlation_id, "x_ms_client_request_id": request_id}
    answer = api.ask("PUT", path, {"location": REGION}, **ids)
    assert answer.headers["x-ms-correlation-request-id"] == correlation_id
    [event] = events(api, correlationId=correlation_id)
    assert brief(event) == ("Microsoft.Compute/galleries/write", "Succeeded", "Created")
    assert event["resourceId"] == full_id(api, path)
    assert event["caller"] == event["claims"]["appid"] == api.first.app_id
    claims = "http://schemas.microsoft.com/identity/claims"
    assert event["claims"][f"{claims}/objectidentifier"] == api.first.object_id
    assert event["claims"][f"{claims}/tenantid"] == event["tenantId"] == api.first.tenant_id
    assert event["claims"]["idtyp"] == "app"
    assert event["httpRequest"] == {
        "clientRequestId": request_id,
        "clientIpAddress": "testclient",
        "method": "PUT",
        "uri": f"https://testserver{full_id(api, path)}",
    }
    assert event["resourceGroupName"] == "audited" and event["subscriptionId"] == api.first.subscription_id
    assert event["resourceType"]["value"] == "Microsoft.Compute/galleries"
    assert set(event) == event_data.MEMBERS


def test_every_kind_of_write_is_recorded(api: Api) -> None:
    group = api.group("audited")
    path = gallery(api, group)
    api.ask("PATCH", path, {"tags": {"a": "b"}})
    api.act("providers/Microsoft.Compute/register?api-version=2024-11-01")
    network = f"{group}/providers/Microsoft.Network/virtualNetworks/net"
    api.put(
        network, {"location": REGION, "properties": {"addressSpace": {"addressPrefixes": ["10.0.0.0/16"]}}}
    )
    api.put(f"{network}/subnets/s", {"properties": {"addressPrefix": "10.0.0.0/24"}})
    api.delete(f"{network}/subnets/s")
    api.delete(path)
    assert [brief(one) for one in events(api, resourceGroupName="AUDITED")][:7] == [
        ("Microsoft.Compute/galleries/delete", "Succeeded", "OK"),
        ("Microsoft.Network/virtualNetworks/subnets/delete", "Succeeded", "OK"),
        ("Microsoft.Network/virtualNetworks/subnets/write", "Succeeded", "Created"),
        ("Microsoft.Network/virtualNetworks/write", "Succeeded", "Created"),
        ("Microsoft.Compute/galleries/write", "Succeeded", "OK"),
        ("Microsoft.Compute/galleries/write", "Succeeded", "Created"),
        ("Microsoft.Resources/resourceGroups/write", "Succeeded", "Created"),
    ]
    [registered] = [
        one for one in events(api) if one["operationName"]["value"] == "Microsoft.Resources/register/action"
    ][:1]
    assert registered["resourceId"] == f"/subscriptions/{api.first.subscription_id}"


def test_an_operation_is_recorded_when_it_begins_and_when_it_ends(api: Api) -> None:
    group, correlation_id = api.group("audited"), str(uuid.uuid4())
    data = {"createOption": "Copy", "sourceResourceId": full_id(api, full_disk(api, group, "source", 4))}
    body = {"location": REGION, "properties": {"creationData": data}}
    answer = api.ask("PUT", f"{group}/{COMPUTE}/disks/d", body, x_ms_correlation_request_id=correlation_id)
    api.finish(answer)
    ended, begun = events(api, correlationId=correlation_id)
    name = "Microsoft.Compute/disks/write"
    assert brief(begun)[:2] == (name, "Accepted") and begun["eventName"]["value"] == "BeginRequest"
    assert brief(ended) == (name, "Succeeded", "") and ended["eventName"]["value"] == "EndRequest"
    assert begun["operationId"] == ended["operationId"]
    assert answer.headers["Azure-AsyncOperation"].split("/operations/")[1].startswith(ended["operationId"])
    assert begun["caller"] == ended["caller"] == api.first.app_id
    assert ended["httpRequest"]["clientIpAddress"] == "testclient"


def test_what_a_deployment_and_a_groups_end_do_is_recorded_in_their_callers_name(
    api: Api, newcomer: Newcomer
) -> None:
    group = api.group("audited")
    worker = newcomer((access.CONTRIBUTOR, full_id(api, group)))
    gallery_type = {"apiVersion": "2024-03-03", "type": "Microsoft.Compute/galleries", "location": REGION}
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [{**gallery_type, "name": "deployed"}],
    }
    made, gone = str(uuid.uuid4()), str(uuid.uuid4())
    path = f"{group}/providers/Microsoft.Resources/deployments/d"
    body = {"properties": {"template": template, "mode": "Incremental"}}
    worker.finish(worker.ask("PUT", path, body, x_ms_correlation_request_id=made))
    assert worker.get(path)["properties"]["correlationId"] == made
    found = {brief(one)[:2]: one for one in events(api, correlationId=made)}
    assert set(found) == {
        ("Microsoft.Resources/deployments/write", "Accepted"),
        ("Microsoft.Compute/galleries/write", "Succeeded"),
        ("Microsoft.Resources/deployments/write", "Succeeded"),
    }
    assert len({one["caller"] for one in found.values()}) == 1
    assert api.first.app_id not in {one["caller"] for one in found.values()}
    worker.finish(worker.ask("DELETE", group, x_ms_correlation_request_id=gone))
    api.groups.clear()
    assert {brief(one)[:2] for one in events(api, correlationId=gone)} == {
        ("Microsoft.Resources/resourceGroups/delete", "Accepted"),
        ("Microsoft.Compute/galleries/delete", "Succeeded"),
        ("Microsoft.Resources/deployments/delete", "Succeeded"),
        ("Microsoft.Resources/resourceGroups/delete", "Succeeded"),
    }


def test_a_part_of_a_deployment_that_is_denied_is_recorded(api: Api, newcomer: Newcomer) -> None:
    group, correlation_id = api.group("audited"), str(uuid.uuid4())
    worker = newcomer(
        (access.CONTRIBUTOR, full_id(api, f"{group}/providers/Microsoft.Resources/deployments/d"))
    )
    resource = {"apiVersion": "2024-03-03", "type": "Microsoft.Compute/galleries", "location": REGION}
    template = {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "resources": [{**resource, "name": "denied"}],
    }
    body = {"properties": {"template": template, "mode": "Incremental"}}
    path = f"{group}/providers/Microsoft.Resources/deployments/d"
    answer = worker.ask("PUT", path, body, x_ms_correlation_request_id=correlation_id)
    assert worker.operation(answer)["status"] == "Failed"
    found = {brief(one)[:2]: one for one in events(api, correlationId=correlation_id)}
    denied = found["Microsoft.Compute/galleries/write", "Failed"]
    assert denied["properties"]["errorCode"] == "AuthorizationFailed"
    assert found["Microsoft.Resources/deployments/write", "Failed"]["properties"]["errorCode"]


def test_denied_and_failed_requests_are_recorded_and_failed_reads_are_not(
    api: Api, newcomer: Newcomer
) -> None:
    group = api.group("audited")
    one = gallery(api, group)
    stranger = newcomer()
    stranger.ask("GET", one)
    stranger.ask("DELETE", one)
    stranger.ask("HEAD", f"{one}/images")
    api.ask("PUT", f"{group}/{COMPUTE}/galleries/bad name!", {"location": REGION})
    api.ask("GET", f"{group}/{COMPUTE}/galleries/missing")
    found = events(api, resourceGroupName="audited", status="Failed")
    read, delete, listed, refused = found[3], found[2], found[1], found[0]
    assert brief(read) == ("Microsoft.Compute/galleries/read", "Failed", "Forbidden")
    assert brief(delete) == ("Microsoft.Compute/galleries/delete", "Failed", "Forbidden")
    assert brief(listed) == ("Microsoft.Compute/galleries/images/read", "Failed", "Forbidden")
    assert brief(refused) == ("Microsoft.Compute/galleries/write", "Failed", "BadRequest")
    assert read["properties"]["errorCode"] == "AuthorizationFailed" and read["level"] == "Error"
    assert read["caller"] == delete["caller"] != api.first.app_id
    assert not [event for event in found if event["resourceId"].endswith("/missing")]


def test_requests_without_a_right_token_are_recorded_without_the_token(api: Api) -> None:
    marker = f"secret-{uuid.uuid4()}"
    group = full_id(api, f"resourceGroups/{uuid.uuid4()}")
    sent = {"Authorization": f"Bearer {marker}.{marker}.{marker}"}
    assert api.client.get(f"{group}?api-version={marker}", headers=sent).status_code == 401
    assert api.client.put(f"/nowhere/{group[-36:]}?sig={marker}").status_code == 401
    [one] = events(api, resourceId=group)
    assert brief(one) == ("Microsoft.Resources/resourceGroups/read", "Failed", "Unauthorized")
    assert one["properties"]["errorCode"] == "InvalidAuthenticationToken" and one["claims"] == {}
    [other] = events(api, "/", resourceId=f"/nowhere/{group[-36:]}")
    assert brief(other) == ("Microsoft.Resources/unknown/write", "Failed", "Unauthorized")
    assert other["tenantId"] == api.first.tenant_id
    with api.services.database.read() as connection:
        kept = json.dumps(
            [list(map(str, row)) for row in connection.execute(text("select * from activity_events"))]
        )
    assert marker not in kept and api.token not in kept and api.first.client_secret not in kept


def test_a_signed_url_or_a_password_does_not_get_into_the_log(api: Api) -> None:
    group, marker = api.group("audited"), f"P4ssword-{uuid.uuid4()}"
    body = {
        "location": REGION,
        "properties": {"creationData": {"createOption": "Upload", "uploadSizeBytes": 20972032}},
    }
    disk = f"{group}/{COMPUTE}/disks/d"
    api.put(disk, body)
    given = api.act(f"{disk}/beginGetAccess", {"access": "Write", "durationInSeconds": 600})
    signature = json.dumps(given).split("sig=")[1][:20]
    api.act(f"{disk}/endGetAccess")
    profile = {"adminPassword": marker, "computerName": marker}
    machine = {"location": REGION, "properties": {"osProfile": profile}}
    api.ask("PUT", f"{group}/{COMPUTE}/virtualMachines/v", machine)
    api.ask("PUT", f"{group}/{COMPUTE}/disks/d?api-version={marker}", {"location": marker})
    assert len(events(api, resourceGroupName="audited")) > 6
    with api.services.database.read() as connection:
        kept = json.dumps(
            [list(map(str, row)) for row in connection.execute(text("select * from activity_events"))]
        )
    assert marker not in kept and signature not in kept and "sig=" not in kept


def test_a_refused_sign_in_is_in_the_tenants_log(api: Api) -> None:
    secret = f"wrong-{uuid.uuid4()}"
    form = {"grant_type": "client_credentials", "client_id": api.first.app_id, "client_secret": secret}
    form["scope"] = f"{api.services.settings.endpoint}/.default"
    request_id = str(uuid.uuid4())
    answer = api.client.post(
        f"/{api.first.tenant_id}/oauth2/v2.0/token", data=form, headers={"client-request-id": request_id}
    )
    assert answer.status_code == 401
    [event] = [one for one in events(api, "/", caller=api.first.app_id)
               if one["httpRequest"].get("clientRequestId") == request_id]  # fmt: skip
    assert brief(event) == ("Microsoft.AadIam/signIns/action", "Failed", "Unauthorized")
    assert event["properties"]["errorCode"] == "AADSTS7000215"
    assert secret not in json.dumps(event)


def test_a_user_is_named(api: Api) -> None:
    object_id = str(uuid.uuid4())
    database, settings = api.services.database, api.services.settings
    with database.write() as connection:
        row = {"object_id": object_id, "tenant_id": api.first.tenant_id, "kind": "User"}
        connection.execute(insert(principals).values(**row, app_id=None, display_name="B", enabled=True))
        name = f"{object_id}@local"
        connection.execute(
            insert(users).values(
                object_id=object_id, user_principal_name=name.upper(), user_principal_name_key=name, details={},
                created_at=text("current_timestamp"),
            )
        )  # fmt: skip
        principal = find_principal(connection, object_id)
    assert principal is not None
    tokens = Tokens(database, SigningKeys.open(IdentityFolder(settings.data)), settings.endpoint)
    bob = Api(api.client, api.services, api.first, tokens.issue(principal, settings.endpoint).text)
    assert bob.ask("GET", "resourceGroups/x").status_code == 403
    for asked in (name, object_id):
        [event] = events(api, caller=asked)
        assert event["caller"] == name.upper()
        assert event["claims"]["idtyp"] == "user"


def test_who_reads_a_group_sees_its_events_and_no_others(api: Api, newcomer: Newcomer) -> None:
    mine, theirs = api.group("mine"), api.group("theirs")
    gallery(api, mine, "a"), gallery(api, theirs, "b")
    reader = newcomer((access.READER, full_id(api, mine)))
    found = {event["resourceId"].rsplit("/", 1)[1] for event in events(reader)}
    assert found == {"a", "mine"}
    assert reader.refused("GET", f"/{LOG}?{VERSION}")[:2] == (403, "AuthorizationFailed")
    for subscription in (api.first.second_subscription_id, str(uuid.uuid4())):
        path = f"/subscriptions/{subscription}/{LOG}?{VERSION}&$filter={SINCE}"
        assert reader.refused("GET", path)[:2] == (403, "AuthorizationFailed")
    nobody = newcomer()
    assert nobody.refused("GET", f"{LOG}?{VERSION}&$filter={SINCE}")[:2] == (403, "AuthorizationFailed")
    missing = f"/subscriptions/{uuid.uuid4()}/{LOG}?{VERSION}&$filter={SINCE}"
    assert api.refused("GET", missing)[:2] == (404, "SubscriptionNotFound")


def test_select_and_time_narrow_what_is_answered(api: Api) -> None:
    group = api.group("audited")
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    where = f"eventTimestamp ge {before} and eventChannels eq 'Admin, Operation' and resourceGroupName eq 'audited'"
    one = api.get(f"{LOG}?{VERSION}&$filter={where}&$select=caller, eventTimestamp")["value"][0]
    assert set(one) == {"caller", "eventTimestamp"} and group
    since = "eventTimestamp ge '2020-01-01T00:00:00.1234567Z'"
    where = f"{since} and eventTimestamp le {before} and resourceGroupName eq 'audited'"
    later = api.get(f"{LOG}?{VERSION}&$filter={where}")["value"]
    assert [event for event in later if event["eventTimestamp"] > before] == []


@pytest.mark.parametrize(
    "query",
    [
        "",
        "$filter=caller eq 'x'",
        "$filter=eventTimestamp ge 'yesterday'",
        "$filter=eventTimestamp ge '2020-01-01' or caller eq 'x'",
        "$filter=eventTimestamp ge '2020-01-01' and size eq '1'",
        "$filter=eventTimestamp ge '2020-01-01' and caller eq 'a%00b'",
        "$filter=" + "x" * 5000,
        f"$filter={SINCE}&$select=secret",
        f"$filter={SINCE}&$skiptoken=L2E=",
        f"$filter={SINCE}&$skiptoken={token('/9999-12-31T23:59:59-23:59/1')}",
        f"$filter={SINCE}&$top=0",
    ],
)
def test_a_filter_that_can_not_be_used_is_refused(api: Api, query: str) -> None:
    assert api.refused("GET", f"{LOG}?{VERSION}&{query}")[0] == 400


def test_a_change_of_the_directory_is_in_the_tenants_log(api: Api, newcomer: Newcomer) -> None:
    secret = f"Passw0rd-{uuid.uuid4()}"
    name = f"u{uuid.uuid4().hex[:8]}"
    body = {"displayName": name, "mailNickname": name, "userPrincipalName": f"{name}@local", "accountEnabled": True,
            "passwordProfile": {"password": secret}}  # fmt: skip
    answers = []
    for one in (api, newcomer()):
        sent = {"Authorization": f"Bearer {one.token}"}
        answers.append(one.client.post("/v1.0/users", json=body, headers=sent))
    made, refused = answers
    assert (made.status_code, refused.status_code) == (201, 403), (made.text, refused.text)
    found = {one["correlationId"]: one for one in events(api, "/", resourceProvider="Microsoft.Graph")}
    written, denied = (found[answer.headers["request-id"]] for answer in answers)
    assert brief(written) == ("Microsoft.Graph/users/write", "Succeeded", "Created")
    assert written["caller"] == api.first.app_id and written["resourceId"] == "/v1.0/users"
    assert brief(denied) == ("Microsoft.Graph/users/write", "Failed", "Forbidden")
    assert secret not in json.dumps([written, denied])
