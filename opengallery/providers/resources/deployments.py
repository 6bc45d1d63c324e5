"""Deployments: `Microsoft.Resources/deployments`, a template's resources in the order of their needs.

A PUT is always taken, and a template that can't be used fails its operation: az reads the error there.
The template and its parameters may hold secrets: they are kept sealed, and only while the deployment runs.
Source: Resource Manager REST API, Deployments, api-version 2024-11-01.
"""

import re
from typing import Any, Literal

from opengallery.arm import handling, nested, resources
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.operations import Work
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Properties, ResourceType, Route, check_api_version
from opengallery.arm.resources import Resource
from opengallery.arm.sealed import seal, unseal
from opengallery.arm.templates.scope import DeploymentScope, ProviderType
from opengallery.arm.templates.template import Template, TemplateResource, parse_template
from opengallery.arm.validation import converted
from opengallery.database import now
from opengallery.identity.directory import find_subscription
from opengallery.providers.resources import RESOURCE_VERSIONS, deployed_extensions
from opengallery.regions import REGIONS


class DeploymentProperties(Properties):
    """What a deployment is created with."""

    template: dict[str, Any]
    parameters: dict[str, Any] | None = None
    mode: Literal["Incremental", "incremental", "Complete", "complete"] = "Incremental"


def _check(call: Call, new: Resource, _old: Resource | None) -> None:
    given = {name: new.properties.pop(name, None) for name in ("template", "parameters")}
    new.private = {"sealed": seal(call.services.settings, given)}
    new.properties = {
        "mode": new.properties["mode"].capitalize(),
        "timestamp": now().isoformat(),
        "correlationId": call.origin.correlation_id,
    }


def _scope(call: Call, deployment: ResourceId, mode: str) -> DeploymentScope:
    group = call.get(deployment.group)
    subscription = find_subscription(call.connection, deployment.subscription or "")
    assert group is not None and subscription is not None
    locations = tuple(region.display_name for region in REGIONS.values())
    return DeploymentScope(
        tenant_id=subscription.tenant_id,
        subscription_id=subscription.subscription_id,
        subscription_name=subscription.display_name,
        resource_group=group.id.name,
        location=group.location or "",
        deployment_name=deployment.name,
        tags=group.tags,
        mode=mode,
        providers={
            namespace: {
                declared.kind: ProviderType(tuple(sorted(declared.api_versions, reverse=True)), locations)
                for declared in call.registry.types(namespace)
            }
            for namespace in call.registry.namespaces()
        },
    )


def _read(call: Call, deployment: ResourceId, properties: dict[str, Any], mode: str) -> Template:
    """The checked template: its expressions, its order, and that every type and api-version is known."""
    if mode.lower() == "complete":
        raise ArmError(
            "InvalidDeploymentMode", "This server deploys in mode Incremental only. Give --mode Incremental."
        )
    template = parse_template(
        properties["template"], properties["parameters"] or {}, _scope(call, deployment, mode)
    )
    for resource in template.resources:
        if deployed_extensions.find(call.registry, resource) is not None:
            continue
        declared = call.registry.require(resource.type, resource.api_version)
        check_api_version(declared, resource.api_version, None)
    return template


def _deploy(work: Work) -> None:
    deployment = work.resource()
    if "sealed" in deployment.private:
        shown, error = _carry_out(work, deployment)
        work.step("conclude", _conclude, work, shown, error)
        deployment = work.resource()
    # What is here already was concluded by a server that ended before it could say so.
    if "error" in deployment.private:
        raise ArmError.from_error(deployment.private["error"])


def _carry_out(work: Work, deployment: Resource) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Do it all. Returns what the deployment shows afterwards, and the error if it failed."""
    failures: list[ArmError] = []
    shown: dict[str, Any] = {}
    try:
        with work.services.database.read() as connection:
            given = unseal(work.services.settings, deployment.private["sealed"])
            template = _read(work.call(connection), work.id, given, deployment.properties["mode"])
        shown["parameters"] = template.shown_parameters()
        failures = _put_resources(work, template)
        if not failures:
            shown["outputResources"] = [{"id": resource.id} for resource in template.resources]
            with work.services.database.read() as connection:
                call = work.call(connection)
                outputs = template.evaluate_outputs(lambda name, _version: _shown(call, name))
            shown["outputs"] = {_in_camel_case(name): value for name, value in outputs.items()}
    except ArmError as failure:
        failures = [failure]
    if not failures:
        return shown, None
    error = ArmError(
        "DeploymentFailed",
        f"At least one resource deployment operation failed: {failures[0].message}",
        target=str(work.id),
        status=409,
        details=failures,
    )
    return {**shown, "error": error.error()}, error.error()


def _in_camel_case(name: str) -> str:
    """An output's name as Azure shows it, and az looks for it: `vmss` for `VMSS`, `vmName` for `VMName`."""
    first = re.match(r"[A-Z]+(?![a-z])|[A-Z]", name)
    return name[: first.end()].lower() + name[first.end() :] if first else name


