"""Merging: what a PATCH's body makes of a resource as it stands. RFC 7396, and what ARM adds to it."""

from typing import Any


def merge_patch(stored: Any, changes: Any) -> Any:
    """`stored` with `changes`; a null takes a member out. A member named by a resource's id is found in any case."""
    if not isinstance(changes, dict) or not isinstance(stored, dict):
        return changes
    result = dict(stored)
    for name, value in changes.items():
        known = _known(result, name)
        result[known] = None if value is None else merge_patch(result.get(known, {}), value)
    return result


def without_null_identities(changes: dict[str, Any]) -> dict[str, Any]:
    """A PATCH's body in which `identity.userAssignedIdentities: null` says nothing: `type` says which are kept."""
    identity = changes.get("identity")
    if not isinstance(identity, dict) or identity.get("userAssignedIdentities") is not None:
        return dict(changes)
    kept = {name: value for name, value in identity.items() if name != "userAssignedIdentities"}
    return {**changes, "identity": kept}


def _known(stored: dict[str, Any], name: str) -> str:
    if not name.startswith("/") or name in stored:
        return name
    return next((known for known in stored if known.lower() == name.lower()), name)
