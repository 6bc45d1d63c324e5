"""What all collections do with the bodies of changes: required and unknown properties, times, references."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from opengallery.identity.directory import as_id
from opengallery.identity.directory_errors import InvalidValue
from opengallery.identity.graph.errors import bad_request

BIND_MAX = 20
REFERENCE_LENGTH_MAX = 512


def require(body: Mapping[str, Any], *names: str) -> None:
    """Raise `GraphError` unless the body has a value for each name."""
    for name in names:
        if body.get(name) is None:
            raise bad_request(f"A value is required for property '{name}' of the resource. Give one.")


def refuse_unknown(body: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise `GraphError` when the body has a property that can't be set."""
    for name in body:
        if name not in known and not name.startswith("@odata."):
            settable = ", ".join(sorted(known))
            raise bad_request(
                f"The property '{name[:64]}' does not exist here or can't be set. Leave it out. "
                f"Settable: {settable}."
            )


def read_time(name: str, value: Any) -> datetime | None:
    """A time in ISO 8601 form, UTC unless it says otherwise; `None` stays so. Raises `InvalidValue`."""
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) and len(value) <= 40 else "")
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidValue(name, "Give a time such as 2030-01-31T12:00:00Z.") from error


def shown_time(time: datetime | None) -> str | None:
    """A time as Graph shows it."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}" if time else None


def read_reference(value: Any) -> str:
    """The object id in a reference (`https://HOST/v1.0/directoryObjects/ID`). Raises `GraphError`."""
    text = value if isinstance(value, str) and len(value) <= REFERENCE_LENGTH_MAX else ""
    try:
        object_id = as_id(urlsplit(text).path.rpartition("/")[2])
    except ValueError:
        object_id = ""
    if not object_id:
        raise bad_request(
            "Invalid URL format specified in payload: write the reference as "
            "https://HOST/v1.0/directoryObjects/OBJECT-ID."
        )
    return object_id


def read_bound(body: Mapping[str, Any], name: str) -> list[str]:
    """The object ids in `NAME@odata.bind`. Raises `GraphError`."""
    values = body.get(f"{name}@odata.bind", [])
    if not isinstance(values, list) or len(values) > BIND_MAX:
        raise bad_request(f"Give {name}@odata.bind as a list of at most {BIND_MAX} references.")
    return [read_reference(value) for value in values]
