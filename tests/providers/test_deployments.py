"""Deployments: the recorded templates, order, outputs, failures, and secrets that never stay."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, select

from opengallery.arm import operations, resources
from opengallery.arm.operations import Work
from opengallery.arm.roles import READER
from opengallery.providers.resources import deployments

from .conftest import Api
from .images import COMPUTE, definition, id_of, managed_image, version_body

WIRE = Path(__file__).parents[1] / "wire"
SECRET = "correct-horse-battery-staple-9"
NETWORK = "Microsoft.Network"
REGION = "westcentralus"


def recorded(api: Api, name: str, group: str, *, without: str = "") -> dict[str, Any]:
    """A recorded body for this server's subscription and a group, without resources of a type."""
    text = (WIRE / name).read_text()
    text = text.replace("22222222-2222-2222-2222-222222222222", api.first.subscription_id)
    text = text.replace("AAAAB3NzaC1yc2E...", "AAAAB3NzaC1yc2E=")  # the recording shortens the key
    body: dict[str, Any] = json.loads(text.replace("/resourceGroups/rg/", f"/resourceGroups/{group}/"))
    template = body["properties"]["template"]
    if without:
        template["resources"] = [one for one in template["resources"] if one["type"] != without]
        template["outputs"] = {}
    return body


def deployment(template: dict[str, Any], parameters: Any = None, mode: str = "Incremental") -> dict[str, Any]:
    """The body of a deployment."""
    schema = "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#"
    whole = {"$schema": schema, "contentVersion": "1.0.0.0", "resources": [], **template}
    return {"properties": {"template": whole, "parameters": parameters, "mode": mode}}


def gallery(name: str, *depends_on: str, **body: Any) -> dict[str, Any]:
    """A gallery in a template."""
    return {"type": "Microsoft.Compute/galleries", "apiVersion": "2024-03-03", "name": name,
            "location": "[resourceGroup().location]", "dependsOn": list(depends_on), **body}  # fmt: skip


@pytest.fixture
def group(api: Api) -> str:
    """A resource group; its path."""
    return api.group("Deployed")


def path(group: str, name: str = "d") -> str:
    """The path of a deployment."""
    return f"{group}/providers/Microsoft.Resources/deployments/{name}"


def failed(api: Api, group: str, body: Any, name: str = "d") -> dict[str, Any]:
    """The error of a deployment that has to be taken and to fail."""
    answer = api.ask("PUT", path(group, name), body)
    assert answer.status_code in (200, 201), answer.text
    ended = api.operation(answer)
    assert ended["status"] == "Failed"
    shown = api.get(path(group, name))
    assert shown["properties"]["provisioningState"] == "Failed"
    assert shown["properties"]["error"] == ended["error"]
    assert ended["error"]["code"] == "DeploymentFailed"
    assert ended["error"]["details"]
    return dict(ended["error"])


def test_what_vm_create_deploys_but_for_the_machine(api: Api, group: str) -> None:
    body = recorded(api, "deployment-vm-create.json", "Deployed", without="Microsoft.Compute/virtualMachines")
    answer = api.ask("PUT", path(group, "vm_deploy_1"), body)
    assert answer.status_code == 201
    assert "Location" not in answer.headers
    assert answer.json()["properties"]["provisioningState"] in ("Accepted", "Creating", "Running")
    api.finish(answer)
    shown = api.get(path(group, "vm_deploy_1"))["properties"]
    assert (shown["provisioningState"], shown["mode"], shown["outputs"]) == ("Succeeded", "Incremental", {})
    assert len(shown["outputResources"]) == 4
    nic = api.get(f"{group}/providers/{NETWORK}/networkInterfaces/rg-vmVMNic")
    configuration = nic["properties"]["ipConfigurations"][0]["properties"]
    assert configuration["privateIPAddress"] == "10.0.0.4"
    assert configuration["publicIPAddress"]["id"].endswith("/publicIPAddresses/rg-vmPublicIP")
    for one in shown["outputResources"]:
        assert api.get(f"{one['id']}?api-version=2022-01-01")["id"] == one["id"]


def test_what_vmss_create_deploys_but_for_the_scale_set(api: Api, group: str) -> None:
    without = "Microsoft.Compute/virtualMachineScaleSets"
    body = recorded(api, "deployment-vmss-create.json", "Deployed", without=without)
    api.put(path(group), body)
    rule = api.get(f"{group}/providers/{NETWORK}/loadBalancers/myScaleSetLB/inboundNatRules/NatRule")
    frontend = rule["properties"]["frontendIPConfiguration"]["id"]
    assert api.get(f"{frontend}?api-version=2022-01-01")["name"] == "loadBalancerFrontEnd"


