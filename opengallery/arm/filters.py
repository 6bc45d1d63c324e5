"""Filters of lists: `$filter=resourceGroup eq 'rg' and resourceType eq 'Microsoft.Compute/disks'`.

Clauses of `eq`, joined by `and`, which is all that az sends. A name in quotes or with a slash is a
path into the properties (`'virtualMachineScaleSet/id' eq '...'`). Values compare in any case.
Source: Resource Manager REST API, Resources - List.
"""

import re
from dataclasses import dataclass

from opengallery.arm.errors import ArmError
from opengallery.arm.resources import Resource
from opengallery.regions import find_region

_CLAUSE = re.compile(r"\s*(?:(\w+)|'?([\w/]+)'?)\s+eq\s+'((?:[^']|'')*)'\s*", re.IGNORECASE)
_NAMES = ("resourcegroup", "resourcetype", "name", "location", "tagname", "tagvalue")


@dataclass(frozen=True)
class Filter:
    """The clauses of one filter: names in lower case, values as given."""

    clauses: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> "Filter":
        """Read a `$filter`. Raises 400 `InvalidFilterInQueryString`."""
        if text is None or not text.strip():
            return cls()
        clauses = []
        for part in re.split(r"\s+and\s+(?=(?:[^']*'[^']*')*[^']*$)", text, flags=re.IGNORECASE):
            found = _CLAUSE.fullmatch(part)
            if found is None or (found[1] and found[1].lower() not in _NAMES):
                raise ArmError(
                    "InvalidFilterInQueryString",
                    f"The filter '{part}' can't be used. Write NAME eq 'VALUE', joined by 'and'; "
                    f"NAME is one of: resourceGroup, resourceType, name, location, tagName, tagValue.",
                    target="$filter",
                )
            clauses.append(((found[1] or found[2]).lower(), found[3].replace("''", "'")))
        return cls(tuple(clauses))

    @property
    def resource_type(self) -> str | None:
        """The type that the filter asks for, if it does."""
        return next((value for name, value in self.clauses if name == "resourcetype"), None)

    def matches(self, resource: Resource) -> bool:
        """Whether a resource fits every clause."""
        return all(_matches(resource, name, value.lower()) for name, value in self.clauses)


def _matches(resource: Resource, name: str, value: str) -> bool:
    if name == "resourcegroup":
        return (resource.id.resource_group or "").lower() == value
    if name == "resourcetype":
        return resource.id.type.lower() == value
    if name == "name":
        return value in (resource.id.name.lower(), "/".join(resource.id.names).lower())
    if name == "location":
        region = find_region(value)
        return region is not None and region.name == resource.location
    if name == "tagname":
        return value in {tag.lower() for tag in resource.tags}
    if name == "tagvalue":
        return value in {tag.lower() for tag in resource.tags.values()}
    found: object = resource.properties
    for step in name.split("/"):
        members = {key.lower(): member for key, member in found.items()} if isinstance(found, dict) else {}
        found = members.get(step)
    return isinstance(found, str) and found.lower() == value
