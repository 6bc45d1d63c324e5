"""Relaxed JSON: how az writes the body of a deployment.

`az deployment group create` splices the template file's own text behind an unquoted key,
`{"properties": {"parameters": {...}, template:{...}}}`, and the file may hold comments, line breaks
inside strings and trailing commas (docs/wire.md). Everything else has to be plain JSON.
"""

import json
import re
from typing import Any

from opengallery.arm.templates.errors import TemplateError

_STRING = r'"[^"\\]*(?:\\.[^"\\]*)*"'
_COMMENTS = re.compile(rf"{_STRING}|//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_BARE_KEYS = re.compile(rf"{_STRING}|(?P<key>[A-Za-z_$][\w$]*)(?=\s*:)|(?P<comma>,)(?=\s*[}}\]])", re.DOTALL)


def read_relaxed_json(text: bytes) -> Any:
    """The value that `text` holds. Raises `TemplateError` with the code `InvalidRequestContent`."""
    try:
        source = text.decode("utf-8-sig")
        try:
            return json.loads(source)
        except json.JSONDecodeError:
            return json.loads(_BARE_KEYS.sub(_quote_key, _COMMENTS.sub(_drop_comment, source)), strict=False)
    except (ValueError, RecursionError) as error:
        raise TemplateError(
            f"The request content was invalid and could not be deserialized: {error}. Send it as JSON.",
            code="InvalidRequestContent",
        ) from error


def _drop_comment(match: re.Match[str]) -> str:
    return match[0] if match[0].startswith('"') else " "


def _quote_key(match: re.Match[str]) -> str:
    if match["key"]:
        return f'"{match["key"]}"'
    return "" if match["comma"] else match[0]
