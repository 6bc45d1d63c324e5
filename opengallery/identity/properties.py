"""The properties that only describe a directory object: their kinds and bounds, and the check of what comes in.

`None` empties a property. A name is written as Microsoft Graph writes it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from opengallery.identity.directory_errors import InvalidValue

DISPLAY_NAME_LENGTH_MAX = 256
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Text:
    """One line of text, `length_max` characters at most, that `pattern` matches."""

    length_max: int
    pattern: str = ".*"
    rule: str = ""
    default: Any = None

    def check(self, name: str, value: Any) -> str:
        """The text. Raises `InvalidValue`."""
        if not isinstance(value, str) or len(value) > self.length_max or _CONTROL.search(value):
            raise InvalidValue(name, f"Give a text of at most {self.length_max} characters, on one line.")
        if not re.fullmatch(self.pattern, value):
            raise InvalidValue(name, self.rule)
        return value


@dataclass(frozen=True)
class Flag:
    """True or false."""

    default: Any = None

    def check(self, name: str, value: Any) -> bool:
        """The flag. Raises `InvalidValue`."""
        if not isinstance(value, bool):
            raise InvalidValue(name, "Give true or false.")
        return value


@dataclass(frozen=True)
class Texts:
    """A list of at most `count_max` texts."""

    count_max: int
    length_max: int = 256
    default: Any = ()

    def check(self, name: str, value: Any) -> list[str]:
        """The list. Raises `InvalidValue`."""
        if not isinstance(value, list) or len(value) > self.count_max:
            raise InvalidValue(name, f"Give a list of at most {self.count_max} texts.")
        return [Text(self.length_max).check(name, entry) for entry in value]


@dataclass(frozen=True)
class Tree:
    """An object or a list that is kept as it came, up to `size_max_bytes` as JSON."""

    form: type
    size_max_bytes: int = 32 * 1024
    default: Any = None

    def check(self, name: str, value: Any) -> Any:
        """The tree. Raises `InvalidValue`."""
        if not isinstance(value, self.form):
            raise InvalidValue(name, f"Give a JSON {'object' if self.form is dict else 'list'}.")
        if len(msgspec.json.encode(value)) > self.size_max_bytes:
            raise InvalidValue(name, f"Give at most {self.size_max_bytes} bytes of JSON.")
        return value


Kind = Text | Flag | Texts | Tree


def check_details(kinds: Mapping[str, Kind], given: Mapping[str, Any]) -> dict[str, Any]:
    """What `given` says of the properties in `kinds`; other names are left out. Raises `InvalidValue`."""
    return {
        name: None if given[name] is None else kind.check(name, given[name])
        for name, kind in kinds.items()
        if name in given
    }


def shown_details(kinds: Mapping[str, Kind], details: Mapping[str, Any]) -> dict[str, Any]:
    """Every property in `kinds`, with its default where nothing is kept."""
    shown = {}
    for name, kind in kinds.items():
        value = details.get(name)
        value = kind.default if value is None else value
        shown[name] = list(value) if isinstance(value, tuple) else value
    return shown


def check_display_name(value: Any) -> str:
    """A display name. Raises `InvalidValue`."""
    name = Text(DISPLAY_NAME_LENGTH_MAX).check("displayName", value)
    if not name.strip():
        raise InvalidValue("displayName", f"Give 1 to {DISPLAY_NAME_LENGTH_MAX} characters.")
    return name
