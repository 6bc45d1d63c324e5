"""Tokens for machines: `GET /metadata/identity/oauth2/token`.

Whoever runs in the guest gets one, as in Azure. It speaks for an identity that the machine has at that moment.
Source: Azure's documentation of managed identities, "How to use managed identities to get an access token".
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from opengallery.arm import resources
from opengallery.arm.resources import Resource
from opengallery.identity.directory import find_enabled_principal
from opengallery.identity.principal import Principal
from opengallery.identity.tokens import IssuedToken, UnknownResource
from opengallery.providers.compute import machine_identity
from opengallery.providers.compute.metadata.answer import MetadataError

Issue = Callable[[Principal, str], IssuedToken]

_CHOICES = {
    "client_id": "client_id",
    "object_id": "object_id",
    "principal_id": "object_id",
    "mi_res_id": "resource_id",
    "msi_res_id": "resource_id",
}


@dataclass(frozen=True)
class Candidate:
    """An identity that a machine may act as. `resource_id` is in lower case."""

    principal: Principal
    resource_id: str
    is_system: bool

    def fits(self, member: str, value: str) -> bool:
        """Whether it is the one that a request names."""
        ids = {
            "client_id": self.principal.app_id,
            "object_id": self.principal.object_id,
            "resource_id": self.resource_id,
        }
        return ids[member] == value.lower()


def token(
    connection: Connection, machine: Resource, query: Mapping[str, str], issue: Issue | None
) -> dict[str, Any]:
    """The token that the query asks for, as Azure's service answers it. Raises `MetadataError`."""
    resource = query.get("resource")
    if not resource:
        raise MetadataError(
            "Required query variable 'resource' is missing. Give the endpoint of the gallery."
        )
    if issue is None:
        raise MetadataError(
            "People sign in to this gallery at another issuer, which gives machines no tokens.", "unavailable"
        )
    principal = _chosen(list(_candidates(connection, machine)), query)
    try:
        issued = issue(principal, resource)
    except UnknownResource as error:
        raise MetadataError(
            f"AADSTS500011: The resource principal named {resource[:200]} was not found in the tenant "
            f"{principal.tenant_id}. Ask for the gallery's endpoint or https://management.azure.com/.",
            "invalid_resource",
        ) from error
    left_s = str(max(0, issued.expires_at - int(time.time())))
    return {
        "access_token": issued.text,
        "client_id": principal.app_id,
        "expires_in": left_s,
        "expires_on": str(issued.expires_at),
        "ext_expires_in": left_s,
        "not_before": str(issued.not_before),
        "resource": issued.resource,
        "token_type": "Bearer",
    }


def _chosen(candidates: list[Candidate], query: Mapping[str, str]) -> Principal:
    named = [(member, query[name]) for name, member in _CHOICES.items() if query.get(name)]
    if len(named) > 1:
        raise MetadataError("Give only one of client_id, object_id and mi_res_id.")
    if named:
        candidates = [candidate for candidate in candidates if candidate.fits(*named[0])]
    elif systems := [candidate for candidate in candidates if candidate.is_system]:
        candidates = systems[:1]
    if not candidates:
        raise MetadataError("Identity not found")
    if len({candidate.principal.object_id for candidate in candidates}) > 1:
        raise MetadataError(
            "Multiple user assigned identities exist, please specify the clientId / resourceId of the identity in "
            "the token request"
        )
    return candidates[0].principal


def _candidates(connection: Connection, machine: Resource) -> Iterator[Candidate]:
    """The identities that the machine has and that may act."""
    for holder, identity in machine_identity.identities(connection, machine):
        if principal := _principal(connection, identity.get("principalId")):
            yield Candidate(principal, holder, True)
        for resource_id, ids in identity.get("userAssignedIdentities", {}).items():
            # One that was deleted, and made again under its name, was never assigned.
            found = resources.get(connection, resource_id)
            is_same = found is not None and found.properties.get("principalId") == ids["principalId"]
            principal = _principal(connection, ids["principalId"]) if is_same else None
            if principal is not None:
                yield Candidate(principal, resource_id.lower(), False)


def _principal(connection: Connection, object_id: str | None) -> Principal | None:
    return find_enabled_principal(connection, object_id) if object_id else None
