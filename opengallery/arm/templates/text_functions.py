"""Template functions that make or read texts: `concat`, `format`, `guid`, `base64` ...

Source: Azure Resource Manager, "String functions for ARM templates".
"""

import base64
import hashlib
import json
import re
import urllib.parse
import uuid
from typing import Any

from opengallery.arm.templates.function_table import FunctionTable
from opengallery.arm.templates.values import BadArgument, array, as_text, bounded, integer, text

# Azure's own `guid()` is a version 5 UUID in this namespace over the arguments joined with "-".
GUID_NAMESPACE = uuid.UUID("11fb06fb-712d-4ddd-98c7-e71bbd588830")

TEXT_FUNCTIONS = FunctionTable()
_function = TEXT_FUNCTIONS.entry


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
    return text(delimiter).join(as_text(value) for value in array(values))


@_function("int", 1)
def _int(value: Any) -> int:
    try:
        return bounded(int(value[:32] if isinstance(value, str) else integer(value)))
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
