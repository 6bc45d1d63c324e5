"""Search: the events of one log that fit some conditions, the newest first, page by page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, false, func, or_, select

from opengallery.activity_log.events import Event, activity_events, event_of

_columns = activity_events.c


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for. Names and ids compare in any case; None: no matter which.

    `caller` is an object id, an app id or a user principal name. Of `below`, the keys of scopes, an event's
    has to be at or below one.
    """

    tenant_id: str
    subscription: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    resource_group: str | None = None
    scope: str | None = None
    provider: str | None = None
    correlation_id: str | None = None
    caller: str | None = None
    status: str | None = None
    below: Sequence[str] | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        """The same for the database."""
        subscription = _columns.subscription
        found = [
            _columns.tenant_id == self.tenant_id,
            subscription == self.subscription.lower() if self.subscription else subscription.is_(None),
        ]
        for column, text in (
            (_columns.resource_group, self.resource_group),
            (_columns.scope_key, self.scope),
            (_columns.provider, self.provider),
            (_columns.correlation_id, self.correlation_id),
        ):
            if text is not None:
                found.append(column == text.lower())
        if self.since is not None:
            found.append(_columns.happened_at >= self.since)
        if self.until is not None:
            found.append(_columns.happened_at <= self.until)
        if self.status is not None:
            found.append(func.lower(_columns.status) == self.status.lower())
        if self.caller is not None:
            names = (_columns.object_id, _columns.app_id, func.lower(_columns.user_principal_name))
            found.append(or_(*(name == self.caller.lower() for name in names)))
        if self.below is not None:
            key = _columns.scope_key
            places = [(key == place) | key.startswith(f"{place}/", autoescape=True) for place in self.below]
            found.append(or_(false(), *places))
        return found


@dataclass(frozen=True)
class Place:
    """Where a page ends: the time and the number of its last event."""

    happened_at: datetime
    sequence: int


def page(
    connection: Connection, search: Search, after: Place | None, size: int
) -> tuple[list[Event], Place | None]:
    """Up to `size` events that come after a place, and where to go on, if there are more."""
    query = select(activity_events).where(*search.conditions()).limit(size + 1)
    query = query.order_by(_columns.happened_at.desc(), _columns.sequence.desc())
    if after is not None:
        at, sequence = _columns.happened_at, _columns.sequence
        query = query.where(
            (at < after.happened_at) | ((at == after.happened_at) & (sequence < after.sequence))
        )
    rows = connection.execute(query).all()
    shown = rows[:size]
    following = Place(shown[-1].happened_at, shown[-1].sequence) if len(rows) > size else None
    return [event_of(row) for row in shown], following
