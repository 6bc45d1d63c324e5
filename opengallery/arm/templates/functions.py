"""The template functions that need nothing but their arguments: `FUNCTIONS`, those on texts included.

A function raises `BadArgument` when it can't use its arguments; who calls it adds which function and where.
Source: Azure Resource Manager, "ARM template functions": array, object, comparison, logical, numeric.
"""

from typing import Any

from opengallery.arm.templates.function_table import FunctionTable
from opengallery.arm.templates.text_functions import TEXT_FUNCTIONS
from opengallery.arm.templates.values import (
    BadArgument,
    array,
    as_text,
    boolean,
    bounded,
    integer,
    text,
    type_name,
)

MAX_RANGE = 10_000

FUNCTIONS = FunctionTable(TEXT_FUNCTIONS)
_function = FUNCTIONS.entry

# Arrays, objects and texts alike


@_function("indexOf", 2)
def _index_of(container: Any, item: Any) -> int:
    if isinstance(container, list):
        return int(container.index(item)) if item in container else -1
    return text(container).lower().find(text(item).lower())


@_function("lastIndexOf", 2)
def _last_index_of(container: Any, item: Any) -> int:
    if isinstance(container, list):
        return max((index for index, value in enumerate(container) if value == item), default=-1)
    return text(container).lower().rfind(text(item).lower())


@_function("length", 1)
def _length(value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise BadArgument(f"a text, an array or an object is expected, not '{type_name(value)}'.")
    return len(value)


@_function("empty", 1)
def _empty(value: Any) -> bool:
    return value is None or _length(value) == 0


@_function("contains", 2)
def _contains(container: Any, item: Any) -> bool:
    if isinstance(container, str):
        return as_text(item) in container
    if isinstance(container, dict):
        return text(item).lower() in (name.lower() for name in container)
    return any(_equals(value, item) for value in array(container))


@_function("first", 1)
def _first(value: Any) -> Any:
    if isinstance(value, str):
        return value[:1]
    return array(value)[0] if value else None


@_function("last", 1)
def _last(value: Any) -> Any:
    if isinstance(value, str):
        return value[-1:]
    return array(value)[-1] if value else None


@_function("take", 2)
def _take(value: Any, count: Any) -> Any:
    return (value if isinstance(value, str) else array(value))[: max(integer(count), 0)]


@_function("skip", 2)
def _skip(value: Any, count: Any) -> Any:
    return (value if isinstance(value, str) else array(value))[max(integer(count), 0) :]


@_function("objectKeys", 1)
def _object_keys(value: Any) -> list[str]:
    if not isinstance(value, dict):
        raise BadArgument(f"an object is expected, not '{type_name(value)}'.")
    return list(value)


@_function("createObject", 0, None)
def _create_object(*values: Any) -> dict[str, Any]:
    if len(values) % 2:
        raise BadArgument("names and values come in pairs.")
    return dict(zip(map(text, values[::2]), values[1::2], strict=True))


@_function("union", 1, None)
def _union(*values: Any) -> Any:
    if all(isinstance(value, dict) for value in values):
        merged: dict[str, Any] = {}
        for value in values:
            merged = _merged(merged, value)
        return merged
    united: list[Any] = []
    for value in values:
        united += [item for item in array(value) if item not in united]
    return united


def _merged(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    merged = dict(left)
    for key, value in right.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


@_function("intersection", 1, None)
def _intersection(*values: Any) -> Any:
    first, *others = values
    if all(isinstance(value, dict) for value in values):
        return {
            key: value for key, value in first.items() if all(other.get(key) == value for other in others)
        }
    return [item for item in array(first) if all(item in array(other) for other in others)]


@_function("range", 2)
def _range(start: Any, count: Any) -> list[int]:
    if not 0 <= integer(count) <= MAX_RANGE:
        raise BadArgument(f"the count is between 0 and {MAX_RANGE}.")
    return list(range(integer(start), start + count))


def _listed(values: tuple[Any, ...]) -> Any:
    """The numbers of `min(1, 2)` and of `min(createArray(1, 2))` alike."""
    listed = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not listed:
        raise BadArgument("the array is empty.")
    return listed


@_function("min", 1, None)
def _min(*values: Any) -> int:
    return min(integer(value) for value in _listed(values))


@_function("max", 1, None)
def _max(*values: Any) -> int:
    return max(integer(value) for value in _listed(values))


_function("array", 1)(lambda value: value if isinstance(value, list) else [value])
_function("createArray", 0, None)(lambda *values: list(values))

# Numbers and logic


@_function("equals", 2)
def _equals(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


@_function("div", 2)
def _div(left: Any, right: Any) -> int:
    dividend, divisor = integer(left), integer(right)
    if divisor == 0:
        raise BadArgument("the divisor is 0.")
    quotient = abs(dividend) // abs(divisor)
    return quotient if (dividend < 0) == (divisor < 0) else -quotient


def _comparable(left: Any, right: Any) -> tuple[Any, Any]:
    return (left, text(right)) if isinstance(left, str) else (integer(left), integer(right))


_function("mod", 2)(lambda left, right: left - right * _div(left, right))
_function("add", 2)(lambda left, right: bounded(integer(left) + integer(right)))
_function("sub", 2)(lambda left, right: bounded(integer(left) - integer(right)))
_function("mul", 2)(lambda left, right: bounded(integer(left) * integer(right)))
_function("less", 2)(lambda *pair: _comparable(*pair)[0] < pair[1])
_function("lessOrEquals", 2)(lambda *pair: _comparable(*pair)[0] <= pair[1])
_function("greater", 2)(lambda *pair: _comparable(*pair)[0] > pair[1])
_function("greaterOrEquals", 2)(lambda *pair: _comparable(*pair)[0] >= pair[1])
_function("coalesce", 1, None)(lambda *values: next((value for value in values if value is not None), None))
_function("not", 1)(lambda value: not boolean(value))
_function("true", 0)(lambda: True)
_function("false", 0)(lambda: False)
_function("null", 0)(lambda: None)
