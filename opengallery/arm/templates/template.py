"""Templates: read and checked before a deployment starts, evaluated resource by resource while it runs.

Source: Azure Resource Manager, "Understand the structure and syntax of ARM templates".
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opengallery.arm.templates.dependencies import ResourceNames, order
from opengallery.arm.templates.errors import TemplateError
from opengallery.arm.templates.expressions import Evaluator
from opengallery.arm.templates.parameters import declared_type, is_secure, matches_type, read_parameters
from opengallery.arm.templates.scope import DeploymentScope, GetResource
from opengallery.arm.templates.syntax import calls, is_expression, parse

# ARM's own limits on a template: how many entries each part may have.
LIMITS = {"parameters": 256, "variables": 512, "resources": 800, "outputs": 64}
# What a resource of a template says to the deployment; the rest is the body of its PUT.
_DEPLOYMENT_KEYS = {
    "name", "type", "apiVersion", "dependsOn", "condition", "comments", "metadata", "resources", "copy",
    "scope",
}  # fmt: skip
MAX_NESTING = 5  # child resources in `resources` of a resource


@dataclass(frozen=True)
class TemplateResource:
    """One resource of a template: what is known before it is deployed."""

    id: str
    type: str  # Microsoft.Network/loadBalancers/inboundNatRules
    name: str  # myLB/NatRule
    api_version: str
    is_wanted: bool  # its `condition`
    depends_on: tuple[str, ...]  # ids of wanted resources of this template
    target: str  # resources[4]
    source: Mapping[str, Any] = field(repr=False)  # as written


@dataclass(frozen=True)
class Template:
    """A checked template with its parameters' values."""

    resources: tuple[TemplateResource, ...]  # in the order of deployment; unwanted ones are not in it
    parameters: Mapping[str, Any] = field(repr=False)  # values by name; secure ones as well
    _source: Mapping[str, Any] = field(repr=False)
    _scope: DeploymentScope = field(repr=False)
    _names: ResourceNames = field(repr=False)

    def body(self, resource: TemplateResource, get_resource: GetResource) -> dict[str, Any]:
        """The body to PUT for `resource`: location, tags, properties, sku ..., all evaluated.

        `get_resource` answers `reference()`. Raises `TemplateError`, and what `get_resource` raises.
        """
        evaluator = self._evaluator(get_resource)
        return {
            key: evaluator.evaluate(value, f"{resource.target}.{key}")
            for key, value in resource.source.items()
            if key not in _DEPLOYMENT_KEYS
        }

    def evaluate_outputs(self, get_resource: GetResource) -> dict[str, Any]:
        """The outputs as a finished deployment shows them: `{name: {"type", "value"}}`.

        Secure ones are shown without their value.
        """
        evaluator = self._evaluator(get_resource)
        outputs = {}
        for name, output in self._source.get("outputs", {}).items():
            target = f"outputs.{name}"
            kind = declared_type(output, target)
            if evaluator.evaluate(output.get("condition", True), f"{target}.condition") is False:
                continue
            value = evaluator.evaluate(output["value"], f"{target}.value")
            if not matches_type(value, kind):
                raise TemplateError(f"The output '{name}' is not of its type '{output['type']}'.", target)
            outputs[name] = _shown(output, value)
        return outputs

    def shown_parameters(self) -> dict[str, Any]:
        """The parameters as a deployment shows them: `{name: {"type", "value"}}`, secrets without."""
        declared = self._source.get("parameters", {})
        return {name: _shown(declared[name], value) for name, value in self.parameters.items()}

    def _evaluator(self, get_resource: GetResource | None) -> Evaluator:
        return Evaluator(
            self._scope,
            {name.lower(): value for name, value in self.parameters.items()},
            {name.lower(): value for name, value in self._source.get("variables", {}).items()},
            get_resource=get_resource,
            resolve_name=self._names.resolve,
        )


