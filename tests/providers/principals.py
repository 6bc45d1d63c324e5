"""More tenants and principals on the server of these tests: each signs in with a real token."""

import dataclasses
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sqlalchemy import delete, insert

from opengallery.arm import access
from opengallery.identity.directory import find_principal, principals, subscriptions, tenants
from opengallery.identity.folder import IdentityFolder
from opengallery.identity.keys import SigningKeys
from opengallery.identity.tokens import Tokens

from .conftest import Api


@dataclass
class People:
    """Makes them; `forget` takes them away again."""

    api: Api
    made: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)

    def tenant(self) -> tuple[str, str]:
        """Another tenant with one subscription: their ids."""
        tenant_id, subscription_id = str(uuid.uuid4()), str(uuid.uuid4())
        with self.api.services.database.write() as connection:
            row = {"id": tenant_id, "display_name": "theirs", "administrator_id": str(uuid.uuid4())}
            connection.execute(insert(tenants).values(row))
            row = {"id": subscription_id, "tenant_id": tenant_id, "display_name": "theirs"}
            connection.execute(insert(subscriptions).values(row))
        self.tenants.append(tenant_id)
        return tenant_id, subscription_id

    def person(self, subscription: str, *roles: tuple[access.Role, str], tenant: str | None = None) -> Api:
        """A principal whose paths are relative to a subscription, with roles at scopes: its client."""
        settings, database = self.api.services.settings, self.api.services.database
        object_id, tenant = str(uuid.uuid4()), tenant or self.api.first.tenant_id
        self.made.append(object_id)
        with database.write() as connection:
            row = {"object_id": object_id, "tenant_id": tenant, "kind": "ServicePrincipal", "enabled": True}
            row |= {"app_id": str(uuid.uuid4()), "display_name": "somebody"}
            connection.execute(insert(principals).values(row))
            for role, scope in roles:
                access.assign(connection, object_id, role, scope.lower())
            principal = find_principal(connection, object_id)
        assert principal is not None
        tokens = Tokens(database, SigningKeys.open(IdentityFolder(settings.data)), settings.endpoint)
        first = dataclasses.replace(self.api.first, tenant_id=tenant, subscription_id=subscription)
        token = tokens.issue(principal, settings.endpoint).text
        return Api(self.api.client, self.api.services, first, token)

    def contributor(self, subscription: str, tenant: str | None = None) -> Api:
        """Who may write all in one subscription, and has no role anywhere else."""
        return self.person(
            subscription, (access.CONTRIBUTOR, f"/subscriptions/{subscription}"), tenant=tenant
        )

    def forget(self) -> None:
        """Take away what was made."""
        assignments = access.role_assignments
        with self.api.services.database.write() as connection:
            connection.execute(delete(assignments).where(assignments.c.principal_id.in_(self.made)))
            connection.execute(delete(principals).where(principals.c.object_id.in_(self.made)))
            connection.execute(delete(subscriptions).where(subscriptions.c.tenant_id.in_(self.tenants)))
            connection.execute(delete(tenants).where(tenants.c.id.in_(self.tenants)))


@contextmanager
def people_of(server: Api) -> Iterator[People]:
    """Tenants and principals that go when it ends."""
    people = People(server)
    yield people
    people.forget()
