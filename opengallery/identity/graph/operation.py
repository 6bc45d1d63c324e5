"""Operation: what is done for a method and a path, who may, and what has to be ready before.

A path is written as segments below `/v1.0/`: `{key}` is the id of an object, `{other}` of another one.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from opengallery.identity.graph.call import Answer, GraphCall, Right
from opengallery.identity.graph.errors import GraphError, bad_request

SEGMENT_LENGTH_MAX = 512
_KEYED = re.compile(r"([A-Za-z]+)\((.+)\)", re.DOTALL)
_ALTERNATE = re.compile(r"(\w+)='((?:[^']|'')*)'", re.DOTALL)
_QUOTED = re.compile(r"'((?:[^']|'')*)'", re.DOTALL)


@dataclass(frozen=True)
class Operation:
    """One row of the table that the endpoint answers from.

    `prepare` does what takes long (Argon2) before the transaction begins; the right is asked before it,
    and again within. `is_query`: a POST that only reads.
    """

    method: str
    path: str
    handle: Callable[[GraphCall], Answer]
    right: Right
    prepare: Callable[[GraphCall], Any] | None = None
    is_query: bool = False

    @property
    def writes(self) -> bool:
        """Whether it needs a writing transaction."""
        return self.method != "GET" and not self.is_query

    def match(self, segments: list[str]) -> tuple[str, str] | None:
        """The two ids in the path, "" for those that it hasn't; `None` when it is another path."""
        wanted = self.path.split("/")
        if len(wanted) != len(segments):
            return None
        keys = {"{key}": "", "{other}": ""}
        for name, segment in zip(wanted, segments, strict=True):
            if name in keys:
                keys[name] = segment
            elif name.lower() != segment.lower():
                return None
        return keys["{key}"], keys["{other}"]


def find_operation(
    operations: list[Operation], method: str, segments: list[str]
) -> tuple[Operation, tuple[str, str]]:
    """The operation for a request. Raises `GraphError` when there is none."""
    found = [(operation, keys) for operation in operations if (keys := operation.match(segments)) is not None]
    for operation, keys in found:
        if operation.method == method:
            return operation, keys
    if found:
        allowed = ", ".join(sorted({operation.method for operation, _ in found}))
        raise GraphError(
            405,
            "Request_BadRequest",
            f"Specified HTTP method is not allowed for the request target. It takes {allowed}.",
            headers={"Allow": allowed},
        )
    name = "/".join(segments)[:128]
    raise GraphError(
        400,
        "BadRequest",
        f"Resource not found for the segment '{name}'. Open Gallery answers for users, groups, applications "
        "and servicePrincipals of Microsoft Graph v1.0; its documentation of the directory lists what it can.",
    )


def split_path(raw_path: bytes) -> list[str]:
    """The segments of a path, below its first one; `users('x')` becomes two. Raises `GraphError`."""
    segments = []
    for part in raw_path.decode("ascii", "replace").split("?")[0].strip("/").split("/")[1:]:
        try:
            segment = unquote(part, errors="strict")
        except UnicodeDecodeError:
            segment = "\0"
        if len(segment) > SEGMENT_LENGTH_MAX or not segment.isprintable():
            raise bad_request("The path has a segment that is too long or can't be read.")
        if keyed := _KEYED.fullmatch(segment):
            segments += [keyed[1], _key(keyed[2])]
        else:
            segments.append(segment)
    return segments


def _key(text: str) -> str:
    """The key in parentheses: a quoted one as it is, an alternate one as `name=value`."""
    if alternate := _ALTERNATE.fullmatch(text):
        return f"{alternate[1].lower()}={alternate[2].replace(chr(39) * 2, chr(39))}"
    if quoted := _QUOTED.fullmatch(text):
        return quoted[1].replace("''", "'")
    return text