def parse_template(
    template: Mapping[str, Any], parameters: Mapping[str, Any], scope: DeploymentScope
) -> Template:
    """Check a template and its parameters (`{name: {"value": ...}}`). Raises `TemplateError`."""
    _check_sections(template)
    declared = template.get("parameters") or {}
    variables = {name.lower(): value for name, value in (template.get("variables") or {}).items()}
    defaults: dict[str, Any] = {}

    def evaluate_default(name: str, value: Any) -> Any:
        evaluated = Evaluator(scope, defaults, {}).evaluate(value, f"parameters.{name}.defaultValue")
        defaults[name.lower()] = evaluated
        return evaluated

    passed = {
        name.lower(): entry.get("value") for name, entry in parameters.items() if isinstance(entry, dict)
    }
    defaults |= {name.lower(): passed[name.lower()] for name in declared if name.lower() in passed}
    values = read_parameters(declared, parameters, evaluate_default)
    evaluator = Evaluator(scope, {name.lower(): value for name, value in values.items()}, variables)

    read = [_read(evaluator, *flattened) for flattened in _flattened(template["resources"])]
    _refuse_duplicates(read)
    names = ResourceNames(read)
    evaluator.resolve_name = names.resolve
    wanted = [resource for resource in read if resource.is_wanted]
    depends_on = {resource.id: _dependencies(resource, evaluator, names) for resource in read}
    kept = {resource.id for resource in wanted}
    depends_on = {
        name: tuple(other for other in others if other in kept) for name, others in depends_on.items()
    }
    ordered = order(wanted, depends_on)
    for name, output in (template.get("outputs") or {}).items():
        list(_referenced(output["value"], f"outputs.{name}.value", evaluator, names))
    return Template(
        tuple(_with_dependencies(resource, depends_on[resource.id]) for resource in ordered),
        values,
        {**template, "parameters": declared, "variables": template.get("variables") or {},
         "outputs": template.get("outputs") or {}},
        scope,
        names,
    )  # fmt: skip


def _check_sections(template: Mapping[str, Any]) -> None:
    for key in ("$schema", "contentVersion", "resources"):
        if key not in template:
            raise TemplateError(
                f"Deployment template validation failed: the required property '{key}' is missing.", key
            )
    for key in ("parameters", "variables", "outputs"):
        if not isinstance(template.get(key), dict | None):
            raise TemplateError(f"'{key}' has to be an object.", key)
    if isinstance(template["resources"], dict):
        raise TemplateError(
            "Symbolic names (languageVersion 2.0) are not supported: write 'resources' as an array.",
            "resources",
        )
    if not isinstance(template["resources"], list):
        raise TemplateError("'resources' has to be an array.", "resources")
    if template.get("functions"):
        raise TemplateError("Functions of a template's own are not supported.", "functions")
    if any(
        isinstance(value, list) and name == "copy"
        for name, value in (template.get("variables") or {}).items()
    ):
        raise TemplateError("Copy loops are not supported: write each variable out.", "variables.copy")
    for key, most in LIMITS.items():
        count = len(template.get(key) or ())
        if count > most:
            raise TemplateError(f"The template has {count} {key}; at most {most} are possible.", key)
    for name, output in (template.get("outputs") or {}).items():
        declared_type(output, f"outputs.{name}")
        if "value" not in output:
            raise TemplateError(f"The output '{name}' has no 'value'.", f"outputs.{name}")


def _flattened(
    resources: Any, parent: tuple[Mapping[str, Any], ...] = (), place: str = "resources"
) -> Iterator[tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...], str]]:
    """Each resource with the chain of resources it is written inside, and where it stands."""
    if not isinstance(resources, list):
        raise TemplateError("'resources' has to be an array.", place)
    if len(parent) > MAX_NESTING:
        raise TemplateError(f"Resources are nested deeper than {MAX_NESTING} levels.", place)
    for index, resource in enumerate(resources):
        target = f"{place}[{index}]"
        if not isinstance(resource, dict):
            raise TemplateError("A resource has to be an object.", target)
        yield resource, parent, target
        if "resources" in resource:
            yield from _flattened(resource["resources"], (*parent, resource), f"{target}.resources")


