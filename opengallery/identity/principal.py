"""A principal: who a request comes from, and whom a role is assigned to."""

from dataclasses import dataclass
from typing import Literal

PrincipalKind = Literal["ServicePrincipal", "User", "Group"]


@dataclass(frozen=True, slots=True)
class Principal:
    """One principal of a tenant. `app_id` is the client id of a service principal, else `None`.

    `groups` are object ids of groups that its token names; those of the directory aren't among them.
    """

    object_id: str
    tenant_id: str
    kind: PrincipalKind
    app_id: str | None
    display_name: str
    groups: tuple[str, ...] = ()
