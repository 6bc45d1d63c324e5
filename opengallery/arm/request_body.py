"""The body of a request: a JSON object that both databases can hold and every function can walk.

Refused here, once for all types: what nests too deeply, numbers that are none (NaN, 1e999), and text
that is no Unicode or has a NUL, which PostgreSQL doesn't keep.
"""

import json
import math
import re
from typing import Any, NoReturn

from opengallery.arm.errors import ArmError
from opengallery.arm.templates.relaxed_json import read_relaxed_json

LIMIT_BYTES = 4 * 1024 * 1024
DEPTH_MAX = 100
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_DEPLOYMENT = re.compile(r"/providers/microsoft\.resources/deployments/[^/]+(/validate)?/?", re.IGNORECASE)


def read_body(content: bytes, path: str) -> dict[str, Any]:
    """The object in `content`, {} for nothing. Raises 400 `InvalidRequestContent`.

    Deployments may be written as az does, see `relaxed_json`.
    """
    if not content.strip():
        return {}
    if _DEPLOYMENT.search(path):
        body = read_relaxed_json(content)
    else:
        try:
            body = json.loads(content, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise _invalid(f"is no valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise _invalid("has to be a JSON object")
    _check(body)
    return body


def _check(body: dict[str, Any]) -> None:
    """Walk through all values, level by level."""
    level: list[Any] = [body]
    for _ in range(DEPTH_MAX):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                following += value
                following += value.values()
            elif isinstance(value, list):
                following += value
            elif isinstance(value, str):
                if _UNUSABLE.search(value):
                    raise _invalid("has a text with a NUL or half a surrogate pair")
            elif isinstance(value, float) and not math.isfinite(value):
                raise _invalid("has a number that is too large")
        if not following:
            return
        level = following
    raise _invalid(f"nests deeper than {DEPTH_MAX} levels")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _invalid(why: str) -> ArmError:
    return ArmError("InvalidRequestContent", f"The request content {why}. Correct it and send it again.")
