"""The `$filter` of the activity log: `eventTimestamp ge '...' and eventTimestamp le '...' and status eq 'Failed'`.

Source: Azure Monitor REST API, Activity Logs - List, api-version 2015-04-01.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from opengallery.activity_log.search import Search
from opengallery.arm.errors import ArmError

_CLAUSE = re.compile(r"\s*(\w+)\s+(eq|ge|le)\s+(?:'((?:[^']|'')*)'|(\S+))\s*", re.IGNORECASE)
_AND = re.compile(r"\s+and\s+(?=(?:[^']*'[^']*')*[^']*$)", re.IGNORECASE)
_MEMBERS = {
    "resourcegroupname": "resource_group",
    "resourceid": "scope",
    "resourceuri": "scope",
    "resourceprovider": "provider",
    "correlationid": "correlation_id",
    "caller": "caller",
    "status": "status",
}
_IGNORED = ("eventchannels",)
"""Every event is one of the channels that clients ask for."""

FILTER_LENGTH_MAX = 4096


def narrowed(search: Search, text: str | None, *, needs_start: bool) -> Search:
    """`search` with what a filter asks for besides. Raises 400."""
    if text is not None and len(text) > FILTER_LENGTH_MAX:
        raise _refusal(text[:64], f"is longer than {FILTER_LENGTH_MAX} characters")
    for clause in _AND.split(text) if text and text.strip() else ():
        found = _CLAUSE.fullmatch(clause)
        if found is None:
            raise _refusal(clause, "can't be read")
        name, comparison = found[1].lower(), found[2].lower()
        value = found[3].replace("''", "'") if found[3] is not None else found[4]
        if name == "eventtimestamp" and comparison != "eq":
            time = _time(clause, value)
            search = replace(search, since=time) if comparison == "ge" else replace(search, until=time)
        elif name in _MEMBERS and comparison == "eq" and value.isprintable():
            asked: dict[str, Any] = {_MEMBERS[name]: value}
            search = replace(search, **asked)
        elif name not in _IGNORED:
            raise _refusal(clause, "is for no name that can be asked for")
    if needs_start and search.since is None:
        raise _refusal(text or "", "has no start: eventTimestamp ge 'TIME'")
    return search


def _time(clause: str, text: str) -> datetime:
    """A time in ISO 8601; without a zone it is UTC."""
    try:
        # Azure's clients may give seven digits of a second, Python reads six.
        time = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise _refusal(clause, "has no time such as 2026-01-31T12:00:00Z") from error


def _refusal(clause: str, why: str) -> ArmError:
    return ArmError(
        "BadRequest",
        f"The filter '{clause}' {why}. Write eventTimestamp ge 'TIME' and eventTimestamp le 'TIME', then, joined "
        "by 'and', NAME eq 'VALUE'; NAME is one of: resourceGroupName, resourceId, resourceProvider, "
        "correlationId, caller, status.",
        target="$filter",
    )
