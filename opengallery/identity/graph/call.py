"""GraphCall: one authenticated request, as the operations see it; and who may ask for what.

Anybody of a tenant may read its directory, and nobody else: what lies in another tenant is not there.
Who may write stands beside each operation, as one of the rights below.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection
from starlette.datastructures import QueryParams

from opengallery.database import Database
from opengallery.identity.client_secrets import SecretChecker
from opengallery.identity.directory import as_id
from opengallery.identity.graph.errors import bad_request, denied
from opengallery.identity.memberships import is_owner
from opengallery.identity.principal import Principal

MayAdminister = Callable[[Connection, Principal], bool]
EndSessions = Callable[[Connection, str], None]
HasOwner = Callable[[Connection, str], bool]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operation answers: JSON, a plain text, or nothing (204)."""

    content: dict[str, Any] | str | None = None
    status: int = 200


NOTHING = Answer(None, 204)


@dataclass
class GraphCall:
    """What an operation may use. `connection` is the open transaction, `key` the id that the path names.

    `prepared` is what the operation's preparation came to, before the transaction. `changed` collects the
    object ids of principals whose tokens have to be looked at anew.
    """

    principal: Principal
    key: str
    other_key: str
    query: QueryParams
    body: dict[str, Any]
    root: str
    database: Database
    checker: SecretChecker
    may_administer: MayAdminister
    end_sessions: EndSessions
    connection: Connection = field(init=False)
    prepared: Any = None
    changed: list[str] = field(default_factory=list)

    @property
    def tenant_id(self) -> str:
        """The caller's tenant: the only one that there is for this request."""
        return self.principal.tenant_id

    @property
    def is_administrator(self) -> bool:
        """Whether the caller may change everything in the directory of their tenant."""
        return self.may_administer(self.connection, self.principal)

    def context(self, kind: str) -> str:
        """The `@odata.context` of an answer."""
        return f"{self.root}/$metadata#{kind}"

    def text(self, name: str) -> str:
        """A text that the body must have. Raises `GraphError`."""
        value = self.body.get(name)
        if not isinstance(value, str) or not value:
            raise bad_request(f"A value is required for property '{name}' of the request: give a text.")
        return value

    def ends_access(self, object_id: str) -> None:
        """A principal was disabled, deleted or got another password: end its sessions with this change."""
        self.end_sessions(self.connection, object_id)
        self.changed.append(object_id)


Right = Callable[[GraphCall], None]


def anyone(call: GraphCall) -> None:
    """Everybody of the tenant."""


def administrator(call: GraphCall) -> None:
    """Administrators of the directory."""
    if not call.is_administrator:
        raise denied("Only an administrator of the directory may do this; ask one.")


def administrator_or_owner(call: GraphCall) -> None:
    """Administrators of the directory, and owners of the group or application that the path names."""
    if not is_owner(call.connection, as_id(call.key), call.principal.object_id) and not call.is_administrator:
        raise denied("Only an administrator of the directory or an owner may do this; ask one.")


def themselves(call: GraphCall) -> None:
    """The signed-in user, about themselves. A service principal has no /me."""
    if call.principal.kind != "User":
        raise bad_request(
            "/me request is only valid with delegated authentication flow: it is for users. "
            "A service principal asks for /servicePrincipals(appId='CLIENT ID')."
        )