def _conclude(work: Work, shown: dict[str, Any], error: dict[str, Any] | None) -> None:
    """Write how it ended and forget the template, both in one transaction."""
    duration = f"PT{(now() - work.operation.started_at).total_seconds():.3f}S"
    with work.services.database.write() as connection:
        resources.change_properties(connection, work.key, **shown, duration=duration)
        resources.change_private(connection, work.key, sealed=None, error=error)


def _put_resources(work: Work, template: Template) -> list[ArmError]:
    """PUT each resource as soon as what it depends on has ended; independent ones run side by side.

    Returns why some failed. Nothing is left running then: what had been started is waited for.
    """
    under_way: dict[str, str | None] = {}
    failures: list[ArmError] = []
    for resource in template.resources:
        for needed in resource.depends_on:
            _wait(work, needed, under_way.pop(needed, None), failures)
        if failures:
            break
        try:
            under_way[resource.id] = _put(work, template, resource)
        except ArmError as refusal:
            failures.append(refusal)
            break
    for resource_id, operation_id in under_way.items():
        _wait(work, resource_id, operation_id, failures)
    return failures


def _wait(work: Work, resource_id: str, operation_id: str | None, failures: list[ArmError]) -> None:
    try:
        nested.wait(work, operation_id)
    except ArmError as failure:
        failure.target = failure.target or resource_id
        failures.append(failure)


def _put(work: Work, template: Template, resource: TemplateResource) -> str | None:
    with work.services.database.read() as connection:
        call = work.call(connection)
        body = template.body(resource, lambda name, _version: _shown(call, name))
    try:
        if extension := deployed_extensions.find(work.registry, resource):
            deployed_extensions.put(work, extension, resource, body)
            return None
        return nested.put(work, ResourceId.parse(resource.id), resource.api_version, body)
    except ArmError as refusal:
        refusal.target = refusal.target or resource.id
        raise


def _shown(call: Call, name: str) -> dict[str, Any]:
    resource_id = ResourceId.parse(name)
    declared = call.registry.require(resource_id.type, None)
    body: dict[str, Any] = handling.get(call, declared, resource_id).body
    return body


def _view(_call: Call, deployment: Resource) -> dict[str, Any]:
    correlation_id = deployment.properties.get("correlationId", deployment.etag)
    return {"correlationId": correlation_id, "providers": [], "dependencies": []}


def _validate(call: Call, parameters: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    name = parameters["deployment"]
    deployment = ResourceId(parameters["subscription"], parameters["group"]).child(RESOURCE_TYPE.type, name)
    properties = converted(body.get("properties"), DeploymentProperties, "properties")
    given = {"template": properties.template, "parameters": properties.parameters}
    template = _read(call, deployment, given, properties.mode)
    return {
        "id": str(deployment),
        "name": name,
        "type": deployment.type,
        "properties": {
            "provisioningState": "Succeeded",
            "mode": properties.mode.capitalize(),
            "parameters": template.shown_parameters(),
            "validatedResources": [{"id": resource.id} for resource in template.resources],
            "dependencies": [],
            "providers": [],
        },
    }


RESOURCE_TYPE = ResourceType(
    "Microsoft.Resources/deployments",
    RESOURCE_VERSIONS,
    DeploymentProperties,
    located=False,
    verbatim=frozenset({"template", "parameters"}),
    check=_check,
    fulfil=_deploy,
    view=_view,
)

ROUTES = (
    Route(
        "POST",
        "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Resources/deployments/{deployment}"
        "/validate",
        RESOURCE_VERSIONS,
        "Microsoft.Resources/deployments/validate/action",
        _validate,
    ),
)
