"""Evaluate template expressions: `Evaluator.evaluate` walks a value and computes every `[...]` in it.

The functions that speak about the deployment live here (`parameters`, `variables`, `reference`,
`resourceId`, `providers`, `resourceGroup` ...); those that only need their arguments in `functions.py`.
An unknown function is an error: better than a template that half works.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opengallery.arm.templates.errors import TemplateError
from opengallery.arm.templates.functions import FUNCTIONS
from opengallery.arm.templates.scope import DeploymentScope, GetResource, ProviderType
from opengallery.arm.templates.syntax import Call, Literal, Node, is_expression, parse, unescape
from opengallery.arm.templates.values import BadArgument, boolean, check_weight, member, text

MAX_DEPTH = 100  # arrays and objects inside each other

# Known to ARM, and refused with the reason rather than as unknown.
NOT_SUPPORTED = {
    "copyindex": "copy loops are not supported: write each resource out",
    "listkeys": "list* functions are not supported",
    "listsecrets": "list* functions are not supported",
    "utcnow": "its value would change when a deployment goes on after a restart: pass a parameter",
    "newguid": "its value would change when a deployment goes on after a restart: pass a parameter",
}


class Evaluator:
    """Evaluates the expressions of one deployment. `get_resource` is there only while it runs."""

    def __init__(
        self,
        scope: DeploymentScope,
        parameters: Mapping[str, Any],
        variables: Mapping[str, Any],
        *,
        get_resource: GetResource | None = None,
        resolve_name: Callable[[str], str] | None = None,
    ) -> None:
        """`parameters`: their values, and `variables`: unevaluated, both by lower-case name.

        `resolve_name` turns a name of the template's own resources into an id, for `reference('name')`.
        """
        self.scope = scope
        self.parameters = parameters
        self.variables = variables
        self.get_resource = get_resource
        self.resolve_name = resolve_name
        self._evaluated: dict[str, Any] = {}
        self._evaluating: list[str] = []
        self._own: dict[str, tuple[Callable[..., Any], int, int | None]] = {
            "parameters": (self._parameter, 1, 1),
            "variables": (self._variable, 1, 1),
            "reference": (self._reference, 1, 3),
            "resourceid": (self._resource_id, 2, None),
            "subscriptionresourceid": (self._subscription_resource_id, 2, None),
            "tenantresourceid": (self._tenant_resource_id, 2, None),
            "extensionresourceid": (self._extension_resource_id, 3, None),
            "providers": (self._providers, 1, 2),
            "subscription": (self._subscription, 0, 0),
            "resourcegroup": (self._resource_group, 0, 0),
            "tenant": (lambda: {"tenantId": scope.tenant_id}, 0, 0),
            "deployment": (self._deployment, 0, 0),
        }
        self._lazy: dict[str, tuple[Callable[[Sequence[Node]], Any], int, int | None]] = {
            "if": (self._if, 3, 3),
            "and": (self._and, 2, None),
            "or": (self._or, 2, None),
        }

    def evaluate(self, value: Any, target: str, depth: int = 0) -> Any:
        """`value` with its expressions computed. `target` says where it stands, for the error."""
        if depth > MAX_DEPTH:
            raise TemplateError(f"The template is nested deeper than {MAX_DEPTH} levels.", target)
        if isinstance(value, str):
            if not is_expression(value):
                return unescape(value)
            try:
                return self._compute(parse(value))
            except TemplateError as error:
                raise error.at(target) from error
        if isinstance(value, list):
            return [self.evaluate(item, f"{target}[{index}]", depth + 1) for index, item in enumerate(value)]
        if isinstance(value, dict):
            if isinstance(value.get("copy"), list):
                raise TemplateError("Copy loops are not supported: write each element out.", target)
            return {
                self._name(key, target): self.evaluate(item, f"{target}.{key}", depth + 1)
                for key, item in value.items()
            }
        return value

    def _name(self, key: str, target: str) -> str:
        """A property's name, which may be an expression as well."""
        if not is_expression(key):
            return unescape(key)
        name = self.evaluate(key, target)
        return name if isinstance(name, str) else str(name)

    def _compute(self, node: Node) -> Any:
        if isinstance(node, Literal):
            return node.value
        if isinstance(node, Call):
            return self._call(node)
        holder, key = self._compute(node.target), self._compute(node.key)
        try:
            return member(holder, key)
        except BadArgument as error:
            raise TemplateError(f"The language expression can't be evaluated: {error}") from error

    def _call(self, call: Call) -> Any:
        name = self.check(call).name.lower()
        if name in self._lazy:
            return self._lazy[name][0](call.arguments)
        function = self._own[name][0] if name in self._own else FUNCTIONS[name].call
        arguments = [self._compute(argument) for argument in call.arguments]
        try:
            result = function(*arguments)
            check_weight(result)
        except BadArgument as error:
            raise TemplateError(f"The template function '{call.name}' can't be evaluated: {error}") from error
        except RecursionError as error:
            raise TemplateError(f"The template function '{call.name}' goes too deep.") from error
        return result

    def check(self, call: Call) -> Call:
        """Refuse a function that isn't known, or a wrong number of arguments, before anything runs."""
        name = call.name.lower()
        if name in FUNCTIONS:
            least, most = FUNCTIONS[name].least, FUNCTIONS[name].most
        elif name in self._own or name in self._lazy:
            _, least, most = (self._own | self._lazy)[name]
        elif name in NOT_SUPPORTED:
            raise TemplateError(f"The template function '{call.name}' can't be used: {NOT_SUPPORTED[name]}.")
        else:
            raise TemplateError(f"The template function '{call.name}' is not valid. Check its spelling.")
        count = len(call.arguments)
        if count < least or (most is not None and count > most):
            wanted = f"{least}" if most == least else f"{least} to {most}" if most else f"at least {least}"
            raise TemplateError(f"The template function '{call.name}' takes {wanted} arguments, not {count}.")
        return call

    def name_without_running(self, node: Node) -> str | None:
        """The resource that `reference(node)` means; None when only the running deployment can tell."""
        try:
            name = self._compute(node)
        except TemplateError:
            return None
        return name if isinstance(name, str) else None

    # Only as much as is needed is evaluated: the other branch may refer to what isn't there.

    def _if(self, arguments: Sequence[Node]) -> Any:
        return self._compute(arguments[1 if self._is_true("if", arguments[0]) else 2])

    def _and(self, arguments: Sequence[Node]) -> bool:
        return all(self._is_true("and", argument) for argument in arguments)

    def _or(self, arguments: Sequence[Node]) -> bool:
        return any(self._is_true("or", argument) for argument in arguments)

    def _is_true(self, function: str, argument: Node) -> bool:
        try:
            return boolean(self._compute(argument))
        except BadArgument as error:
            raise TemplateError(f"The template function '{function}' can't be evaluated: {error}") from error

    # The deployment's own values

    def _parameter(self, name: Any) -> Any:
        if text(name).lower() not in self.parameters:
            raise TemplateError(f"The template parameter '{name}' is not found. Declare it in 'parameters'.")
        return self.parameters[name.lower()]

    def _variable(self, name: Any) -> Any:
        key = text(name).lower()
        if key in self._evaluated:
            return self._evaluated[key]
        if key not in self.variables:
            raise TemplateError(f"The template variable '{name}' is not found. Declare it in 'variables'.")
        if key in self._evaluating:
            raise TemplateError(f"The template variable '{name}' refers to itself.")
        if len(self._evaluating) > MAX_DEPTH // 4:
            raise TemplateError("The template variables refer to each other too deeply.")
        self._evaluating.append(key)
        get_resource, self.get_resource = self.get_resource, None  # no reference() inside variables
        try:
            value = self.evaluate(self.variables[key], f"variables.{name}")
        finally:
            self._evaluating.pop()
            self.get_resource = get_resource
        check_weight(value)
        self._evaluated[key] = value
        return value

    def _reference(self, name: Any, api_version: Any = None, full: Any = None) -> Any:
        if self.get_resource is None:
            raise TemplateError(
                "The template function 'reference' is not expected at this location. "
                "It can be used in the properties of a resource and in outputs."
            )
        if full is not None and text(full).lower() != "full":
            raise TemplateError(f"The third argument of 'reference' is 'Full' or left out, not '{full}'.")
        resource = self.get_resource(
            self.resource_named(text(name)), None if api_version is None else text(api_version)
        )
        return resource if full else resource.get("properties", {})

    def resource_named(self, name: str) -> str:
        """The id that the first argument of `reference` means: an id, or a name in this template."""
        if name.startswith("/"):
            return name
        if self.resolve_name is None:
            raise TemplateError(f"The resource '{name}' is not defined in the template.")
        return self.resolve_name(name)

    def _resource_id(self, *arguments: Any) -> str:
        leading, rest = _leading(arguments, 2)
        subscription = leading[0] if len(leading) == 2 else self.scope.subscription_id
        group = leading[-1] if leading else self.scope.resource_group
        return f"/subscriptions/{subscription}/resourceGroups/{group}/{_typed(rest)}"

    def _subscription_resource_id(self, *arguments: Any) -> str:
        leading, rest = _leading(arguments, 1)
        return f"/subscriptions/{leading[0] if leading else self.scope.subscription_id}/{_typed(rest)}"

    def _tenant_resource_id(self, *arguments: Any) -> str:
        return "/" + _typed([text(argument) for argument in arguments])

    def _extension_resource_id(self, base: Any, *arguments: Any) -> str:
        return f"{text(base).rstrip('/')}/{_typed([text(argument) for argument in arguments])}"

    def _providers(self, namespace: Any, resource_type: Any = None) -> Any:
        for name, types in self.scope.providers.items():
            if name.lower() == text(namespace).lower():
                shown = [_shown_type(known, details) for known, details in types.items()]
                if resource_type is None:
                    return {"namespace": name, "resourceTypes": shown}
                for entry in shown:
                    if entry["resourceType"].lower() == text(resource_type).lower():
                        return entry
                raise BadArgument(f"the provider '{name}' has no resource type '{resource_type}'.")
        raise BadArgument(f"the resource provider '{namespace}' is not known here.")

    def _subscription(self) -> dict[str, Any]:
        scope = self.scope
        return {
            "id": scope.subscription_scope,
            "subscriptionId": scope.subscription_id,
            "tenantId": scope.tenant_id,
            "displayName": scope.subscription_name,
        }

    def _resource_group(self) -> dict[str, Any]:
        return {
            "id": self.scope.group_scope,
            "name": self.scope.resource_group,
            "type": "Microsoft.Resources/resourceGroups",
            "location": self.scope.location,
            "tags": dict(self.scope.tags),
            "properties": {"provisioningState": "Succeeded"},
        }

    def _deployment(self) -> dict[str, Any]:
        return {"name": self.scope.deployment_name, "properties": {"mode": self.scope.mode}}


def _leading(arguments: Sequence[Any], most: int) -> tuple[list[str], list[str]]:
    """The subscription and group before a type, and the type with its names. A type has a `/`."""
    words = [text(argument) for argument in arguments]
    for index, word in enumerate(words[: most + 1]):
        if "/" in word:
            return words[:index], words[index:]
    raise BadArgument("a resource type such as 'Microsoft.Compute/disks' is expected.")


def _typed(words: Sequence[str]) -> str:
    """`providers/Microsoft.Network/loadBalancers/lb/probes/p` of a type and its names."""
    kind, names = words[0], words[1:]
    namespace, *types = kind.split("/")
    if not namespace or not types or not all(types) or len(types) != len(names) or not all(names):
        raise BadArgument(f"the type '{kind}' needs {len(types)} resource names, and {len(names)} are given.")
    return "/".join(
        ["providers", namespace, *(word for pair in zip(types, names, strict=True) for word in pair)]
    )


def _shown_type(name: str, details: ProviderType) -> dict[str, Any]:
    return {
        "resourceType": name,
        "locations": list(details.locations),
        "apiVersions": list(details.api_versions),
    }
