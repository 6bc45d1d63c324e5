"""The body of a request: a JSON object of bounded size and depth that both databases can hold."""

import json
import math
import re
from typing import Any, NoReturn

from opengallery.identity.graph.errors import GraphError, bad_request

LIMIT_BYTES = 256 * 1024
DEPTH_MAX = 32
_UNUSABLE = re.compile("[\0\ud800-\udfff]")


def too_large() -> GraphError:
    """413: the body is longer than any request needs."""
    return GraphError(413, "RequestBodyTooLarge", f"The request is longer than {LIMIT_BYTES} bytes.")


def read_body(content: bytes) -> dict[str, Any]:
    """The object in `content`, {} for nothing. Raises `GraphError`."""
    if not content.strip():
        return {}
    try:
        body = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise bad_request("The request's body is no valid JSON.") from error
    if not isinstance(body, dict):
        raise bad_request("The request's body has to be a JSON object.")
    level: list[Any] = [body]
    for _ in range(DEPTH_MAX):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return body
    raise bad_request(f"The request's body nests deeper than {DEPTH_MAX} levels.")


def _inside(value: Any) -> list[Any]:
    """What `value` is made of. Raises `GraphError` when it can't be kept."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list):
        return value
    if isinstance(value, str) and _UNUSABLE.search(value):
        raise bad_request("The request's body has a text with a NUL or half a surrogate pair.")
    if isinstance(value, float) and not math.isfinite(value):
        raise bad_request("The request's body has a number that is too large.")
    return []


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(text)
