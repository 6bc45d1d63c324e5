"""The activity log: `GET .../providers/Microsoft.Insights/eventtypes/management/values`.

A subscription's log shows the events whose scope the caller may read the log of; the tenant's own log, of what
belongs to no subscription, is for who may read at the tenant's root. Newest first.
Source: Azure Monitor REST API, Activity Logs and Tenant Activity Logs, api-version 2015-04-01.
"""

from datetime import UTC, datetime
from typing import Any

from opengallery.activity_log.search import Place, Search, page
from opengallery.arm import handling, paging
from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError
from opengallery.arm.listing import readable_below
from opengallery.arm.resource_id import ResourceId
from opengallery.arm.resource_type import Route
from opengallery.providers.insights import event_data
from opengallery.providers.insights.activity_filter import narrowed

VERSIONS = ("2015-04-01", "2014-04-01")
_READ = "Microsoft.Insights/eventtypes/values/read"
_VALUES = "/providers/Microsoft.Insights/eventtypes/management/values"


def _of_subscription(call: Call, parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    scope = ResourceId(parameters["subscription"])
    below = readable_below(call, call.assigned, _READ, scope)
    handling.require_scope(call, scope)
    if below is not None:
        below = [key for key in below if call.may(_READ, ResourceId.parse(key))]
    search = Search(tenant_id=call.principal.tenant_id, subscription=scope.subscription, below=below)
    return _answer(call, search, f"{scope}{_VALUES}", needs_start=True)


def _of_tenant(call: Call, _parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    return _answer(call, Search(tenant_id=call.principal.tenant_id), _VALUES, needs_start=False)


def _answer(call: Call, search: Search, path: str, *, needs_start: bool) -> dict[str, Any]:
    search = narrowed(search, call.option("$filter"), needs_start=needs_start)
    members = _selected(call.option("$select"))
    found, following = page(call.connection, search, _place(call), paging.page_size(call))
    body: dict[str, Any] = {
        "value": [
            {name: value for name, value in event_data.view(event).items() if name in members}
            for event in found
        ]
    }
    if following is not None:
        last = f"/{following.happened_at.isoformat()}/{following.sequence}"
        body["nextLink"] = paging.next_link(call, path, last)
    return body


def _selected(text: str | None) -> frozenset[str]:
    """The members to show. Raises 400 for one that there is not."""
    if text is None or not text.strip():
        return event_data.MEMBERS
    known = {name.lower(): name for name in event_data.MEMBERS}
    asked = [name.strip() for name in text.split(",")]
    if unknown := [name for name in asked if name.lower() not in known]:
        raise ArmError(
            "BadRequest",
            f"$select names '{unknown[0][:64]}'. Choose among: {', '.join(sorted(event_data.MEMBERS))}.",
            target="$select",
        )
    return frozenset(known[name.lower()] for name in asked)


def _place(call: Call) -> Place | None:
    """Where the page before this one ended."""
    text = paging.after(call)
    if not text:
        return None
    try:
        _, time, sequence = text.split("/")
        return Place(datetime.fromisoformat(time).astimezone(UTC), int(sequence[:18]))
    except (ValueError, OverflowError) as error:
        raise ArmError(
            "InvalidSkipToken", "The $skiptoken is none of ours. Start again without it.", target="$skiptoken"
        ) from error


def _categories(_call: Call, _parameters: dict[str, str], _body: dict[str, Any]) -> dict[str, Any]:
    return {"value": [{"value": "Administrative", "localizedValue": "Administrative"}]}


ROUTES = (
    Route("GET", f"/subscriptions/{{subscription}}{_VALUES}", VERSIONS, None, _of_subscription),
    Route("GET", _VALUES, VERSIONS, _READ, _of_tenant),
    Route("GET", "/providers/Microsoft.Insights/eventcategories", VERSIONS, None, _categories),
)