def _read(
    evaluator: Evaluator, resource: Mapping[str, Any], parents: tuple[Mapping[str, Any], ...], target: str
) -> TemplateResource:
    if resource.get("copy"):
        raise TemplateError("Copy loops are not supported: write each resource out.", f"{target}.copy")
    if resource.get("scope"):
        raise TemplateError("Resources of another scope are not supported.", f"{target}.scope")

    def word(source: Mapping[str, Any], key: str, place: str) -> str:
        value = evaluator.evaluate(source.get(key), f"{place}.{key}")
        if not isinstance(value, str) or not value:
            raise TemplateError(f"A resource needs the text '{key}'.", f"{place}.{key}")
        return value

    chain = [*parents, resource]
    kinds = [word(source, "type", target) for source in chain]
    names = [word(source, "name", target) for source in chain]
    # A nested resource may be written out in full as well as by its own last segments.
    kind = kinds[-1] if "/" in kinds[-1] and "." in kinds[-1].split("/")[0] else "/".join(kinds)
    name = names[-1] if kind == kinds[-1] else "/".join(names)
    if kind.lower() == "microsoft.resources/deployments":
        raise TemplateError("A deployment inside a deployment is not supported.", f"{target}.type")
    namespace, *types = kind.split("/")
    segments = name.split("/")
    if not namespace or not types or not all(types) or not all(segments) or len(types) != len(segments):
        raise TemplateError(
            "Deployment template validation failed: 'The template resource '"
            f"{name}' has incorrect segment lengths: the type '{kind}' needs {len(types)} names, "
            f"joined with '/'. Please write a name for each part of the type.'",
            f"{target}.name",
        )
    condition = evaluator.evaluate(resource.get("condition", True), f"{target}.condition")
    if not isinstance(condition, bool):
        raise TemplateError("A condition has to be true or false.", f"{target}.condition")
    pairs = [word for pair in zip(types, segments, strict=True) for word in pair]
    identity = "/".join([evaluator.scope.group_scope, "providers", namespace, *pairs])
    version = word(resource, "apiVersion", target)
    return TemplateResource(identity, kind, name, version, condition, (), target, resource)


def _refuse_duplicates(resources: list[TemplateResource]) -> None:
    seen: dict[str, TemplateResource] = {}
    for resource in resources:
        other = seen.setdefault(resource.id.lower(), resource)
        if other is not resource and other.is_wanted and resource.is_wanted:
            raise TemplateError(
                f"Deployment template validation failed: 'The resource '{resource.id}' is defined "
                f"multiple times in the template, at {other.target} and {resource.target}.'",
                resource.target,
            )


def _dependencies(resource: TemplateResource, evaluator: Evaluator, names: ResourceNames) -> tuple[str, ...]:
    """The ids that a resource names in `dependsOn`, and those that its `reference()` calls need."""
    written = resource.source.get("dependsOn") or []
    target = f"{resource.target}.dependsOn"
    if not isinstance(written, list):
        raise TemplateError("'dependsOn' has to be an array.", target)
    found: dict[str, None] = {}
    for index, item in enumerate(written):
        name = evaluator.evaluate(item, f"{target}[{index}]")
        if not isinstance(name, str):
            raise TemplateError("'dependsOn' holds names and ids of resources.", f"{target}[{index}]")
        try:
            found[names.resolve(name)] = None
        except TemplateError as error:
            raise error.at(f"{target}[{index}]") from error
    for key, value in resource.source.items():
        if key not in _DEPLOYMENT_KEYS:
            found |= dict.fromkeys(_referenced(value, f"{resource.target}.{key}", evaluator, names))
    return tuple(found)


def _referenced(value: Any, target: str, evaluator: Evaluator, names: ResourceNames) -> Iterator[str]:
    """Ids of the template's resources that the `reference()` calls inside `value` speak about.

    What needs no running deployment is evaluated on the way, so that its mistakes are found at once.
    """
    if isinstance(value, dict):
        if isinstance(value.get("copy"), list):
            raise TemplateError("Copy loops are not supported: write each element out.", target)
        for key, item in value.items():
            yield from _referenced(item, f"{target}.{key}", evaluator, names)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _referenced(item, f"{target}[{index}]", evaluator, names)
    elif isinstance(value, str) and is_expression(value):
        try:
            found = [evaluator.check(call) for call in calls(parse(value))]
            references = [call for call in found if call.name.lower() == "reference"]
            if not references:
                evaluator.evaluate(value, target)
            for call in references:
                name = evaluator.name_without_running(call.arguments[0])
                if name is not None and names.find(name):
                    yield names.resolve(name)
        except TemplateError as error:
            raise error.at(target) from error


def _with_dependencies(resource: TemplateResource, depends_on: tuple[str, ...]) -> TemplateResource:
    return TemplateResource(
        resource.id, resource.type, resource.name, resource.api_version, resource.is_wanted, depends_on,
        resource.target, resource.source,
    )  # fmt: skip


def _shown(declaration: Mapping[str, Any], value: Any) -> dict[str, Any]:
    kind = str(declaration["type"])
    shown = {"type": kind[:1].upper() + kind[1:]}
    return shown if is_secure(declaration) else {**shown, "value": value}