@pytest.mark.parametrize("name", ["deployment-vm-create.json", "deployment-vmss-create.json"])
def test_a_machine_without_its_image_fails_the_deployment(api: Api, group: str, name: str) -> None:
    error = failed(api, group, recorded(api, name, "Deployed"))
    detail = error["details"][0]
    assert detail["code"] in ("ResourceNotFound", "GalleryImageNotFound")
    assert "myGallery" in detail["message"] and "myGallery" in error["message"]
    assert api.get("resources?$filter=resourceType eq 'Microsoft.Compute/virtualMachines'")["value"] == []


def test_resources_are_made_after_what_they_need_and_outputs_are_shown(api: Api, group: str) -> None:
    images = "Microsoft.Compute/galleries/images"
    template = {
        "parameters": {"prefix": {"type": "string", "defaultValue": "g"}, "note": {"type": "string", "nullable": True}},
        "variables": {"first": "[concat(parameters('prefix'), '1')]"},
        "resources": [
            {"type": images, "apiVersion": "2024-03-03", "name": "[concat(variables('first'), '/linux')]",
             "location": "[resourceGroup().location]",
             "dependsOn": ["[resourceId('Microsoft.Compute/galleries', variables('first'))]"],
             "properties": {"identifier": {"publisher": "p", "offer": "o", "sku": "s"},
                            "osType": "Linux", "osState": "Generalized"}},
            gallery("g2", properties={"description": "[reference(variables('first')).identifier.uniqueName]"}),
            gallery("[variables('first')]"),
            gallery("unwanted", condition=False),
        ],
        "outputs": {
            "unique": {"type": "string", "value": "[reference('g2').description]"},
            "whole": {"type": "object", "value": "[reference('g2', '2024-03-03', 'Full')]"},
            "hidden": {"type": "securestring", "value": "x"},
        },
    }  # fmt: skip
    shown = api.put(path(group), deployment(template, {"note": {"value": None}}))["properties"]
    unique = f"{api.first.subscription_id}-G1"
    assert shown["outputs"]["unique"] == {"type": "String", "value": unique}
    assert shown["outputs"]["whole"]["value"]["name"] == "g2"
    assert shown["outputs"]["hidden"] == {"type": "Securestring"}
    assert shown["parameters"]["prefix"]["value"] == "g"
    assert api.get(f"{group}/{COMPUTE}/galleries/g1/images/linux")
    assert api.ask("GET", f"{group}/{COMPUTE}/galleries/unwanted").status_code == 404
    assert [one["id"].rsplit("/", 1)[-1] for one in shown["outputResources"]] == ["g1", "linux", "g2"]
    again = api.put(path(group), deployment({"resources": [gallery("g3")]}))
    assert again["properties"]["outputs"] == {}


def test_a_failure_stops_what_depends_on_it_and_leaves_nothing_running(api: Api, group: str) -> None:
    bad = gallery("bad-name")
    template = {"resources": [gallery("good"), bad, gallery("after", "bad-name")]}
    error = failed(api, group, deployment(template))
    assert [one["code"] for one in error["details"]] == ["InvalidResourceName"]
    assert error["details"][0]["target"]
    assert api.get(f"{group}/{COMPUTE}/galleries/good")
    assert api.ask("GET", f"{group}/{COMPUTE}/galleries/after").status_code == 404
    with api.services.database.read() as connection:
        table = operations.operations
        assert connection.scalars(select(table.c.id).where(table.c.status == "InProgress")).all() == []


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ({"resources": [gallery("a", "b"), gallery("b", "a")]}, "InvalidTemplate"),
        ({"resources": [gallery("[nothing('x')]")]}, "InvalidTemplate"),
        ({"resources": [{**gallery("a"), "apiVersion": "2001-01-01"}]}, "NoRegisteredProviderFound"),
        ({"resources": [{**gallery("a"), "type": "Microsoft.Compute/nothing"}]}, "InvalidResourceType"),
        ({"resources": [{**gallery("a"), "type": "No.Such/thing"}]}, "InvalidResourceNamespace"),
        ({"parameters": {"p": {"type": "string"}}}, "InvalidTemplate"),
        ({"resources": {}}, "InvalidTemplate"),
    ],
)
def test_a_wrong_template_is_refused_by_validate_and_fails_when_deployed(
    api: Api, group: str, template: dict[str, Any], code: str
) -> None:
    body = deployment(template)
    status = 404 if code in ("InvalidResourceType", "InvalidResourceNamespace") else 400
    assert api.refused("POST", f"{path(group)}/validate", body)[:2] == (status, code)
    assert failed(api, group, body)["details"][0]["code"] == code
    assert api.get("resources?$filter=resourceGroup eq 'Deployed'")["value"] == []


