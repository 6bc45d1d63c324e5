"""The template functions that need nothing but their arguments: text, numbers, lists, objects, logic.

Each is entered in `FUNCTIONS` with the number of arguments it takes. A function raises `BadArgument`
when it can't use its arguments; who calls it adds which function and where.
Source: Azure Resource Manager, "ARM template functions".
"""

import base64
import hashlib
import json
import re
import urllib.parse
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# Azure's own `guid()` is a version 5 UUID in this namespace over the arguments joined with "-".
GUID_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")
MAX_RANGE = 10_000
MAX_WEIGHT = 4 * 1024 * 1024  # characters, and 8 for each value: ARM's limit on a finished template


class BadArgument(Exception):
    """A function can't use what it was given. The message goes on from "can't be evaluated: "."""


@dataclass(frozen=True)
class Function:
    """A function and how many arguments it takes; `most` is None when there is no end."""

    call: Callable[..., Any]
    least: int
    most: int | None


FUNCTIONS: dict[str, Function] = {}


def _function(
    name: str, least: int, most: int | None = -1
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(call: Callable[..., Any]) -> Callable[..., Any]:
        FUNCTIONS[name.lower()] = Function(call, least, least if most == -1 else most)
        return call

    return register


def check_weight(value: Any) -> None:
    """Refuse a value that would be too large when written out: doubled texts grow without bound."""
    weight = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        weight += 8
        if isinstance(item, str):
            weight += len(item)
        elif isinstance(item, dict):
            weight += sum(map(len, item))
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        if weight > MAX_WEIGHT:
            raise BadArgument(f"An evaluated value is larger than {MAX_WEIGHT} bytes.")


def type_name(value: Any) -> str:
    """ARM's word for the type of a value."""
    if isinstance(value, bool):
        return "Boolean"
    for kind, word in (
        (str, "String"),
        (int, "Integer"),
        (float, "Float"),
        (list, "Array"),
        (dict, "Object"),
    ):
        if isinstance(value, kind):
            return word
    return "Null"


def as_text(value: Any) -> str:
    """What `string()` answers: texts as they are, `True`, and JSON for the rest."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value)
    return "" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def text(value: Any) -> str:
    """`value`, which has to be a text."""
    if not isinstance(value, str):
        raise BadArgument(f"a text is expected, not '{type_name(value)}'.")
    return value


def integer(value: Any) -> int:
    """`value`, which has to be an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadArgument(f"an integer is expected, not '{type_name(value)}'.")
    return value


def boolean(value: Any) -> bool:
    """`value`, which has to be true or false."""
    if not isinstance(value, bool):
        raise BadArgument(f"a boolean is expected, not '{type_name(value)}'.")
    return value


def _array(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise BadArgument(f"an array is expected, not '{type_name(value)}'.")
    return value


def _bounded(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise BadArgument("the result is no 64-bit integer.")
    return value


def member(target: Any, key: Any) -> Any:
    """`target.key` or `target[key]`: an object's property in any case, or an array's element."""
    if isinstance(target, dict) and isinstance(key, str):
        for name, value in target.items():
            if name.lower() == key.lower():
                return value
        known = ", ".join(list(target)[:20])
        raise BadArgument(f"the object has no property '{key}'. It has: {known or 'none'}.")
    if isinstance(target, list) and isinstance(key, int) and not isinstance(key, bool):
        if 0 <= key < len(target):
            return target[key]
        raise BadArgument(f"the array has {len(target)} elements; there is none at index {key}.")
    raise BadArgument(f"'{key}' can't be taken of a value of the type '{type_name(target)}'.")


# Texts


@_function("concat", 1, None)
def _concat(*values: Any) -> Any:
    if all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    if any(isinstance(value, list | dict) for value in values):
        raise BadArgument("the arguments have to be all texts or all arrays.")
    return "".join(map(as_text, values))


@_function("format", 1, None)
def _format(pattern: Any, *values: Any) -> str:
    def place(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        index = int(match["index"]) if match["index"] else len(values)
        if index >= len(values):
            raise BadArgument(f"the format '{pattern}' has a place '{match[0]}' without an argument.")
        if match["digits"]:
            return f"{integer(values[index]):0{int(match['digits'])}d}"
        return as_text(values[index])

    return re.sub(r"\{\{|\}\}|\{(?P<index>\d{1,3})(:[Dd](?P<digits>\d{1,2}))?\}|\{|\}", place, text(pattern))


@_function("substring", 2, 3)
def _substring(value: Any, start: Any, length: Any = None) -> str:
    end = len(text(value)) if length is None else integer(start) + integer(length)
    if not 0 <= integer(start) <= end <= len(value):
        raise BadArgument(f"start and length go beyond a text of {len(value)} characters.")
    return str(value[start:end])


@_function("split", 2)
def _split(value: Any, delimiters: Any) -> list[str]:
    signs = [text(sign) for sign in (delimiters if isinstance(delimiters, list) else [delimiters])]
    if not all(signs):
        raise BadArgument("a delimiter is empty.")
    return re.split("|".join(map(re.escape, signs)), text(value))


@_function("padLeft", 2, 3)
def _pad_left(value: Any, length: Any, sign: Any = " ") -> str:
    if integer(length) > 16 or len(text(sign)) != 1:
        raise BadArgument("the length is at most 16, and the filling one character.")
    return as_text(value).rjust(length, sign)


@_function("uniqueString", 1, None)
def _unique_string(*values: Any) -> str:
    """13 letters and digits, the same for the same arguments (here, not the same as in Azure)."""
    digest = hashlib.sha256("-".join(map(text, values)).encode()).digest()
    return base64.b32encode(digest)[:13].decode().lower()


@_function("guid", 1, None)
def _guid(*values: Any) -> str:
    return str(uuid.uuid5(GUID_NAMESPACE, "-".join(map(text, values))))


@_function("join", 2)
def _join(values: Any, delimiter: Any) -> str:
    return text(delimiter).join(as_text(value) for value in _array(values))


@_function("int", 1)
def _int(value: Any) -> int:
    try:
        return _bounded(int(value[:32] if isinstance(value, str) else integer(value)))
    except ValueError as error:
        raise BadArgument(f"'{value}' is no integer.") from error


@_function("bool", 1)
def _bool(value: Any) -> bool:
    answers = {"true": True, "1": True, "false": False, "0": False}
    if as_text(value).lower() not in answers:
        raise BadArgument(f"'{as_text(value)}' is neither true nor false.")
    return answers[as_text(value).lower()]


@_function("json", 1)
def _json(value: Any) -> Any:
    try:
        return json.loads(text(value))
    except (ValueError, RecursionError) as error:
        raise BadArgument(f"the text is no JSON: {error}.") from error


@_function("base64ToString", 1)
def _base64_to_string(value: Any) -> str:
    try:
        return base64.b64decode(text(value), validate=True).decode()
    except ValueError as error:
        raise BadArgument(f"the text is no Base64: {error}.") from error


_function("string", 1)(as_text)
_function("toLower", 1)(lambda value: text(value).lower())
_function("toUpper", 1)(lambda value: text(value).upper())
_function("trim", 1)(lambda value: text(value).strip())
_function("replace", 3)(lambda value, old, new: text(value).replace(text(old), text(new)) if old else value)
_function("startsWith", 2)(lambda value, start: text(value).lower().startswith(text(start).lower()))
_function("endsWith", 2)(lambda value, end: text(value).lower().endswith(text(end).lower()))
_function("base64", 1)(lambda value: base64.b64encode(text(value).encode()).decode())
_function("base64ToJson", 1)(lambda value: _json(_base64_to_string(value)))
_function("uri", 2)(lambda base, relative: urllib.parse.urljoin(text(base), text(relative)))
_function("uriComponent", 1)(lambda value: urllib.parse.quote(text(value), safe=""))
_function("uriComponentToString", 1)(lambda value: urllib.parse.unquote(text(value)))

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
    return any(_equals(value, item) for value in _array(container))


@_function("first", 1)
def _first(value: Any) -> Any:
    if isinstance(value, str):
        return value[:1]
    return _array(value)[0] if value else None


@_function("last", 1)
def _last(value: Any) -> Any:
    if isinstance(value, str):
        return value[-1:]
    return _array(value)[-1] if value else None


@_function("take", 2)
def _take(value: Any, count: Any) -> Any:
    return (value if isinstance(value, str) else _array(value))[: max(integer(count), 0)]


@_function("skip", 2)
def _skip(value: Any, count: Any) -> Any:
    return (value if isinstance(value, str) else _array(value))[max(integer(count), 0) :]


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
        united += [item for item in _array(value) if item not in united]
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
    return [item for item in _array(first) if all(item in _array(other) for other in others)]


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
_function("add", 2)(lambda left, right: _bounded(integer(left) + integer(right)))
_function("sub", 2)(lambda left, right: _bounded(integer(left) - integer(right)))
_function("mul", 2)(lambda left, right: _bounded(integer(left) * integer(right)))
_function("less", 2)(lambda *pair: _comparable(*pair)[0] < pair[1])
_function("lessOrEquals", 2)(lambda *pair: _comparable(*pair)[0] <= pair[1])
_function("greater", 2)(lambda *pair: _comparable(*pair)[0] > pair[1])
_function("greaterOrEquals", 2)(lambda *pair: _comparable(*pair)[0] >= pair[1])
_function("coalesce", 1, None)(lambda *values: next((value for value in values if value is not None), None))
_function("not", 1)(lambda value: not boolean(value))
_function("true", 0)(lambda: True)
_function("false", 0)(lambda: False)
_function("null", 0)(lambda: None)
