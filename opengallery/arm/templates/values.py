"""Values of template expressions: ARM's types, and what a function may ask of its arguments."""

import json
from typing import Any

MAX_WEIGHT = 4 * 1024 * 1024  # characters, and 8 for each value: ARM's limit on a finished template


class BadArgument(Exception):
    """A function can't use what it was given. The message goes on from "can't be evaluated: "."""


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


def array(value: Any) -> list[Any]:
    """`value`, which has to be an array."""
    if not isinstance(value, list):
        raise BadArgument(f"an array is expected, not '{type_name(value)}'.")
    return value


def bounded(value: int) -> int:
    """`value`, which has to fit into 64 bits."""
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