def test_validate_makes_nothing(api: Api, group: str) -> None:
    body = deployment({"resources": [gallery("g")]})
    answer = api.act(f"{path(group)}/validate", body)
    assert answer["properties"]["provisioningState"] == "Succeeded"
    assert answer["properties"]["validatedResources"] == [
        {"id": id_of(api, f"{group}/{COMPUTE}/galleries/g")}
    ]
    assert api.ask("GET", path(group)).status_code == 404
    assert api.ask("GET", f"{group}/{COMPUTE}/galleries/g").status_code == 404
    nowhere = path("resourceGroups/nowhere")
    assert api.refused("POST", f"{nowhere}/validate", body)[:2] == (404, "ResourceGroupNotFound")


@pytest.mark.parametrize(
    "body", [{}, {"properties": None}, {"properties": {"template": []}}, {"properties": {"mode": 1}}]
)
def test_a_body_without_a_template_is_refused(api: Api, group: str, body: Any) -> None:
    assert api.refused("POST", f"{path(group)}/validate", body)[:2] == (400, "InvalidRequestContent")
    assert api.refused("PUT", path(group), body)[:2] == (400, "InvalidRequestContent")
    assert api.ask("GET", path(group)).status_code == 404


def test_the_body_that_az_writes_is_understood(api: Api, group: str) -> None:
    template = """{
      // a comment
      "$schema": "https://schema.management.azure.com/schemas/2015-01-01/deploymentTemplate.json#",
      "contentVersion": "1.0.0.0", /* another */
      "resources": [{"type": "Microsoft.Compute/galleries", "apiVersion": "2024-03-03", "name": "g",
                     "location": "westus", "properties": {"description": "http://two
lines"}}]}"""
    text = '{"properties": {"parameters": {}, "mode": "Incremental", template:' + template + "}}"
    headers = {"Authorization": f"Bearer {api.token}"}
    for method, where in (("POST", f"{path(group)}/validate"), ("PUT", path(group))):
        answer = api.client.request(method, api.url(where), content=text.encode(), headers=headers)
        assert answer.status_code in (200, 201), answer.text
        api.finish(answer)
    assert api.get(f"{group}/{COMPUTE}/galleries/g")["properties"]["description"] == "http://two\nlines"
    answer = api.client.put(
        api.url(path(group, "e")), content=b'{"properties": {template:{]}}', headers=headers
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "InvalidRequestContent")


def test_mode_complete_is_refused(api: Api, group: str) -> None:
    error = failed(api, group, deployment({"resources": []}, mode="Complete"))
    assert error["details"][0]["code"] == "InvalidDeploymentMode"


def everything_kept(api: Api) -> str:
    """All rows of all tables, and on SQLite the files as they are, free pages and logs too."""
    found = MetaData()
    with api.services.database.read() as connection:
        found.reflect(connection)
        text = "".join(str(connection.execute(select(table)).all()) for table in found.sorted_tables)
    for file in (
        *api.services.settings.data.glob("*.sqlite"),
        *api.services.settings.data.glob("*.sqlite-wal"),
    ):
        text += file.read_bytes().decode("latin-1")
    return text


def test_secrets_are_neither_shown_nor_kept(api: Api, group: str) -> None:
    body = recorded(api, "deployment-vm-create.json", "Deployed")
    template = body["properties"]["template"]
    template["parameters"] = {"adminPassword": {"type": "securestring"}}
    template["resources"][-1]["properties"]["osProfile"]["adminPassword"] = "[parameters('adminPassword')]"
    template["outputs"] = {"password": {"type": "secureString", "value": "[parameters('adminPassword')]"}}
    body["properties"]["parameters"] = {"adminPassword": {"value": SECRET}}
    assert SECRET not in api.ask("POST", f"{path(group)}/validate", body).text
    answer = api.ask("PUT", path(group), body)
    assert SECRET not in answer.text
    assert api.operation(answer)["status"] == "Failed"  # the recorded image isn't there
    template["resources"].pop()
    answer = api.ask("PUT", path(group, "well"), body)
    assert SECRET not in everything_kept(api)
    api.finish(answer)
    for name in ("d", "well"):
        shown = api.ask("GET", path(group, name))
        assert SECRET not in shown.text
        assert shown.json()["properties"]["parameters"] == {"adminPassword": {"type": "Securestring"}}
    assert api.get(path(group, "well"))["properties"]["outputs"] == {"password": {"type": "SecureString"}}
    with api.services.database.read() as connection:
        kept = resources.get(connection, id_of(api, path(group, "well")))
    assert kept is not None and kept.private == {}
    assert SECRET not in everything_kept(api)


