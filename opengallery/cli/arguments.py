"""Command lines as az reads them: an option that takes many words, and the words' own small languages.

az writes `--target-regions "West Central US" "South Central US=1" --replica-count 5`: one option, then
words up to the next option. Typer takes one word an option, so `spread` repeats the option for each.
"""

import re
from collections.abc import Collection, Iterable
from typing import Any

from opengallery.cli.failure import Misuse

# Joins the words of one `--add` or `--remove`, whose first word says what the others are for.
UNIT_SEPARATOR = "\x1f"

STORAGE_ACCOUNT_TYPES = {name.lower(): name for name in ("Standard_LRS", "Standard_ZRS", "Premium_LRS")}

TRUE = {"true", "t", "yes", "y", "1"}
FALSE = {"false", "f", "no", "n", "0"}


def spread(
    words: Iterable[str],
    many: Collection[str],
    grouped: Collection[str] = (),
    flags: Collection[str] = (),
) -> list[str]:
    """Rewrite az's form of a command line into one with a value an option.

    many: options that take all words up to the next option; each word gets the option of its own.
    grouped: the same, but the words stay together, joined by UNIT_SEPARATOR.
    flags: options that stand alone (true) or take `true` or `false`.
    """
    result: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in flags:
            value = "true"
            if rest and rest[0].lower() in TRUE | FALSE:
                value = "true" if rest.pop(0).lower() in TRUE else "false"
            result += [word, value]
        elif word in many or word in grouped:
            values = []
            while rest and not _is_option(rest[0]):
                values.append(rest.pop(0))
            if not values:
                result.append(word)
            elif word in grouped:
                result += [word, UNIT_SEPARATOR.join(values)]
            else:
                for value in values:
                    result += [word, value]
        else:
            result.append(word)
    return result


def _is_option(word: str) -> bool:
    return re.match(r"--?[A-Za-z]", word) is not None


def parse_flag(value: str | None) -> bool | None:
    """`true` or `false` as `spread` writes it; None when the option was not given."""
    return None if value is None else value == "true"


def parse_tags(words: list[str] | None) -> dict[str, str] | None:
    """`key[=value]` words to tags. One empty word clears them all: `{}`. None stays None."""
    if words is None:
        return None
    return {key: value for key, _, value in (word.partition("=") for word in words if word)}


def parse_target_regions(words: list[str] | None) -> list[dict[str, Any]] | None:
    """`REGION[=COUNT][=STORAGE_ACCOUNT_TYPE]` words to the `targetRegions` of a publishing profile."""
    if words is None:
        return None
    regions = []
    for word in words:
        name, *rest = (part.strip() for part in word.split("="))
        region: dict[str, Any] = {"name": name}
        left = list(rest)
        if left and left[0].isascii() and left[0].isdecimal() and int(left[0]) > 0:
            region["regionalReplicaCount"] = int(left.pop(0))
        if left and left[0].lower() in STORAGE_ACCOUNT_TYPES:
            region["storageAccountType"] = STORAGE_ACCOUNT_TYPES[left.pop(0).lower()]
        if not name or left:
            culprit = f" ('{left[0]}' is neither a number of replicas nor a known type)" if left else ""
            raise Misuse(
                f"--target-regions: '{word}' is not REGION[=COUNT][=STORAGE_ACCOUNT_TYPE]{culprit}; "
                f"the types are {', '.join(STORAGE_ACCOUNT_TYPES.values())}."
            )
        regions.append(region)
    return regions


def parse_features(words: list[str] | None) -> list[dict[str, str]] | None:
    """`Name=Value` words (or one word of several) to the features of an image definition."""
    if words is None:
        return None
    features = []
    for word in " ".join(words).split():
        name, equals, value = word.partition("=")
        if not equals:
            raise Misuse(f"--features: '{word}' is not NAME=VALUE.")
        features.append({"name": name, "value": value})
    return features


def change(
    resource: dict[str, Any],
    sets: list[str] | None = None,
    adds: list[str] | None = None,
    removes: list[str] | None = None,
) -> None:
    """Change `resource` in place as az's generic update does, before it is written back.

    sets: `publishingProfile.replicaCount=2`; adds: a path, then `key=value` words for one object or
    plain values; removes: a path, or a path and an index. Paths leave `properties` out, as az shows it.
    """
    for word in sets or ():
        path, equals, value = word.partition("=")
        if not equals:
            raise Misuse(f"--set: '{word}' is not PATH=VALUE.")
        holder, key = _holder(resource, path)
        _put(holder, key, _value(value))
    for joined in adds or ():
        path, *words = joined.split(UNIT_SEPARATOR)
        if not words:
            raise Misuse("--add: a path, then KEY=VALUE words or values.")
        holder, key = _holder(resource, path)
        members = holder.setdefault(key, []) if isinstance(holder, dict) else holder[int(key)]
        if not isinstance(members, list):
            raise Misuse(f"--add: '{path}' is not a list.")
        pairs = [word.partition("=") for word in words]
        if all(equals for _, equals, _ in pairs):
            members.append({name: _value(value) for name, _, value in pairs})
        else:
            members += [_value(word) for word in words]
    for joined in removes or ():
        path, *index = joined.split(UNIT_SEPARATOR)
        if index:
            path = f"{path}[{index[0]}]"
        holder, key = _holder(resource, path)
        try:
            del holder[int(key) if isinstance(holder, list) else key]
        except (KeyError, IndexError):
            raise Misuse(f"--remove: there is no '{path}'.") from None


def _holder(resource: dict[str, Any], path: str) -> tuple[Any, str]:
    """The object or list that holds the last part of `path`, and that part."""
    *parents, last = re.sub(r"\[(\d+)\]", r".\1", path).split(".")
    top = [*parents, last][0]
    # `properties` is where everything lies that ARM does not give every resource.
    inside = top not in {"tags", "location", "sku", "identity", "zones", "properties", "plan"}
    holder: Any = resource.setdefault("properties", {}) if inside else resource
    for part in parents:
        try:
            holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
        except (IndexError, ValueError, AttributeError):
            raise Misuse(f"There is no '{path}' in the resource.") from None
    if (isinstance(holder, list) and not last.isdecimal()) or not isinstance(holder, list | dict):
        raise Misuse(f"There is no '{path}' in the resource.")
    return holder, last


def _put(holder: Any, key: str, value: Any) -> None:
    if isinstance(holder, list):
        if int(key) >= len(holder):
            raise Misuse(f"--set: the list has no index {key}.")
        holder[int(key)] = value
    else:
        holder[key] = value


def _value(text: str) -> Any:
    """A JSON value where the text is one (5, true, null, {...}), else the text itself."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
