"""docs/settings.md lists every setting with its default, and none that does not exist."""

import json
import re
from pathlib import Path

import msgspec

from opengallery.settings import RegionSettings, Settings, StoreSettings

DOCUMENT = Path(__file__).parent.parent / "docs/settings.md"


def settings_of(struct: type[msgspec.Struct], prefix: str = "") -> dict[str, str]:
    """Every setting below `struct` by its name in the file, with its default as TOML writes it."""
    found: dict[str, str] = {}
    for field in msgspec.structs.fields(struct):
        name = prefix + field.encode_name
        if name == "data":  # comes from --data, never from the file
            continue
        if name == "regions":
            found |= settings_of(RegionSettings, "regions.NAME.")
        elif name == "regions.NAME.stores":
            found |= settings_of(StoreSettings, "regions.NAME.stores.")
        elif isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= settings_of(field.type, f"{name}.")
        else:
            found[name] = default_of(field)
    return found


def default_of(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "none" if default is None else f"`{json.dumps(default)}`"


def test_every_setting_is_documented_with_its_default() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \| [^|]{10,} \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    assert dict(rows) == settings_of(Settings)