def test_a_deployment_that_a_crash_took_after_its_end_ends_the_same(api: Api, group: str) -> None:
    api.put(path(group, "well"), deployment({"resources": [gallery("g")]}))
    failed(api, group, deployment({"resources": [gallery("bad-name")]}), "badly")
    runtime = operations._runtime
    assert runtime is not None
    with api.services.database.read() as connection:
        for name in ("well", "badly"):
            table = operations.operations
            key = id_of(api, path(group, name)).lower()
            query = select(table.c.id).where(table.c.resource_key == key).order_by(table.c.started_at.desc())
            operation_id = connection.scalars(query).first() or ""
            operation = operations.get(connection, operation_id)
            assert operation is not None
            if name == "well":
                deployments._deploy(Work(operation, runtime))
            else:
                with pytest.raises(deployments.ArmError) as again:
                    deployments._deploy(Work(operation, runtime))
                assert again.value.error() == operation.error


def test_what_az_deploys_runs_machines_and_all(api: Api, group: str) -> None:
    version = f"{definition(api, group)}/versions/1.0.0"
    api.put(version, version_body(api, managed_image(api, group, "image", 1), REGION))
    for name in ("deployment-vm-create.json", "deployment-vmss-create.json"):
        body = recorded(api, name, "Deployed")
        machines = body["properties"]["template"]["resources"][-1]
        profile = machines["properties"].get("virtualMachineProfile", machines["properties"])
        profile["storageProfile"]["imageReference"]["id"] = id_of(api, version)
        if "sku" in machines:
            machines["sku"]["capacity"] = 2
        shown = api.put(path(group, name), body)["properties"]
    assert shown["outputs"]["vmss"]["value"]["orchestrationMode"] == "Flexible"
    assert len(api.get(f"{group}/{COMPUTE}/virtualMachines")["value"]) == 3
    assert len(api.get(f"{group}/providers/{NETWORK}/networkInterfaces")["value"]) == 3
    for nic in api.get(f"{group}/providers/{NETWORK}/networkInterfaces")["value"]:
        assert nic["properties"]["virtualMachine"]["id"]
    api.delete(group)
    api.groups.remove("Deployed")
    assert api.get("resources?$filter=resourceGroup eq 'Deployed'")["value"] == []


def test_a_template_assigns_a_role_at_its_group_and_at_a_resource(api: Api, group: str) -> None:
    def assignment(kind: str, name: str, scope: str) -> dict[str, Any]:
        role = f"/providers/Microsoft.Authorization/roleDefinitions/{READER.id}"
        who = {"principalId": api.first.object_id, "roleDefinitionId": role, "scope": scope}
        return {
            "type": kind,
            "name": name,
            "apiVersion": "2015-07-01",
            "properties": who,
            "dependsOn": [needed],
        }

    needed = "Microsoft.Compute/galleries/pictures"
    own = str(uuid.uuid4())
    kind = "Microsoft.Compute/galleries/providers/roleAssignments"
    gallery_id = id_of(api, f"{group}/{COMPUTE}/galleries/pictures")
    resources = [
        gallery("pictures"),
        assignment("Microsoft.Authorization/roleAssignments", own, id_of(api, group)),
        assignment(kind, f"pictures/Microsoft.Authorization/{uuid.uuid4()}", gallery_id),
    ]
    api.put(path(group), deployment({"resources": resources}))
    for scope in (group, gallery_id):
        found = api.get(
            f"{scope}/providers/Microsoft.Authorization/roleAssignments?api-version=2022-04-01&$filter=atScope()"
        )
        assert scope.rsplit("/", 1)[-1] in {
            one["properties"]["scope"].rsplit("/", 1)[-1] for one in found["value"]
        }
    # az would widen the scope of a definition to its gallery.
    wider = assignment(kind, f"pictures/Microsoft.Authorization/{uuid.uuid4()}", f"{gallery_id}/images/one")
    error = failed(api, group, deployment({"resources": [gallery("pictures"), wider]}), "wider")
    assert "az role assignment create" in error["message"]
