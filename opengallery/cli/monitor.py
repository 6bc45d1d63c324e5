"""`gallery monitor`: the activity log of a subscription."""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from opengallery.cli.api_versions import api_version
from opengallery.cli.command import new_app, verb
from opengallery.cli.failure import Misuse
from opengallery.cli.options import GroupOrNone

if TYPE_CHECKING:
    from opengallery.cli.client import ArmClient

COLUMNS = {
    "Time": "eventTimestamp",
    "Status": "status.value",
    "SubStatus": "subStatus.value",
    "Operation": "operationName.value",
    "Caller": "caller",
    "ResourceId": "resourceId",
    "CorrelationId": "correlationId",
}

app = new_app("The activity log: who did what.")
activity_log = new_app("Who wrote what, and who was refused.")
app.add_typer(activity_log, name="activity-log")


@app.callback()
def monitor() -> None:
    """The activity log: who did what."""


@activity_log.callback()
def log() -> None:
    """Who wrote what, and who was refused."""


@verb(
    activity_log,
    "list",
    [
        "gallery monitor activity-log list -o table",
        "gallery monitor activity-log list -g myResourceGroup --offset 1d --status Failed -o table",
    ],
    columns=COLUMNS,
    flat=False,
)
def list_events(
    arm: "ArmClient",
    group: GroupOrNone = None,
    resource_id: Annotated[str | None, typer.Option("--resource-id", metavar="ID", help="Resource.")] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", metavar="NAME", help="Resource provider.")
    ] = None,
    correlation_id: Annotated[
        str | None, typer.Option("--correlation-id", metavar="ID", help="What one request led to.")
    ] = None,
    caller: Annotated[
        str | None,
        typer.Option("--caller", metavar="NAME|ID", help="A user's name, an app id, an object id."),
    ] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="STATUS", help="Accepted, Succeeded, Failed or Canceled."),
    ] = None,
    start_time: Annotated[
        str | None, typer.Option("--start-time", metavar="TIME", help="Such as 2026-01-31T12:00:00Z.")
    ] = None,
    end_time: Annotated[
        str | None, typer.Option("--end-time", metavar="TIME", help="By default now.")
    ] = None,
    offset: Annotated[
        str, typer.Option("--offset", metavar="##d##h##m##s", help="How far back from the end time.")
    ] = "6h",
    max_events: Annotated[
        int, typer.Option("--max-events", min=1, metavar="COUNT", help="How many at most.")
    ] = 50,
) -> Any:
    """List events, the newest first."""
    since, until = period(start_time, end_time, parse_offset(offset))
    clauses = [f"eventTimestamp ge '{since}'", f"eventTimestamp le '{until}'"]
    asked = {
        "resourceGroupName": group,
        "resourceId": resource_id,
        "resourceProvider": namespace,
        "correlationId": correlation_id,
        "caller": caller,
        "status": status,
    }
    for name, value in asked.items():
        if value:
            quoted = value.replace("'", "''")
            clauses.append(f"{name} eq '{quoted}'")
    from urllib.parse import urlencode

    path = f"/subscriptions/{arm.subscription}/providers/Microsoft.Insights/eventtypes/management/values"
    url = arm.url(path, api_version("Microsoft.Insights/eventtypes"))
    url += "&" + urlencode({"$filter": " and ".join(clauses)}, safe="$")
    return [*islice(arm.pages(url), max_events)]


def parse_offset(text: str) -> timedelta:
    """`1d6h` as a span of time: days, hours, minutes and seconds, in this order. Raises `Misuse`."""
    found = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.lower())
    if not text or found is None:
        raise Misuse(f"--offset: '{text}' is no span of time. Write it like 1d6h30m.")
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    try:
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    except OverflowError:
        raise Misuse(f"--offset: '{text}' is too long.") from None


def period(start: str | None, end: str | None, offset: timedelta) -> tuple[str, str]:
    """From when to when, as az takes it: what is missing is `offset` away from the other. Raises `Misuse`."""
    try:
        if start:
            since = _time("--start-time", start)
            until = _time("--end-time", end) if end else since + offset
        else:
            until = _time("--end-time", end) if end else datetime.now(UTC)
            since = until - offset
    except OverflowError:
        raise Misuse("--offset leads out of the calendar. Give a shorter one.") from None
    return since.isoformat(), until.isoformat()


def _time(option: str, text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise Misuse(f"{option}: '{text}' is no time. Write it like 2026-01-31T12:00:00Z.") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
