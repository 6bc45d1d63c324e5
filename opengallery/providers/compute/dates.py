"""Dates: what clients give as one, in the one form that all of them read."""

from datetime import UTC, datetime
from typing import Any

from opengallery.arm.errors import invalid_parameter


def normalize_date(holder: dict[str, Any], name: str, where: str) -> None:
    """Make member `name`, if it is there, an ISO 8601 date-time in UTC. Raises 400 when it is none."""
    if name not in holder:
        return
    try:
        given = datetime.fromisoformat(holder[name])
        moment = given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise invalid_parameter(
            f"{where}.{name}",
            f"'{holder[name]}' is no date. Give an ISO 8601 date-time such as 2030-12-31T00:00:00Z.",
        ) from error
    holder[name] = moment.isoformat()
