"""Validation: a request's body against the declaration of its type, with messages that say what to do."""

import re
from typing import Any

import msgspec

from opengallery.arm.errors import ArmError
from opengallery.arm.resource_id import RESOURCE_GROUPS
from opengallery.arm.resource_type import ResourceType
from opengallery.arm.resources import Resource
from opengallery.regions import find_region


def without_nulls(value: Any) -> Any:
    """The same JSON value without null members: ARM takes a null for absent."""
    if isinstance(value, dict):
        return {name: without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return [without_nulls(member) for member in value if member is not None]
    return value


def converted(value: Any, model: Any, target: str) -> Any:
    """`value` as `model`. Raises 400 with the path of what doesn't fit as target."""
    try:
        return msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        where = target + re.sub(r"\[\.\.\.\]", "", path.rstrip("`"))
        code = (
            "InvalidParameter"
            if re.search(r"[<>]=?|valid|length|matching", message)
            else "InvalidRequestContent"
        )
        raise ArmError(
            code,
            f"The value of '{where}' can't be used: {message[:1].lower()}{message[1:]}. "
            "Correct it and send the request again.",
            target=where,
        ) from error


def merged(original: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """What was sent, completed by the model's defaults; members the model doesn't know are kept."""
    return {**original, **{name: _merged(original.get(name), value) for name, value in model.items()}}


def _merged(sent: Any, value: Any) -> Any:
    if isinstance(sent, dict) and isinstance(value, dict):
        return merged(sent, value)
    if isinstance(sent, list) and isinstance(value, list) and len(sent) == len(value):
        return [_merged(*pair) for pair in zip(sent, value, strict=True)]
    return value


def read_tags(body: dict[str, Any]) -> dict[str, str]:
    """The tags of a body: at most 50, names of up to 512 and values of up to 256 characters."""
    tags: dict[str, str] = converted(body.get("tags", {}), dict[str, str], "tags")
    if len(tags) > 50 or any(len(name) > 512 or len(value) > 256 for name, value in tags.items()):
        raise ArmError(
            "InvalidTags",
            "A resource takes at most 50 tags, with names of up to 512 and values of up to 256 characters.",
            target="tags",
        )
    return tags


def read_resource(declared: ResourceType, new: Resource, old: Resource | None, body: dict[str, Any]) -> None:
    """Fill `new` from a PUT's body. Raises 400 for what the declaration doesn't take, 409 for a change
    of what can't change."""
    given = body.get("properties")
    verbatim = {
        name: given[name]
        for name in declared.verbatim
        if isinstance(given, dict) and given.get(name) is not None
    }
    body = without_nulls(body)
    new.tags = read_tags(body)
    if declared.located:
        new.location = read_location(declared, body, old)
    sent = converted(body.get("properties", {}), dict[str, Any], "properties")
    for name in ("provisioningState", *declared.read_only):
        sent.pop(name, None)
    if old is not None:
        _keep_unsent(declared, sent, old)
    if declared.properties is not None:
        model = converted(sent, declared.properties, "properties")
        sent = merged(sent, without_nulls(msgspec.to_builtins(model)))
    new.properties = {**sent, **verbatim}
    for name, model in declared.envelope.items():
        if name in body:
            value = converted(body[name], model, name)
            new.extra[name] = (
                merged(body[name], without_nulls(msgspec.to_builtins(value)))
                if isinstance(body[name], dict)
                else body[name]
            )
    if old is not None:
        _refuse_changes(declared, new, old)
        for name, value in old.properties.items():
            if name in declared.read_only:
                new.properties[name] = value


def read_location(declared: ResourceType, body: dict[str, Any], old: Resource | None) -> str:
    """The region's short name. Raises 400 when missing or unknown, 409 when it differs from the old."""
    text = converted(body.get("location", old.location if old else None), str | None, "location")
    if not text:
        raise ArmError(
            "LocationRequired",
            f"The location property is required for '{declared.type}'. Give a region, such as 'westcentralus'.",
            target="location",
        )
    region = find_region(text)
    if region is None:
        raise ArmError(
            "LocationNotAvailableForResourceType",
            f"The provided location '{text}' is not available for resource type '{declared.type}'. "
            "List the regions by 'az account list-locations' and give one of them.",
            target="location",
        )
    if old is not None and old.location is not None and old.location != region.name:
        raise ArmError(
            "InvalidResourceGroupLocation" if declared.type == RESOURCE_GROUPS else "InvalidResourceLocation",
            f"The resource '{old.id.name}' already exists in location '{old.location}'. A resource with the same "
            f"name cannot be created in location '{region.name}'. Please select a new resource name.",
            target="location",
            status=409,
        )
    return region.name


def _keep_unsent(declared: ResourceType, sent: dict[str, Any], old: Resource) -> None:
    """What can't change and isn't sent stays as it is, rather than to become a default."""
    for path in declared.immutable:
        names = path.split(".")
        before = _member(old.properties, names)
        if before is None or _member(sent, names) is not None:
            continue
        holder: Any = sent
        for name in names[:-1]:
            holder = holder.setdefault(name, {}) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder[names[-1]] = before


def _refuse_changes(declared: ResourceType, new: Resource, old: Resource) -> None:
    for path in declared.immutable:
        names = path.split(".")
        before, after = _member(old.properties, names), _member(new.properties, names)
        if _folded(before) != _folded(after):
            raise ArmError(
                "PropertyChangeNotAllowed",
                f"Changing property '{path}' is not allowed. Leave it as it is, or create another resource.",
                target=path,
                status=409,
            )


def _member(value: Any, names: list[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower()
    if isinstance(value, dict):
        return {name: _folded(member) for name, member in value.items()}
    return value
