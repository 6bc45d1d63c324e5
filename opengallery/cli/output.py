"""What a command prints: JSON, a table or tab-separated lines, of resources in the form az shows.

az lifts what lies in `properties` to the top of a resource, and adds the `resourceGroup` that its id
names; so does `flatten`.
"""

import json
import re
import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

# A column's heading to the place of its value: `sku.name`, `publishingProfile.targetRegions[].name`.
Columns = Mapping[str, str]

RESOURCE_GROUP = re.compile(r"^/subscriptions/[^/]+/resourceGroups/([^/]+)/", re.IGNORECASE)


class Output(StrEnum):
    """The formats of `-o`."""

    JSON = "json"
    TABLE = "table"
    TSV = "tsv"
    NONE = "none"


def flatten(value: Any) -> Any:
    """Lift every resource's `properties` to its top, in a resource and in those inside it."""
    if isinstance(value, list):
        return [flatten(member) for member in value]
    if not isinstance(value, dict):
        return value
    flat = {key: flatten(member) for key, member in value.items()}
    properties = flat.get("properties")
    if isinstance(properties, dict) and ("id" in flat or "name" in flat):
        del flat["properties"]
        flat = {**properties, **flat}
    return flat


def with_resource_group(value: Any) -> Any:
    """Add `resourceGroup` to everything that has the id of a resource inside a group."""
    if isinstance(value, list):
        return [with_resource_group(member) for member in value]
    if not isinstance(value, dict):
        return value
    named = {key: with_resource_group(member) for key, member in value.items()}
    identity = named.get("id")
    if isinstance(identity, str) and (match := RESOURCE_GROUP.match(identity)):
        named.setdefault("resourceGroup", match[1])
    return named


def pick(value: Any, path: str) -> Any:
    """The value at `path`; `[]` after a name collects from every member of a list. None if absent."""
    if not path:
        return value
    head, _, rest = path.partition(".")
    if head.endswith("[]"):
        members = value.get(head[:-2]) if isinstance(value, dict) else None
        return [pick(member, rest) for member in members or ()]
    return pick(value.get(head), rest) if isinstance(value, dict) else None


def emit(result: Any, output: Output, columns: Columns | None = None, details: Collection[str] = ()) -> None:
    """Print `result` on standard output. A table has the columns `details` only where a value is known."""
    if output is Output.NONE:
        return
    if output is Output.JSON:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    members = result if isinstance(result, list) else [result]
    if not all(isinstance(member, dict) for member in members):
        for member in members:
            print(_text(member))
        return
    columns = columns or _scalars(members)
    if output is Output.TABLE:
        columns = {
            heading: path
            for heading, path in columns.items()
            if heading not in details or any(pick(member, path) is not None for member in members)
        }
    rows = [[_text(pick(member, path)) for path in columns.values()] for member in members]
    if output is Output.TSV:
        for row in rows:
            print("\t".join(row))
    elif rows:
        _print_table(list(columns), rows)


def _print_table(headings: list[str], rows: list[list[str]]) -> None:
    """az's plain table: headings, dashes, rows; whole values, so that they can be copied and piped."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    for row in (headings, ["-" * width for width in widths], *rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write(line.rstrip() + "\n")


def _scalars(members: list[dict[str, Any]]) -> Columns:
    """Columns for what has none declared: every plain value of the first member."""
    first = members[0] if members else {}
    return {
        name[:1].upper() + name[1:]: name
        for name, value in first.items()
        if not isinstance(value, dict | list) and name not in {"id", "type"}
    }


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(_text(member) for member in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value).replace("\t", " ").replace("\n", " ")
