"""Call: one authenticated request, as rules and views see it; and a durable work's view of the same."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, func, select

from opengallery.activity_log.events import Origin
from opengallery.arm import resources
from opengallery.arm.access import Assigned
from opengallery.arm.errors import ArmError, resource_not_found, subscription_not_found
from opengallery.arm.resource_id import MalformedId, ResourceId
from opengallery.arm.resource_type import Registry
from opengallery.arm.resources import Resource
from opengallery.arm.services import Services
from opengallery.identity.principal import Principal

T = TypeVar("T")


@dataclass
class Call:
    """What a rule, a view or an action may use: the open transaction, who asks from where, and the services."""

    connection: Connection
    principal: Principal
    services: Services
    registry: Registry
    query: Mapping[str, str] = field(default_factory=dict)
    base_url: str = ""
    origin: Origin = field(default_factory=Origin)
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    _authorized: tuple[str, ResourceId] | None = field(default=None, repr=False)

    def once(self, name: Hashable, find: Callable[[], T]) -> T:
        """What `find` finds, asked once in this transaction: for what many resources of one batch need."""
        if name not in self._known:
            self._known[name] = find()
        found: T = self._known[name]
        return found

    def get(self, resource_id: ResourceId | str) -> Resource | None:
        """A resource, or None."""
        return resources.get(self.connection, resource_id)

    def known(self, resource_id: ResourceId) -> Resource | None:
        """A resource that nothing in this transaction changes, read once however often it is asked for."""
        found: Resource | None = self._known.get(resource_id) or self.get(resource_id)
        self._known[resource_id] = found
        return found

    def option(self, name: str) -> str | None:
        """A parameter of the query (`$expand`), whose name may come in any case."""
        return next((value for known, value in self.query.items() if known.lower() == name), None)

    def lock(self, name: str) -> None:
        """Wait until no other transaction holds the lock `name`, and hold it until this one ends.

        PostgreSQL lets writing transactions run side by side; SQLite has one at a time, which is enough.
        """
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))

    @property
    def assigned(self) -> Assigned:
        """What the caller's role assignments allow, as this transaction sees them."""
        return self.once("assigned", lambda: Assigned(self.connection, self.principal))

    def may(self, action: str, scope: ResourceId) -> bool:
        """Whether the caller may take `action` at `scope`."""
        return self.assigned.may(action, scope)

    def authorize(self, action: str, scope: ResourceId) -> None:
        """Raise 403 `AuthorizationFailed` unless the caller may take `action` at `scope`.

        Who may do so in the whole tenant is told that a subscription is none of it: 404 `SubscriptionNotFound`.
        """
        self._authorized = (action, scope)
        if not self.may(action, scope):
            if scope.subscription and self.may(action, ResourceId()):
                raise subscription_not_found(scope.subscription)
            raise ArmError(
                "AuthorizationFailed",
                f"The client '{self.principal.app_id or self.principal.object_id}' with object id "
                f"'{self.principal.object_id}' does not have authorization to perform action '{action}' over "
                f"scope '{scope}' or the scope is invalid. If access was recently granted, please refresh "
                "your credentials.",
                status=403,
            )

    def linked(self, text: str, target: str, *types: str, action: str = "read") -> Resource:
        """The resource that a property names, on which the caller must be allowed `action` of its type.

        Raises 400 for a malformed id or a type not among `types`, 403 `LinkedAuthorizationFailed`,
        404 `NotFound` when it isn't there.
        """
        resource_id = parse_linked(text, target, *types)
        self.authorize_linked(f"{resource_id.type}/{action}", resource_id, target)
        found = self.get(resource_id)
        if found is None:
            error = resource_not_found(resource_id)
            error.target = target
            raise error
        return found

    def authorize_linked(self, action: str, scope: ResourceId, target: str) -> None:
        """Raise 403 `LinkedAuthorizationFailed` unless the caller may take `action` on what a property names."""
        if self.may(action, scope):
            return
        client = f"'{self.principal.app_id or self.principal.object_id}'"
        own = "permission to perform the requested action"
        if self._authorized is not None:
            own = "permission to perform action '{}' on scope '{}'".format(*self._authorized)
        raise ArmError(
            "LinkedAuthorizationFailed",
            f"The client {client} with object id '{self.principal.object_id}' has {own}; however, it does not have "
            f"permission to perform action '{action}' on the linked scope(s) '{scope}' or the linked scope(s) are "
            "invalid. Ask its owner for a role with that action there.",
            target=target,
            status=403,
        )


def parse_linked(text: str, target: str, *types: str) -> ResourceId:
    """Read an id that stands in a property. Raises 400 `LinkedInvalidPropertyId` or `InvalidParameter`."""
    try:
        resource_id = ResourceId.parse(text)
    except MalformedId as error:
        raise ArmError(
            "LinkedInvalidPropertyId",
            f"Property id '{text}' at path '{target}' is invalid. Expect fully qualified resource Id that start "
            "with '/subscriptions/{subscriptionId}' or '/providers/{resourceProviderNamespace}/'.",
            target=target,
        ) from error
    known = {kind.lower(): kind for kind in types}
    if types and resource_id.type.lower() not in known:
        raise ArmError(
            "InvalidParameter",
            f"'{text}' at '{target}' is a '{resource_id.type}'. Give the id of one of: {', '.join(types)}.",
            target=target,
        )
    return resource_id.spelled_as(known[resource_id.type.lower()]) if types else resource_id
