"""Filters of role definitions and assignments: `$filter=atScope() and assignedTo('...')`.

Source: Role Assignments and Role Definitions REST API, List.
"""

import re

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError

_CLAUSE = re.compile(
    r"\s*(?:(?P<call>\w+)\s*\(\s*(?:'(?P<argument>(?:[^']|'')*)')?\s*\)"
    r"|(?P<name>\w+)\s+eq\s+'(?P<value>(?:[^']|'')*)')\s*",
    re.IGNORECASE,
)


def read_filter(call: Call, names: tuple[str, ...]) -> dict[str, str]:
    """The clauses of the request's `$filter`, by name in lower case. Raises 400 for one not among `names`."""
    text = call.option("$filter")
    clauses: dict[str, str] = {}
    if text is None or not text.strip():
        return clauses
    for part in re.split(r"\s+and\s+(?=(?:[^']*'[^']*')*[^']*$)", text, flags=re.IGNORECASE):
        found = _CLAUSE.fullmatch(part)
        name = (found["call"] or found["name"]).lower() if found else ""
        if found is None or name not in {known.lower() for known in names}:
            raise ArmError(
                "UnsupportedQuery",
                f"The filter '{part}' can't be used. Known are: {', '.join(names)}; join them by 'and'.",
                target="$filter",
            )
        clauses[name] = (found["argument"] or found["value"] or "").replace("''", "'")
    return clauses
