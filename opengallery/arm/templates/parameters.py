"""Parameters of a template: what it declares, checked against what the deployment passes."""

from collections.abc import Callable, Mapping
from typing import Any

from opengallery.arm.templates.errors import TemplateError
from opengallery.arm.templates.values import type_name

_TYPES: dict[str, tuple[str, ...]] = {
    "string": ("String",),
    "securestring": ("String",),
    "int": ("Integer",),
    "bool": ("Boolean",),
    "object": ("Object",),
    "secureobject": ("Object",),
    "array": ("Array",),
}
_SECURE = ("securestring", "secureobject")


def read_parameters(
    declared: Mapping[str, Any], passed: Mapping[str, Any], evaluate_default: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """The value of every declared parameter, by its name as declared.

    `passed` has ARM's form `{name: {"value": ...}}`. `evaluate_default(name, value)` computes a default.
    """
    given = {name.lower(): entry for name, entry in passed.items()}
    unknown = sorted(set(given) - {name.lower() for name in declared})
    if unknown:
        raise TemplateError(
            "The following parameters were supplied, but do not correspond to any parameters defined in "
            f"the template: '{', '.join(unknown)}'. The template has: '{', '.join(declared)}'.",
            f"parameters.{unknown[0]}",
        )
    values = {}
    for name, declaration in declared.items():
        target = f"parameters.{name}"
        kind = declared_type(declaration, target)
        if name.lower() in given:
            value = _passed_value(given[name.lower()], target)
        elif "defaultValue" in declaration:
            value = evaluate_default(name, declaration["defaultValue"])
        elif declaration.get("nullable") is True:
            value = None
        else:
            raise TemplateError(f"The value for the template parameter '{name}' is not provided.", target)
        _check(value, kind, declaration, name, target)
        values[name] = value
    return values


def declared_type(declaration: Any, target: str) -> str:
    """The `type` of a parameter or output, in lower case. Raises `TemplateError`."""
    if not isinstance(declaration, dict) or not isinstance(declaration.get("type"), str):
        raise TemplateError("An object with a 'type' is expected here.", target)
    kind = str(declaration["type"]).lower()
    if kind not in _TYPES:
        raise TemplateError(
            f"The type '{declaration['type']}' is not valid. Use one of: {', '.join(_TYPES)}.", target
        )
    return kind


def is_secure(declaration: Mapping[str, Any]) -> bool:
    """Whether the value must never be shown."""
    return str(declaration.get("type", "")).lower() in _SECURE


def matches_type(value: Any, kind: str) -> bool:
    """Whether a value is of a declared type (in lower case)."""
    return type_name(value) in _TYPES[kind]


def _passed_value(entry: Any, target: str) -> Any:
    if not isinstance(entry, dict) or not ("value" in entry or "reference" in entry):
        raise TemplateError("A parameter is passed as an object with a 'value'.", target)
    if "value" not in entry:
        raise TemplateError("References to a key vault are not supported: pass a 'value'.", target)
    return entry["value"]


def _check(value: Any, kind: str, declaration: Mapping[str, Any], name: str, target: str) -> None:
    shown = "the given value" if is_secure(declaration) else f"'{value}'"
    if value is None and declaration.get("nullable") is True:
        return
    if not matches_type(value, kind):
        raise TemplateError(
            f"The provided value for the template parameter '{name}' is not valid: expected a value of type "
            f"'{declaration['type']}', but received one of type '{type_name(value)}'.",
            target,
        )
    allowed = declaration.get("allowedValues")
    if isinstance(allowed, list) and value not in allowed:
        items = value if kind == "array" else [None]
        if kind != "array" or any(item not in allowed for item in items):
            raise TemplateError(
                f"The provided value {shown} for the template parameter '{name}' is not one of the allowed "
                f"values '{', '.join(map(str, allowed))}'.",
                target,
            )
    size = value if kind == "int" else len(value) if kind in ("string", "securestring", "array") else None
    least, most = ("minValue", "maxValue") if kind == "int" else ("minLength", "maxLength")
    for key in (least, most):
        limit = declaration.get(key)
        if size is not None and isinstance(limit, int) and (size < limit if key == least else size > limit):
            raise TemplateError(
                f"The provided value {shown} for the template parameter '{name}' breaks its '{key}' "
                f"of {limit}.",
                target,
            )
